-- The devices' answers: acknowledgements become states of public.device_commands.
--
-- Which command is meant: the one named by command_id, if it belongs to the device; else the command most recently
-- sent to the device (of the type that is named); else the one being sent to it this moment, since a device can
-- answer before the worker has settled.
--
-- A success is true whenever it comes: it makes also an expired or failed command acknowledged. Nothing revives a
-- cancelled or rejected one.
--
-- An answer is used once. The same ref again is the same call, whose response was lost. And every worker hears every
-- message, so without a command_id the same words of a device, heard by two workers, are one answer: else the second
-- would acknowledge the command before.

-- What was answered in the last hour. repeats: the ref under which another worker had brought the same message.
create table if not exists mqtt_private.command_answers (
  ref text primary key,
  worker text not null,
  device_id uuid,
  digest text,
  answered_at timestamptz not null default now(),
  result jsonb,
  repeats text
);
create index if not exists command_answers_answered_at_idx on mqtt_private.command_answers (answered_at);
create index if not exists command_answers_digest_idx
  on mqtt_private.command_answers (device_id, digest, answered_at);
alter table mqtt_private.command_answers enable row level security;
revoke all on table mqtt_private.command_answers from public, anon, authenticated;
grant select, insert, update, delete on table mqtt_private.command_answers to service_role;

-- The device that speaks under this id, in whatever spelling of its MAC. An adopted table may hold a device twice:
-- then the one that is spelled alike, is active, or is older.
create or replace function mqtt_private.fn_find_device(p_topic_id text) returns uuid
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select device_id from public.devices
    where mqtt_private.fn_device_key(device_mac) = mqtt_private.fn_device_key(p_topic_id)
    order by device_mac = p_topic_id desc, is_active is true desc, created_at, device_id
    limit 1);
end
$$;

-- Notes how the devices spell themselves and that they were heard (at most once a minute). Their rows are locked.
create or replace function mqtt_private.fn_touch_devices(p_acks jsonb) returns void
language sql volatile set search_path = ''
as $$
  with heard as materialized (
    select distinct on (device_id) device_id, topic_root, topic_id
    from (
      select mqtt_private.fn_find_device(topic_id) as device_id, a.*
      from rows from (jsonb_to_recordset(p_acks) as (topic_root text, topic_id text))
        with ordinality as a (topic_root, topic_id, place)) speakers
    order by device_id, place desc
  )
  update public.devices d
  set mqtt_id = h.topic_id, last_seen_at = now(),
      mqtt_root = case when h.topic_root in ('device', 'ESP32CAM') then h.topic_root else d.mqtt_root end
  from heard h
  where d.device_id = h.device_id
    and (d.mqtt_id is distinct from h.topic_id or d.mqtt_root is distinct from h.topic_root
      or d.last_seen_at is null or d.last_seen_at < now() - interval '1 minute')
$$;

-- The command an answer means, by the rule at the head of this file; no row if there is none.
create or replace function mqtt_private.fn_find_acknowledged_command(p_ack jsonb, p_device_id uuid)
returns public.device_commands
language plpgsql stable set search_path = ''
as $$
declare
  v_command public.device_commands;
  v_id constant text := p_ack ->> 'command_id';
  v_type constant text := p_ack ->> 'command_type';
begin
  if v_id is not null then
    if v_id ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
      select * into v_command from public.device_commands where command_id = v_id::uuid;
    end if;
    return v_command;
  end if;

  select * into v_command from public.device_commands
  where device_id = p_device_id and status = 'sent' and (v_type is null or command_type = v_type)
  order by delivered_at desc nulls last, priority, issued_at desc, issue_number desc limit 1;
  if found then
    return v_command;
  end if;

  select * into v_command from public.device_commands
  where device_id = p_device_id and status = 'pending' and due_at is not null and lease_until is not null
    and (v_type is null or command_type = v_type)
  order by lease_until desc, priority, issued_at desc, issue_number desc limit 1;
  return v_command;
end
$$;

-- What an answer does to a command in this state. p_attempt 0: it was never given to a worker, so a device can not
-- have failed at it.
create or replace function mqtt_private.fn_effect_of_acknowledgement(p_outcome text, p_status text, p_attempt bigint)
returns text
language sql immutable set search_path = ''
as $$
  select case p_outcome
    when 'success' then case
      when p_status in ('pending', 'sent', 'failed', 'expired') then 'acknowledged'
      when p_status = 'acknowledged' then 'duplicate' end
    when 'failed' then case
      when p_status = 'sent' or (p_status = 'pending' and p_attempt > 0) then 'failed'
      when p_status = 'failed' then 'duplicate' end
    when 'rejected' then case
      when p_status in ('sent', 'failed') or (p_status = 'pending' and p_attempt > 0) then 'rejected'
      when p_status = 'rejected' then 'duplicate' end
  end
$$;

-- One answer of one device, whose row is locked.
create or replace function mqtt_private.fn_acknowledge_command(p_ack jsonb, p_max_retries int, p_delay interval)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_result text;
  v_device public.devices;
  v_command public.device_commands;
  v_message constant text := left(nullif(trim(p_ack ->> 'message'), ''), 1000);
begin
  select * into v_device from public.devices
  where device_id = mqtt_private.fn_find_device(p_ack ->> 'topic_id');
  v_command := mqtt_private.fn_find_acknowledged_command(p_ack, v_device.device_id);
  v_result := case
    when v_device.device_id is null then 'unknown_device'
    when v_command.command_id is null then 'unknown_command'
    when v_command.device_id <> v_device.device_id then 'wrong_device' end;
  if v_result is null then
    -- A cancel or a settle may be under way: decide on what the row says once it is ours.
    select * into v_command from public.device_commands where command_id = v_command.command_id for update;
    v_result := coalesce(
      mqtt_private.fn_effect_of_acknowledgement(p_ack ->> 'outcome', v_command.status, v_command.attempt), 'ignored');
  end if;

  if v_result in ('acknowledged', 'failed', 'rejected') then
    update public.device_commands
    set status = v_result, response = p_ack -> 'response', lease_worker = null, lease_until = null,
        delivered_at = coalesce(delivered_at, now()),
        acknowledged_at = case v_result when 'acknowledged' then now() else acknowledged_at end,
        retry_count = retry_count + case v_result when 'failed' then 1 else 0 end,
        last_error = case v_result
          when 'failed' then 'the device reports failure' || coalesce(': ' || v_message, '')
          when 'rejected' then 'the device refuses' || coalesce(': ' || v_message, '') end,
        due_at = case when v_result = 'failed' and retry_count + 1 < p_max_retries then now() + p_delay end
    where command_id = v_command.command_id
    returning * into v_command;
  end if;

  if v_result in ('unknown_device', 'wrong_device') then
    v_command := null; -- nothing of another device's command is told
  end if;
  return jsonb_build_object(
    'ref', p_ack ->> 'ref', 'result', v_result, 'command_id', v_command.command_id,
    'command_type', v_command.command_type, 'device_id', v_device.device_id, 'device_code', v_device.device_code,
    'status', v_command.status, 'retry_count', v_command.retry_count);
end
$$;

-- The answer by which another worker already brought this message, oldest first; no row: it is news. Each answer
-- stands for one message: what this worker has heard too is not counted again, so a device may repeat its words.
-- An answer that was there before p_sent_at, when the command now in question was sent, cannot have been to it: a
-- worker that has just started would else take the first answers it hears for those of its predecessor.
create or replace function mqtt_private.fn_find_duplicate_acknowledgement(
  p_worker text, p_device_id uuid, p_digest text, p_sent_at timestamptz)
returns mqtt_private.command_answers
language sql volatile set search_path = ''
as $$
  select theirs.*
  from mqtt_private.command_answers theirs
  where theirs.device_id = p_device_id and theirs.digest = p_digest
    and theirs.answered_at > clock_timestamp() - interval '1 minute'
    and theirs.answered_at >= p_sent_at
    and theirs.worker <> p_worker and theirs.repeats is null
    and not exists (
      select from mqtt_private.command_answers ours
      where ours.device_id = p_device_id and ours.digest = p_digest
        and ours.worker = p_worker and ours.repeats = theirs.ref)
  order by theirs.answered_at limit 1
$$;

-- One answer, used once; see the head of this file. Its device's row is locked, so two workers take turns here.
create or replace function mqtt_private.fn_acknowledge_once(
  p_ack jsonb, p_worker text, p_max_retries int, p_delay interval) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_result jsonb;
  v_same mqtt_private.command_answers;
  v_command public.device_commands;
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
  if v_digest is not null then
    v_command := mqtt_private.fn_find_acknowledged_command(p_ack, v_device_id);
    v_same := mqtt_private.fn_find_duplicate_acknowledgement(p_worker, v_device_id, v_digest, case
      when v_command.command_id is null then '-infinity'
      else coalesce(v_command.delivered_at, clock_timestamp()) end);
  end if;
  if v_same.ref is not null then
    v_result := v_same.result || jsonb_build_object('ref', v_ref, 'result', 'duplicate');
  else
    v_result := mqtt_private.fn_acknowledge_command(p_ack, p_max_retries, p_delay);
  end if;
  if v_ref is not null then
    insert into mqtt_private.command_answers (ref, worker, device_id, digest, answered_at, result, repeats)
    values (v_ref, coalesce(p_worker, ''), v_device_id, v_digest, clock_timestamp(), v_result, v_same.ref)
    on conflict (ref) do nothing;
  end if;
  return v_result;
end
$$;

create or replace function mqtt_private.fn_forget_old_answers() returns void
language sql volatile set search_path = ''
as $$
  delete from mqtt_private.command_answers where ref = any (array(
    select ref from mqtt_private.command_answers
    where answered_at < now() - interval '1 hour' order by answered_at limit 1000
    for update skip locked))
$$;

-- Writes devices' answers into their commands, in the order given.
-- p_acks: [{ref, topic_root, topic_id, command_id?, command_type?, outcome: success|failed|rejected, message?,
-- response, shared?}]; command_id may be any text. failed counts and is tried again like any failure.
-- ref names one message in one process, in all of them together ("<worker>:<n>"); for an hour the same ref gets the
-- same result and changes nothing. shared: true if one worker alone heard it. p_worker as in fn_claim_commands;
-- without it, the same message from two workers is two answers.
-- Returns, in order, [{ref, result, command_id, command_type, device_id, device_code, status, retry_count}]; result is
-- acknowledged | failed | rejected, duplicate (it said so before), ignored (the state stands), unknown_device,
-- unknown_command or wrong_device.
--
-- A transaction that holds one device's row would keep all answers waiting, so nothing is waited for longer than
-- lock_timeout. The caller gets 55P03, nothing has changed, and it can send smaller parts.
drop function if exists public.fn_acknowledge_commands(jsonb, int, double precision);
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
  perform mqtt_private.fn_touch_devices(p_acks);
  for v_ack in select value from jsonb_array_elements(p_acks) with ordinality order by ordinality loop
    v_results := v_results || mqtt_private.fn_acknowledge_once(
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
    'mqtt_private.fn_find_device(text)',
    'mqtt_private.fn_touch_devices(jsonb)',
    'mqtt_private.fn_find_acknowledged_command(jsonb, uuid)',
    'mqtt_private.fn_effect_of_acknowledgement(text, text, bigint)',
    'mqtt_private.fn_acknowledge_command(jsonb, int, interval)',
    'mqtt_private.fn_find_duplicate_acknowledgement(text, uuid, text, timestamptz)',
    'mqtt_private.fn_acknowledge_once(jsonb, text, int, interval)',
    'mqtt_private.fn_forget_old_answers()',
    'public.fn_acknowledge_commands(jsonb, int, double precision, text)'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;
