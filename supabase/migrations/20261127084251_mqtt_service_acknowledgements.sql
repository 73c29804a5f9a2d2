-- Acknowledgements: the devices' answers, as they become states of public.device_commands.
--
-- Which command is meant. The one named by command_id, if it belongs to the device. An answer without an id is for what
-- the device was sent last (of the type that is named), be it a command or a reply. A device can answer before the
-- worker has settled, so a command that is being sent this moment counts too. While another worker is sending to the
-- device, nobody else can tell what was sent last: the result is then `early`, nothing is recorded, and the worker asks
-- again a moment later.
--
-- Replies are what a device is sent without a row of device_commands, in answer to its HELLO or about its pictures. A
-- device that answers without a command_id acknowledges them like commands. So they are recorded before they are
-- published (fn_record_replies), for all workers to know.
--
-- What an answer does. A success is true whenever it comes: it also makes an expired or failed command acknowledged.
-- Nothing revives a cancelled or rejected command.
--
-- An answer is used once, though it can reach the database several times:
--   * The worker repeats a call whose response was lost: then the ref is the same.
--   * Every worker receives every message. The broker keeps a session for each worker's MQTT client id, and every
--     session brings the same messages in the same order, however late. So of the same words of one device, the n-th of
--     one session is the n-th of any other. Sessions are compared, not processes: a new process goes on with the
--     session of the one before it, and receives what that did not. A session that began lately brings nothing older.
--   * A broker that got no acknowledgement for a message delivers it again, to the next process of the session; the
--     process before may have recorded the answer and died a moment later. So an answer carries its delivery: session,
--     packet id (the same each time) and a digest of the bytes. Where a broker may use a packet id again at once, the
--     worker leaves the delivery out: then a redelivered answer counts as the predecessor's for a minute.
--
-- A session outlives its process by an hour, and then takes a while to bring what it kept: records stay for 70 minutes.

-- Tables -------------------------------------------------------------------------------------------------------

call mqtt_private.create_table('mqtt_private.acknowledgements', null, $$
  ref text primary key,       -- one message in one process, unique over all of them
  worker text not null,
  device_id uuid,
  digest text,                -- of what the device said; null: no other worker received it
  delivery text,              -- null: unknown
  duplicate_of text,          -- the ref under which another worker had brought the same message
  result jsonb,
  received_at timestamptz not null default now()
$$);
-- the records to delete
create index if not exists acknowledgements_received_at_idx on mqtt_private.acknowledgements (received_at);
-- the same words of the same device
create index if not exists acknowledgements_digest_idx
  on mqtt_private.acknowledgements (device_id, digest, received_at);
-- the same delivery
create index if not exists acknowledgements_delivery_idx
  on mqtt_private.acknowledgements (delivery, received_at) where delivery is not null;
-- who else brought a message
create index if not exists acknowledgements_duplicate_of_idx
  on mqtt_private.acknowledgements (duplicate_of) where duplicate_of is not null;
grant select, insert, update, delete on table mqtt_private.acknowledgements to service_role;

call mqtt_private.create_table('mqtt_private.replies', null, $$
  reply_id uuid primary key,  -- the command_id under which it is sent
  device_id uuid not null references public.devices (device_id) on delete cascade,
  reply_type text not null,   -- as a command_type
  sent_at timestamptz not null default clock_timestamp()
$$);
-- what a device was sent last
create index if not exists replies_device_idx on mqtt_private.replies (device_id, sent_at);
grant select, insert, update, delete on table mqtt_private.replies to service_role;

-- Which command or reply is meant ------------------------------------------------------------------------------

-- The command that an answer without an id means, of the type that is named, if one is: the one delivered last, also
-- where it is due again or expired meanwhile; once that has had its answer, the one before it that waits for one.
-- p_standby: another service uses the device's answers too. One that it has used is not for an earlier command.
create or replace function mqtt_private.fn_find_command_sent_last(p_device_id uuid, p_type text, p_standby boolean)
returns public.device_commands
language plpgsql stable set search_path = public, extensions as $$
declare
  v_last public.device_commands;
  v_command public.device_commands;
begin
  select * into v_last from public.device_commands
  where device_id = p_device_id and in_queue and delivered_at is not null and (p_type is null or command_type = p_type)
  order by delivered_at desc, priority, issued_at desc, issue_number desc limit 1;
  if v_last.status in ('sent', 'pending', 'expired', 'cancelled') or p_standby then return v_last; end if;

  select * into v_command from public.device_commands
  where device_id = p_device_id and in_queue and delivered_at is not null and status in ('sent', 'pending')
    and (p_type is null or command_type = p_type)
  order by delivered_at desc, priority, issued_at desc, issue_number desc limit 1;
  if found then return v_command; end if;

  -- Being sent this moment, or given back because the broker did not confirm it: the device may have it.
  select * into v_command from public.device_commands
  where device_id = p_device_id and status = 'pending' and due_at is not null and attempt > 0
    and (p_type is null or command_type = p_type)
  order by lease_until desc nulls last, priority, issued_at desc, issue_number desc limit 1;
  if found then return v_command; end if;
  return case when v_last.status = 'failed' then v_last end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_command_sent_last', 'service_role');

-- The command that an answer means; a row of nulls if there is none.
create or replace function mqtt_private.fn_find_acknowledged_command(p_ack jsonb, p_device_id uuid)
returns public.device_commands
language plpgsql stable set search_path = public, extensions as $$
declare
  v_command public.device_commands;
  v_id constant text := p_ack ->> 'command_id';
begin
  if v_id is null then
    return mqtt_private.fn_find_command_sent_last(
      p_device_id, p_ack ->> 'command_type', coalesce((p_ack ->> 'standby')::boolean, false));
  end if;
  if v_id ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
    select * into v_command from public.device_commands where command_id = v_id::uuid;
  end if;
  return v_command;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_acknowledged_command', 'service_role');

-- The reply that an answer without an id means: one sent after p_command, and not long before the answer was received,
-- since a broker keeps a reply for a minute. Where the command is being sent this moment, the device may not have it
-- yet: then a reply of the last 5 seconds is meant.
create or replace function mqtt_private.fn_find_acknowledged_reply(
  p_ack jsonb, p_device_id uuid, p_command public.device_commands, p_received_at timestamptz)
returns mqtt_private.replies
language sql stable set search_path = '' as $$
  select r.*
  from mqtt_private.replies r
  where r.device_id = p_device_id and p_ack ->> 'command_id' is null
    and (p_ack ->> 'command_type' is null or r.reply_type = p_ack ->> 'command_type')
    and r.sent_at between p_received_at - interval '90 s' and p_received_at
    and r.sent_at > case when (p_command).status = 'pending' then p_received_at - interval '5 s'
      else coalesce((p_command).delivered_at, '-infinity') end
  order by r.sent_at desc limit 1
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_acknowledged_reply', 'service_role');

-- Whether it cannot be told yet what an answer without an id is about. After 5 seconds it is decided anyway.
create or replace function mqtt_private.fn_is_early(
  p_ack jsonb, p_device_id uuid, p_worker text, p_received_at timestamptz) returns boolean
language plpgsql volatile set search_path = public, extensions as $$
begin
  return p_ack ->> 'command_id' is null
    and p_received_at > clock_timestamp() - interval '5 s'
    and exists (
      select from public.device_commands
      where device_id = p_device_id and lease_until > clock_timestamp() and lease_worker <> p_worker);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_early', 'service_role');

-- Which answers are duplicates ---------------------------------------------------------------------------------

-- The record of the same delivery, of the last hour; a row of nulls: it was not recorded.
create or replace function mqtt_private.fn_find_redelivered_acknowledgement(p_ack jsonb)
returns mqtt_private.acknowledgements
language sql volatile set search_path = '' as $$
  select *
  from mqtt_private.acknowledgements
  where delivery = p_ack ->> 'delivery' and p_ack -> 'redelivered' = 'true'::jsonb
    and received_at > clock_timestamp() - interval '1 hour'
  order by received_at desc limit 1
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_redelivered_acknowledgement', 'service_role');

-- The client id of a worker named "<client id>:<process>": it names the session at the broker.
create or replace function mqtt_private.fn_client_id_of(p_worker text) returns text
language sql immutable set search_path = '' as $$ select regexp_replace(p_worker, ':[^:]*$', '') $$;
call mqtt_private.grant_execute('mqtt_private.fn_client_id_of', 'service_role');

-- The record by which another worker already brought this message, oldest first; a row of nulls: it is new. Each record
-- stands for one message: what this session has received too is not counted again, so a device may repeat its words.
-- p_sent_at: when the device was sent what the answer is about.
create or replace function mqtt_private.fn_find_duplicate_acknowledgement(
  p_ack jsonb, p_worker text, p_device_id uuid, p_digest text, p_sent_at timestamptz)
returns mqtt_private.acknowledgements
language plpgsql volatile set search_path = '' as $$
declare
  v_original mqtt_private.acknowledgements;
  v_now constant timestamptz := clock_timestamp();
  v_client_id constant text := mqtt_private.fn_client_id_of(p_worker);
  v_redelivered constant boolean := coalesce((p_ack ->> 'redelivered')::boolean, false);
  v_since constant timestamptz := greatest(
    v_now - interval '70 minutes', v_now - make_interval(secs => (p_ack ->> 'session_seconds')::double precision));
  v_since_of_predecessor constant timestamptz := greatest(v_now - interval '1 minute', p_sent_at);
begin
  select theirs.* into v_original
  from mqtt_private.acknowledgements theirs
  where theirs.device_id = p_device_id and theirs.digest = p_digest and theirs.duplicate_of is null
    and case
      when mqtt_private.fn_client_id_of(theirs.worker) <> v_client_id then theirs.received_at >= v_since
      else v_redelivered and theirs.worker <> p_worker and theirs.received_at >= v_since_of_predecessor end
    and not exists (
      select from mqtt_private.acknowledgements ours
      where ours.duplicate_of = theirs.ref
        and case when v_redelivered then ours.worker = p_worker
          else mqtt_private.fn_client_id_of(ours.worker) = v_client_id end)
  order by theirs.received_at limit 1;
  return v_original;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_duplicate_acknowledgement', 'service_role');

-- What an answer does ------------------------------------------------------------------------------------------

-- What an answer does to a command in this state; null: nothing. p_attempt 0: the command was never given to a worker,
-- so a device cannot have failed at it.
create or replace function mqtt_private.fn_effect_of_acknowledgement(p_outcome text, p_status text, p_attempt bigint)
returns text
language sql immutable set search_path = '' as $$
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
call mqtt_private.grant_execute('mqtt_private.fn_effect_of_acknowledgement', 'service_role');

-- Applies an answer to its command, or to none. The device's row is locked.
create or replace function mqtt_private.fn_acknowledge_command(
  p_ack jsonb, p_device public.devices, p_command public.device_commands, p_max_retries int, p_delay interval)
returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_command public.device_commands := p_command;
  v_message constant text := left(nullif(trim(p_ack ->> 'message'), ''), 1000);
  v_result text := case
    when p_device.device_id is null then 'unknown_device'
    when p_command.command_id is null then 'unknown_command'
    when p_command.device_id <> p_device.device_id then 'wrong_device' end;
begin
  if v_result is null then
    -- A cancel or a settle may be under way: decide on what the row says once it is ours.
    select * into v_command from public.device_commands where command_id = p_command.command_id for update;
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
    v_command := null; -- the answer tells nothing about another device's command
  end if;
  return jsonb_build_object(
    'ref', p_ack ->> 'ref', 'result', v_result, 'command_id', v_command.command_id,
    'command_type', v_command.command_type, 'device_id', p_device.device_id, 'device_code', p_device.device_code,
    'status', v_command.status, 'retry_count', v_command.retry_count);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acknowledge_command', 'service_role');

-- Applies an answer to this reply, which then takes no other. The device's row is locked. Returns what
-- fn_acknowledge_command does, with the result `reply`.
create or replace function mqtt_private.fn_acknowledge_reply(
  p_ack jsonb, p_device public.devices, p_reply mqtt_private.replies) returns jsonb
language plpgsql volatile set search_path = '' as $$
begin
  delete from mqtt_private.replies where reply_id = p_reply.reply_id;
  return jsonb_build_object(
    'ref', p_ack ->> 'ref', 'result', 'reply', 'command_id', null, 'command_type', p_reply.reply_type,
    'device_id', p_device.device_id, 'device_code', p_device.device_code, 'status', null, 'retry_count', null);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acknowledge_reply', 'service_role');

-- Uses one answer, once; see the head of this file. Its device's row is locked, so two workers take turns here.
create or replace function mqtt_private.fn_acknowledge_once(
  p_ack jsonb, p_device_id uuid, p_worker text, p_max_retries int, p_delay interval) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_result jsonb;
  v_device public.devices;
  v_command public.device_commands;
  v_reply mqtt_private.replies;
  v_original mqtt_private.acknowledgements;
  v_ref constant text := p_ack ->> 'ref';
  v_received_at constant timestamptz := clock_timestamp()
    - make_interval(secs => coalesce((p_ack ->> 'received_seconds_ago')::double precision, 0));
  v_digest constant text := case
    when p_worker is not null and (p_ack -> 'shared') is distinct from 'true'::jsonb
    then md5(mqtt_private.fn_device_key(p_ack ->> 'topic_id') || (p_ack -> 'response')::text) end;
begin
  select result into v_result from mqtt_private.acknowledgements where ref = v_ref;
  if found then return v_result; end if;
  if mqtt_private.fn_is_early(p_ack, p_device_id, p_worker, v_received_at) then
    return jsonb_build_object('ref', v_ref, 'result', 'early', 'device_id', p_device_id);
  end if;
  select * into v_device from public.devices where device_id = p_device_id;
  v_command := mqtt_private.fn_find_acknowledged_command(p_ack, p_device_id);
  v_reply := mqtt_private.fn_find_acknowledged_reply(p_ack, p_device_id, v_command, v_received_at);
  v_original := mqtt_private.fn_find_redelivered_acknowledgement(p_ack);
  if v_original.ref is null and v_digest is not null then
    v_original := mqtt_private.fn_find_duplicate_acknowledgement(p_ack, p_worker, p_device_id, v_digest, case
      when v_reply.reply_id is not null then v_reply.sent_at
      when v_command.command_id is null then '-infinity'
      else coalesce(v_command.delivered_at, clock_timestamp()) end);
  end if;
  v_result := case
    when v_original.ref is not null then v_original.result || jsonb_build_object('ref', v_ref, 'result', 'duplicate')
    when v_reply.reply_id is not null then mqtt_private.fn_acknowledge_reply(p_ack, v_device, v_reply)
    else mqtt_private.fn_acknowledge_command(p_ack, v_device, v_command, p_max_retries, p_delay) end;
  if v_ref is not null then
    insert into mqtt_private.acknowledgements
      (ref, worker, device_id, digest, delivery, duplicate_of, result, received_at)
    values (v_ref, coalesce(p_worker, ''), p_device_id, v_digest, p_ack ->> 'delivery',
      coalesce(v_original.duplicate_of, v_original.ref), v_result, v_received_at)
    on conflict (ref) do nothing;
  end if;
  return v_result;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acknowledge_once', 'service_role');

-- The worker's calls -------------------------------------------------------------------------------------------

-- Writes devices' answers into their commands, in the order given.
-- p_acks: [{ref, topic_root, topic_id, command_id?, command_type?, outcome: success|failed|rejected, message?,
-- response, shared?, standby?, delivery?, redelivered?, received_seconds_ago?, session_seconds?}].
--   ref                   one message in one process ("<worker>:<n>"); the same ref gets the same result and changes
--                         nothing
--   command_id            may be any text
--   outcome               failed counts and is tried again like any failure
--   shared                true if one worker alone received it
--   standby               true if another service beside the workers uses answers too
--   delivery, redelivered see the head of this file
--   received_seconds_ago  since its worker received it
--   session_seconds       for which the worker's session has subscribed, where that is known
-- Without p_worker, the same message from two workers is two answers.
-- Returns, in order, [{ref, result, command_id, command_type, device_id, device_code, status, retry_count}]; result is
-- acknowledged | failed | rejected, duplicate (the device said so before), ignored (the command stays as it is), reply
-- (it was about no command), early (ask again), unknown_device, unknown_command, wrong_device, or refused (the table
-- refuses the change; error says why).
create or replace function public.fn_acknowledge_commands(
  p_acks jsonb, p_max_retries int default 3, p_retry_delay_seconds double precision default 30,
  p_worker text default null
) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s' as $$
declare
  v_ack jsonb;
  v_device_id uuid;
  v_ids uuid[];
  v_fault mqtt_private.fault;
  v_error text;
  v_result jsonb;
  v_results jsonb[] := '{}';
begin
  v_ids := mqtt_private.fn_find_and_lock_devices(array(
    select ack ->> 'topic_id' from jsonb_array_elements(p_acks) with ordinality as a (ack, place) order by place));
  perform mqtt_private.fn_touch_devices_or_pass_over(v_ids, p_acks);
  for v_ack, v_device_id in
    select ack, v_ids[place] from jsonb_array_elements(p_acks) with ordinality as a (ack, place) order by place
  loop
    begin
      v_result := mqtt_private.fn_acknowledge_once(
        v_ack, v_device_id, p_worker, p_max_retries, make_interval(secs => p_retry_delay_seconds));
      perform mqtt_private.fn_check_deferred_constraints();
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_fault(v_fault, 'device_commands');
      if v_error is null then raise; end if;
      v_result := jsonb_build_object(
        'ref', v_ack -> 'ref', 'result', 'refused', 'device_id', v_device_id, 'error', v_error);
    end;
    v_results := v_results || v_result;
  end loop;
  delete from mqtt_private.acknowledgements where ref = any (array(
    select ref from mqtt_private.acknowledgements
    where received_at < now() - interval '70 minutes' order by received_at limit 1000
    for update skip locked));
  return to_jsonb(v_results);
end
$$;
call mqtt_private.grant_execute('public.fn_acknowledge_commands(jsonb, int, double precision, text)', 'service_role');

-- Records what devices are about to be sent. p_replies: [{reply_id, device_id, reply_type, withdrawn?}]; withdrawn: it
-- was recorded before, and was not sent, or nobody was listening. A device that is gone is passed over. A reply_id is
-- recorded once. Returns {recorded: n}.
create or replace function public.fn_record_replies(p_worker text, p_replies jsonb) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions set lock_timeout = '2s' as $$
declare
  v_recorded int;
begin
  perform mqtt_private.fn_require_worker(p_worker);
  insert into mqtt_private.replies (reply_id, device_id, reply_type)
  select r.reply_id, r.device_id, r.reply_type
  from jsonb_to_recordset(p_replies) as r (reply_id uuid, device_id uuid, reply_type text, withdrawn boolean)
  where r.withdrawn is not true and exists (select from public.devices d where d.device_id = r.device_id)
  order by r.device_id, r.reply_id
  on conflict (reply_id) do nothing;
  get diagnostics v_recorded = row_count;
  delete from mqtt_private.replies where reply_id in (
    select r.reply_id from jsonb_to_recordset(p_replies) as r (reply_id uuid, withdrawn boolean) where r.withdrawn);
  -- What nobody answered: most devices answer with an id, or do not answer replies.
  delete from mqtt_private.replies where reply_id = any (array(
    select reply_id from mqtt_private.replies
    where device_id in (select r.device_id from jsonb_to_recordset(p_replies) as r (device_id uuid))
      and sent_at < clock_timestamp() - interval '70 minutes'
    for update skip locked));
  return jsonb_build_object('recorded', v_recorded);
end
$$;
call mqtt_private.grant_execute('public.fn_record_replies(text, jsonb)', 'service_role');
