-- Which answers are one answer that several workers heard. Every worker's session at the broker brings it the same
-- messages, in the same order and also those of a time when no process had it; so the n-th of one session is the n-th
-- of another, however late it is. An answer is thus told from its echoes by session, which the MQTT client id names,
-- not by process: a process that goes on with its predecessor's session hears what that has not heard.
--
-- An answer without an id is for what was sent last. While another worker is sending to the device, nobody else can
-- tell what that is: the result is then `early`, nothing is recorded, and the worker asks again a moment later.
--
-- An element of p_acks (public.fn_acknowledge_commands) may say besides: received_seconds_ago, the seconds since its worker heard
-- it, and session_seconds, the seconds for which the worker's session has listened, where that is known. p_worker is named
-- "<client id>:<process>". The result may also be `reply` (the answer was about no command) or `early`.
--
-- Two things are otherwise. A session that began lately never brings what was heard before it. And what the broker
-- marks as delivered again may be what the predecessor recorded: then the process alone counts, and the predecessor's
-- record stands for an echo for a minute.

create index if not exists command_answers_repeats_idx
  on mqtt_private.command_answers (repeats) where repeats is not null;

-- The session that a process named "<client id>:<process>" goes by.
create or replace function mqtt_private.fn_session_of(p_worker text) returns text
language sql immutable set search_path = ''
as $$ select regexp_replace(p_worker, ':[^:]*$', '') $$;

-- The moment when an answer's session began; -infinity where that is not known, so long ago.
create or replace function mqtt_private.fn_session_began(p_ack jsonb) returns timestamptz
language sql volatile set search_path = ''
as $$
  select coalesce(clock_timestamp() - make_interval(secs => (p_ack ->> 'session_seconds')::double precision), '-infinity')
$$;

-- The answer by which another worker already brought this message, oldest first; no row: it is news. Each answer stands
-- for one message: what this session has heard too is not counted again, so a device may repeat its words.
-- p_sent_at: when the device was sent what is now in question.
create or replace function mqtt_private.fn_find_duplicate_acknowledgement(
  p_ack jsonb, p_worker text, p_device_id uuid, p_digest text, p_sent_at timestamptz)
returns mqtt_private.command_answers
language plpgsql volatile set search_path = ''
as $$
declare
  v_same mqtt_private.command_answers;
  v_session constant text := mqtt_private.fn_session_of(p_worker);
  v_again constant boolean := coalesce((p_ack ->> 'redelivered')::boolean, false);
  v_since constant timestamptz := greatest(
    clock_timestamp() - interval '70 minutes', mqtt_private.fn_session_began(p_ack));
  v_since_of_predecessor constant timestamptz := greatest(clock_timestamp() - interval '1 minute', p_sent_at);
begin
  select theirs.* into v_same
  from mqtt_private.command_answers theirs
  where theirs.device_id = p_device_id and theirs.digest = p_digest and theirs.repeats is null
    and case
      when mqtt_private.fn_session_of(theirs.worker) <> v_session then theirs.answered_at >= v_since
      else v_again and theirs.worker <> p_worker and theirs.answered_at >= v_since_of_predecessor end
    and not exists (
      select from mqtt_private.command_answers ours
      where ours.repeats = theirs.ref
        and case when v_again then ours.worker = p_worker
          else mqtt_private.fn_session_of(ours.worker) = v_session end)
  order by theirs.answered_at limit 1;
  return v_same;
end
$$;
drop function if exists mqtt_private.fn_find_duplicate_acknowledgement(text, uuid, text, timestamptz);

-- Whether it cannot be told yet what an answer without an id is about; that is waited for 5 seconds.
create or replace function mqtt_private.fn_is_early(p_ack jsonb, p_device_id uuid, p_worker text) returns boolean
language plpgsql volatile set search_path = ''
as $$
begin
  return p_ack ->> 'command_id' is null
    and mqtt_private.fn_heard_at(p_ack) > clock_timestamp() - interval '5 s'
    and exists (
      select from public.device_commands
      where device_id = p_device_id and lease_until > clock_timestamp() and lease_worker <> p_worker);
end
$$;

-- One answer, used once. Its device's row is locked, so two workers take turns here.
create or replace function mqtt_private.fn_acknowledge_once(
  p_ack jsonb, p_worker text, p_max_retries int, p_delay interval) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_result jsonb;
  v_same mqtt_private.command_answers;
  v_command public.device_commands;
  v_reply mqtt_private.replies;
  v_ref constant text := p_ack ->> 'ref';
  v_device_id constant uuid := mqtt_private.fn_find_device(p_ack ->> 'topic_id');
  v_digest constant text := case
    when p_worker is not null and (p_ack -> 'shared') is distinct from 'true'::jsonb -- one worker hears what is shared
    then md5(mqtt_private.fn_device_key(p_ack ->> 'topic_id') || (p_ack -> 'response')::text) end;
begin
  select result into v_result from mqtt_private.command_answers where ref = v_ref;
  if found then
    return v_result;
  end if;
  if mqtt_private.fn_is_early(p_ack, v_device_id, p_worker) then
    return jsonb_build_object('ref', v_ref, 'result', 'early', 'device_id', v_device_id);
  end if;
  v_command := mqtt_private.fn_find_acknowledged_command(p_ack, v_device_id);
  v_reply := mqtt_private.fn_find_acknowledged_reply(p_ack, v_device_id, v_command);
  v_same := mqtt_private.fn_find_redelivered_acknowledgement(p_ack);
  if v_same.ref is null and v_digest is not null then
    v_same := mqtt_private.fn_find_duplicate_acknowledgement(p_ack, p_worker, v_device_id, v_digest, case
      when v_reply.reply_id is not null then v_reply.said_at
      when v_command.command_id is null then '-infinity'
      else coalesce(v_command.delivered_at, clock_timestamp()) end);
  end if;
  v_result := case
    when v_same.ref is not null then v_same.result || jsonb_build_object('ref', v_ref, 'result', 'duplicate')
    when v_reply.reply_id is not null then mqtt_private.fn_acknowledge_reply(p_ack, v_reply)
    else mqtt_private.fn_acknowledge_command(p_ack, p_max_retries, p_delay) end;
  if v_ref is not null then
    insert into mqtt_private.command_answers (ref, worker, device_id, digest, answered_at, result, repeats, delivery)
    values (v_ref, coalesce(p_worker, ''), v_device_id, v_digest, mqtt_private.fn_heard_at(p_ack), v_result,
      coalesce(v_same.repeats, v_same.ref), p_ack ->> 'delivery')
    on conflict (ref) do nothing;
  end if;
  return v_result;
end
$$;

-- A session outlives its process by an hour, and then takes a while to bring what it kept.
create or replace function mqtt_private.fn_forget_old_answers() returns void
language sql volatile set search_path = ''
as $$
  delete from mqtt_private.command_answers where ref = any (array(
    select ref from mqtt_private.command_answers
    where answered_at < now() - interval '70 minutes' order by answered_at limit 1000
    for update skip locked))
$$;

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_session_of(text)',
    'mqtt_private.fn_session_began(jsonb)',
    'mqtt_private.fn_is_early(jsonb, uuid, text)',
    'mqtt_private.fn_find_duplicate_acknowledgement(jsonb, text, uuid, text, timestamptz)',
    'mqtt_private.fn_acknowledge_once(jsonb, text, int, interval)',
    'mqtt_private.fn_forget_old_answers()'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;
