-- Which answers without a command_id are one answer that several workers heard. Every worker's session at the broker
-- brings it the same messages, in the same order and also those of a time when no process had it; so the n-th of one
-- session is the n-th of another, however late it is. An answer is thus told from its echoes by session, which the MQTT
-- client id names, not by process: a process that goes on with its predecessor's session hears what that has not heard.
--
-- Two things are otherwise. A session that began lately never brings what was said before it: so an answer is recorded
-- with the moment at which its worker heard it, and heard_for says for how many seconds a session has listened, if that
-- is known. And what the broker marks as delivered again may be what the predecessor recorded: then the process alone
-- counts, and the predecessor's record stands for an echo for a minute.

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
  select coalesce(clock_timestamp() - make_interval(secs => (p_ack ->> 'heard_for')::double precision), '-infinity')
$$;

-- The answer by which another worker already brought this message, oldest first; no row: it is news. Each answer stands
-- for one message: what this session has heard too is not counted again, so a device may repeat its words.
-- p_sent_at: when the device was sent what is now in question.
create or replace function mqtt_private.fn_find_same_answer(
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
drop function if exists mqtt_private.fn_find_same_answer(text, uuid, text, timestamptz);

-- When the device was sent what this answer without an id is about; -infinity where there is nothing.
create or replace function mqtt_private.fn_sent_at(p_ack jsonb, p_device_id uuid) returns timestamptz
language plpgsql volatile set search_path = ''
as $$
declare
  v_command constant public.device_commands := mqtt_private.fn_find_acknowledged_command(p_ack, p_device_id);
  v_reply constant mqtt_private.replies :=
    mqtt_private.fn_find_acknowledged_reply(p_ack, p_device_id, v_command);
begin
  return case
    when v_reply.reply_id is not null then v_reply.said_at
    when v_command.command_id is null then '-infinity'
    else coalesce(v_command.delivered_at, clock_timestamp()) end;
end
$$;

-- One answer, used once. Its device's row is locked, so two workers take turns here.
create or replace function mqtt_private.fn_answer_once(
  p_ack jsonb, p_worker text, p_max_retries int, p_delay interval) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_result jsonb;
  v_same mqtt_private.command_answers;
  v_ref constant text := p_ack ->> 'ref';
  v_device_id constant uuid := mqtt_private.fn_find_device(p_ack ->> 'topic_id');
  v_digest constant text := case
    when p_ack ->> 'command_id' is null and p_worker is not null
      and (p_ack -> 'shared') is distinct from 'true'::jsonb -- one worker alone hears what is shared
    then md5(mqtt_private.fn_device_key(p_ack ->> 'topic_id') || (p_ack -> 'response')::text) end;
begin
  select result into v_result from mqtt_private.command_answers where ref = v_ref;
  if found then
    return v_result;
  end if;
  v_same := mqtt_private.fn_find_same_delivery(p_ack);
  if v_same.ref is null and v_digest is not null then
    v_same := mqtt_private.fn_find_same_answer(
      p_ack, p_worker, v_device_id, v_digest, mqtt_private.fn_sent_at(p_ack, v_device_id));
  end if;
  if v_same.ref is not null then
    v_result := v_same.result || jsonb_build_object('ref', v_ref, 'result', 'duplicate');
  else
    v_result := mqtt_private.fn_acknowledge_command(p_ack, p_max_retries, p_delay);
  end if;
  if v_ref is not null then
    insert into mqtt_private.command_answers (ref, worker, device_id, digest, answered_at, result, repeats, delivery)
    values (v_ref, coalesce(p_worker, ''), v_device_id, v_digest,
      clock_timestamp() - make_interval(secs => coalesce((p_ack ->> 'heard_ago')::double precision, 0)), v_result,
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

-- Writes devices' answers into their commands, in the order given.
-- p_acks: [{ref, topic_root, topic_id, command_id?, command_type?, outcome: success|failed|rejected, message?,
-- response, shared?, delivery?, redelivered?, heard_ago?, heard_for?}]; command_id may be any text. failed counts and is
-- tried again like any failure. ref names one message in one process, in all of them together ("<worker>:<n>"); for an
-- hour the same ref gets the same result and changes nothing. shared: true if one worker alone heard it. delivery and
-- redelivered: the broker's own name of the message, and whether it may have come before. heard_ago: seconds since the
-- worker heard it. heard_for: for how many seconds its session has listened, where that is known. p_worker: "<client
-- id>:<process>"; without it, the same message from two workers is two answers.
-- Returns, in order, [{ref, result, command_id, command_type, device_id, device_code, status, retry_count}]; result is
-- acknowledged | failed | rejected, reply (it was about no command), duplicate (it said so before), ignored (the state
-- stands), unknown_device, unknown_command or wrong_device.
--
-- A transaction that holds one device's row would keep all answers waiting, so nothing is waited for longer than
-- lock_timeout. The caller gets 55P03, nothing has changed, and it can send smaller parts.
create or replace function public.fn_acknowledge_commands(
  p_acks jsonb,
  p_max_retries int default 3,
  p_retry_delay_seconds double precision default 30,
  p_worker text default null
) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
as $$
declare
  v_ack jsonb;
  v_results jsonb[] := '{}';
begin
  -- In a statement of its own: a lock that is one step of a larger statement may be left out by its plan.
  perform mqtt_private.fn_lock_devices(array(
    select mqtt_private.fn_find_device(topic_id) from jsonb_to_recordset(p_acks) as a (topic_id text)));
  perform mqtt_private.fn_note_devices_heard(p_acks);
  for v_ack in select value from jsonb_array_elements(p_acks) with ordinality order by ordinality loop
    v_results := v_results || mqtt_private.fn_answer_once(
      v_ack, p_worker, p_max_retries, make_interval(secs => p_retry_delay_seconds));
  end loop;
  perform mqtt_private.fn_forget_old_answers();
  return to_jsonb(v_results);
end
$$;

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_session_of(text)',
    'mqtt_private.fn_session_began(jsonb)',
    'mqtt_private.fn_find_same_answer(jsonb, text, uuid, text, timestamptz)',
    'mqtt_private.fn_sent_at(jsonb, uuid)',
    'mqtt_private.fn_answer_once(jsonb, text, int, interval)',
    'mqtt_private.fn_forget_old_answers()',
    'public.fn_acknowledge_commands(jsonb, int, double precision, text)'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;
