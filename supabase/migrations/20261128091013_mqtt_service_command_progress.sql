-- A command's second clock, what devices say while they are at it, and a cancelled command's last word.
--
-- expires_at bounds how long a command may wait to be done at all. execution_timeout bounds how long the device may be
-- silent once it has the command: it is counted from delivered_at, and again from each word of progress. When it passes,
-- the command fails; a type that may be done twice is tried again, as after any failure, others are not: the device may
-- have done it. Where the broker said that nobody was subscribed, no device has the command, and the clock stands still.
--
-- A device that reports progress has the command: it is `sent`, whatever the worker knows of its delivery, and a retry
-- that waits is withdrawn. Progress ends nothing and is no answer. After an end it is noted in the row and moves nothing;
-- nothing is noted after acknowledged and rejected, which are the device's own last words.

alter table public.device_command_types
  add column if not exists execution_timeout interval  -- of commands that have none; null: none
    check (execution_timeout > '0' and execution_timeout <= '366 days');

alter table public.device_commands
  add column if not exists execution_timeout interval  -- null: its type's
    check (execution_timeout > '0' and execution_timeout <= '366 days'),
  add column if not exists progress smallint,                 -- 0 to 100, as the device says
  add column if not exists progress_at timestamptz,           -- when it last said that it is at it
  add column if not exists progress_message text,             -- what it said with it
  add column if not exists answer_due_at timestamptz,         -- sent: it fails then. Trigger-kept
  add column if not exists done_after_cancel_at timestamptz;  -- cancelled: the device did it all the same

-- the claim: what has been silent for too long
create index if not exists device_commands_answer_due_idx on public.device_commands (answer_due_at)
  where answer_due_at is not null;

do $$
begin
  if (select relrowsecurity from pg_catalog.pg_class where oid = 'public.device_commands'::regclass) then
    grant insert (execution_timeout) on table public.device_commands to authenticated;
  end if;
end
$$;

-- The clock ----------------------------------------------------------------------------------------------------

-- How long a device may be silent over a command of this type that says nothing itself; null: for ever.
-- Security definer: who may change a command need not be able to read the list.
create or replace function mqtt_private.fn_execution_timeout_of_type(p_type text) returns interval
language sql stable security definer set search_path = '' as $$
  select execution_timeout from public.device_command_types where command_type::text = p_type
$$;
call mqtt_private.grant_execute('mqtt_private.fn_execution_timeout_of_type', 'authenticated', 'service_role');

-- Keeps answer_due_at. A command that is sent anew begins without the progress of the time before.
create or replace function mqtt_private.fn_keep_answer_due() returns trigger
language plpgsql set search_path = '' as $$
begin
  if new.delivered_at is distinct from old.delivered_at and new.progress_at is not distinct from old.progress_at then
    new.progress := null;
    new.progress_at := null;
    new.progress_message := null;
  end if;
  new.answer_due_at := null;
  if new.in_queue and new.status::text = 'sent' and (new.no_listener is not true or new.progress_at is not null) then
    new.answer_due_at := greatest(new.delivered_at, new.progress_at) + coalesce(new.execution_timeout, case
      when new.command_type::text <> all (mqtt_private.fn_built_in_command_types())
      then mqtt_private.fn_execution_timeout_of_type(new.command_type::text) end);
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_keep_answer_due');

-- After mqtt_guard_command_update, in the order of their names. Where a command is sent it leaves the queue. The condition
-- names columns of ours alone: a project can still change the type of its own.
create or replace trigger mqtt_keep_answer_due before update on public.device_commands
  for each row
  when (
    old.answer_due_at is not null or (old.due_at is not null and new.due_at is null)
    or new.progress_at is distinct from old.progress_at
    or new.execution_timeout is distinct from old.execution_timeout
  )
  execute function mqtt_private.fn_keep_answer_due();

-- These columns keep their values whatever a person writes, as the worker's other columns do.
create or replace function mqtt_private.fn_guard_progress() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.progress := case tg_op when 'UPDATE' then old.progress end;
  new.progress_at := case tg_op when 'UPDATE' then old.progress_at end;
  new.progress_message := case tg_op when 'UPDATE' then old.progress_message end;
  new.answer_due_at := case tg_op when 'UPDATE' then old.answer_due_at end;
  new.done_after_cancel_at := case tg_op when 'UPDATE' then old.done_after_cancel_at end;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_progress');

create or replace trigger mqtt_guard_progress
  before insert or update of progress, progress_at, progress_message, answer_due_at, done_after_cancel_at
  on public.device_commands
  for each row when (current_user = 'authenticated')
  execute function mqtt_private.fn_guard_progress();

-- Which moves are allowed --------------------------------------------------------------------------------------

-- See …_command_rules.sql. New: a firmware that was acknowledged, and did not take, has failed. People may not say so
-- (fn_check_command_move).
create or replace function mqtt_private.fn_command_may_become(p_old text, p_new text) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select case p_old
    when 'pending' then p_new in ('sent', 'failed', 'expired', 'cancelled',
                                  'acknowledged', 'rejected')  -- the answer came before the worker had settled
    when 'sent' then p_new in ('acknowledged', 'failed', 'rejected', 'expired',
                               'pending')                      -- delivered again
    when 'failed' then p_new in ('pending', 'sent', 'expired', 'cancelled',
                                 'acknowledged', 'rejected')   -- a late answer
    when 'expired' then p_new = 'acknowledged'                 -- a late success
    when 'acknowledged' then p_new = 'failed'                  -- it did not last
    when 'rejected' then false
    when 'cancelled' then false
    else true
  end
  or p_new not in ('pending', 'sent', 'failed', 'acknowledged', 'rejected', 'expired', 'cancelled')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_command_may_become', 'authenticated', 'service_role');

-- When the clock has run out -----------------------------------------------------------------------------------

-- Whether doing a command of this type twice leaves the device as doing it once.
create or replace function mqtt_private.fn_is_repeatable(p_type text) returns boolean
language sql stable set search_path = '' as $$
  select p_type in ('send_image', 'set_wake_schedule', 'update_config')
    or exists (select from public.device_command_types where repeatable and command_type::text = p_type)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_repeatable', 'service_role');

-- A time span as people write it, in whole seconds: 1 hour 30 mins.
create or replace function mqtt_private.fn_span_in_words(p_span interval) returns text
language sql stable set search_path = '' set intervalstyle = 'postgres_verbose' as $$
  select ltrim(date_trunc('second', p_span)::text, '@ ')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_span_in_words', 'service_role');

-- See …_claims_at_any_size.sql. New: what was sent and is past its answer_due_at, 1000 of them.
create or replace function mqtt_private.fn_find_undeliverable_commands(p_claim mqtt_private.claim) returns uuid[]
language plpgsql stable set search_path = public, extensions as $$
begin
  return array(
    with due as materialized (
      (select command_id, device_id, due_at, status = 'failed' and retry_count >= p_claim.max_retries as used_up
       from public.device_commands
       where due_at is not null and lease_until is null and attempt = 0 and status = 'pending' and scheduled_for is null
         and due_at <= p_claim.due_before
       order by priority desc, issued_at, issue_number limit 1000)
      union all
      (select command_id, device_id, due_at, status = 'failed' and retry_count >= p_claim.max_retries
       from public.device_commands
       where due_at <= p_claim.due_before and lease_until is null
         and (attempt > 0 or status <> 'pending' or scheduled_for is not null))
      union all
      (select command_id, device_id, due_at, status = 'failed' and retry_count >= p_claim.max_retries
       from public.device_commands
       where lease_until <= p_claim.now and due_at <= p_claim.due_before)
    ), inactive as materialized (
      select device_id from public.devices
      where device_id = any (array(select distinct device_id from due)) and is_active is not true
    )
    (select command_id from due
     where used_up or device_id in (select device_id from inactive)
     order by due_at limit 1000)
    union all
    (select command_id from public.device_commands
     where answer_due_at <= p_claim.due_before
     order by answer_due_at limit 1000));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_undeliverable_commands', 'service_role');

-- See …_claim_and_settle.sql. New: a device that has been silent for too long over what it was sent.
create or replace function mqtt_private.fn_fail_undeliverable_commands(
  p_ids uuid[], p_claim mqtt_private.claim, out failed jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with locked as materialized (
    select c.command_id, d.device_code, c.status = 'failed' and c.retry_count >= p_claim.max_retries as used_up,
      case when c.answer_due_at is null
        then format('device %s is not active: map it to a site', coalesce(d.device_code, d.device_mac))
        else format('the device has said nothing for %s',
            mqtt_private.fn_span_in_words(c.answer_due_at - greatest(c.delivered_at, c.progress_at)))
          || case when c.progress_at is null then ', since it was sent this'
            else format('; its last word was that it is at it%s', coalesce(' (' || c.progress || ' %)', '')) end
      end as error,
      c.answer_due_at is null or mqtt_private.fn_is_repeatable(c.command_type::text) as may_repeat
    from public.device_commands c join public.devices d on d.device_id = c.device_id
    where c.command_id = any (p_ids)
      and (c.answer_due_at <= p_claim.due_before
        or (c.due_at <= p_claim.due_before and (c.lease_until is null or c.lease_until <= p_claim.now)
          and (d.is_active is not true or (c.status = 'failed' and c.retry_count >= p_claim.max_retries))))
    for update of c skip locked
  ), changed as (
    update public.device_commands c
    set status = 'failed', lease_worker = null, lease_until = null,
        retry_count = c.retry_count + case when l.used_up then 0 else 1 end,
        last_error = case when l.used_up then c.last_error else l.error end,
        due_at = case when l.may_repeat and not l.used_up and c.retry_count + 1 < p_claim.max_retries
          then p_claim.now + p_claim.retry_delay end
    from locked l where c.command_id = l.command_id
    returning c.command_id, c.device_id, l.device_code, c.command_type, c.retry_count, c.due_at is null as final,
      c.last_error as error
  )
  select coalesce(jsonb_agg(to_jsonb(changed)), '[]') from changed
  into failed;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_fail_undeliverable_commands', 'service_role');

-- See …_heartbeats.sql. New: a device that has said that it is at it may be so still, until its clock runs out: a HELLO
-- in the middle can be the reboot of an update.
create or replace function mqtt_private.fn_is_outdated(p_command public.device_commands) returns boolean
language plpgsql stable set search_path = public, extensions as $$
begin
  return (p_command.progress_at is not null and coalesce(p_command.answer_due_at > clock_timestamp(), false))
    or p_command.command_type in ('set_wake_schedule', 'update_config') and exists (
    select from public.device_commands newer
    where newer.device_id = p_command.device_id and newer.command_type = p_command.command_type
      and (newer.issued_at, newer.issue_number) > (p_command.issued_at, p_command.issue_number)
      and case p_command.command_type
        when 'set_wake_schedule' then newer.status in ('pending', 'sent', 'acknowledged')
        else newer.status = 'acknowledged' and jsonb_typeof(p_command.command_payload) = 'object'
          and newer.command_payload ?| array(select jsonb_object_keys(p_command.command_payload)) end);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_outdated', 'service_role');

-- What devices say ---------------------------------------------------------------------------------------------

-- See …_acknowledgements.sql. New: a cancelled command that has had its answer takes no further one without an id.
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
  if v_last.status in ('sent', 'pending', 'expired')
    or (v_last.status = 'cancelled' and v_last.done_after_cancel_at is null) or p_standby
  then
    return v_last;
  end if;

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
  return case when v_last.status in ('failed', 'cancelled') then v_last end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_command_sent_last', 'service_role');

-- What a word of progress does to a command in this state: in_progress (the row says so), or null: nothing.
create or replace function mqtt_private.fn_effect_of_progress(p_status text, p_attempt bigint) returns text
language sql immutable set search_path = '' as $$
  select case when p_status in ('sent', 'failed', 'expired', 'cancelled') or (p_status = 'pending' and p_attempt > 0)
    then 'in_progress' end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_effect_of_progress', 'service_role');

-- Writes a word of progress into this row, which is locked and may have it (fn_effect_of_progress).
create or replace function mqtt_private.fn_record_progress(p_command_id uuid, p_progress int, p_message text)
returns public.device_commands
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_command public.device_commands;
begin
  update public.device_commands
  -- to be sent (also once its window opens), or tried again: the device has it
  set status = case when status = 'pending' or due_at is not null then 'sent' else status end,
      last_error = case when status <> 'pending' and due_at is null then last_error end, due_at = null,
      lease_worker = null, lease_until = null, delivered_at = coalesce(delivered_at, now()), no_listener = false,
      progress = case when p_progress is not null then least(greatest(p_progress, 0), 100)
        when progress_at >= delivered_at then progress end,
      progress_at = now(), progress_message = p_message
  where command_id = p_command_id
  returning * into v_command;
  return v_command;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_progress', 'service_role');

-- See …_acknowledgements.sql and …_measures.sql. New: progress; and what the device says to a cancelled command, which
-- stays cancelled and keeps the answer (result: ignored, as before).
create or replace function mqtt_private.fn_acknowledge_command(
  p_ack jsonb, p_device public.devices, p_command public.device_commands, p_max_retries int, p_delay interval)
returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_command public.device_commands := p_command;
  v_outcome constant text := p_ack ->> 'outcome';
  v_message constant text := left(nullif(trim(p_ack ->> 'message'), ''), 1000);
  v_result text := case
    when p_device.device_id is null then 'unknown_device'
    when p_command.command_id is null then 'unknown_command'
    when p_command.device_id <> p_device.device_id then 'wrong_device' end;
begin
  if v_result is null then
    -- A cancel or a settle may be under way: decide on what the row says once it is ours.
    select * into v_command from public.device_commands where command_id = p_command.command_id for update;
    v_result := coalesce(case v_outcome
      when 'in_progress' then mqtt_private.fn_effect_of_progress(v_command.status::text, v_command.attempt)
      else mqtt_private.fn_effect_of_acknowledgement(v_outcome, v_command.status, v_command.attempt) end, 'ignored');
  end if;

  if v_result = 'in_progress' then
    v_command := mqtt_private.fn_record_progress(v_command.command_id, (p_ack ->> 'progress')::int, v_message);
  elsif v_result in ('acknowledged', 'failed', 'rejected') then
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
  elsif v_result = 'ignored' and v_command.status = 'cancelled' and (v_outcome = 'success'
    or (v_outcome in ('failed', 'rejected') and v_command.attempt > 0))
  then
    update public.device_commands
    set response = p_ack -> 'response',
        done_after_cancel_at = coalesce(done_after_cancel_at, case v_outcome when 'success' then now() end)
    where command_id = v_command.command_id
    returning * into v_command;
  end if;

  if v_result in ('unknown_device', 'wrong_device') then
    v_command := null; -- the answer tells nothing about another device's command
  end if;
  return jsonb_build_object(
    'ref', p_ack ->> 'ref', 'result', v_result, 'command_id', v_command.command_id,
    'command_type', v_command.command_type, 'device_id', p_device.device_id, 'device_code', p_device.device_code,
    'status', v_command.status, 'retry_count', v_command.retry_count,
    'seconds_since_sent', greatest(extract(epoch from now() - v_command.delivered_at), 0));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acknowledge_command', 'service_role');

-- See …_acknowledgements.sql. New: progress is never about a reply.
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
  if p_ack ->> 'outcome' is distinct from 'in_progress' then
    v_reply := mqtt_private.fn_find_acknowledged_reply(p_ack, p_device_id, v_command, v_received_at);
  end if;
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

-- See …_answers_at_once.sql. New: progress. What a device says to a cancelled command is used alone.
create or replace function mqtt_private.fn_acknowledge_together(
  p_acks jsonb, p_device_ids uuid[], p_worker text, p_max_retries int, p_delay interval, out results jsonb)
language plpgsql volatile set search_path = public, extensions
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
begin
  -- A cancel or a settle may be under way: decide on what the rows say once they are ours.
  perform from public.device_commands
  where command_id = any (array(
      select (ack ->> 'command_id')::uuid from jsonb_array_elements(p_acks) as a (ack)
      where mqtt_private.fn_is_uuid(ack ->> 'command_id')))
    and device_id = any (p_device_ids)
  order by command_id for no key update;

  with answers as materialized (
    select a.place, a.device_id, a.ref, a.outcome, a.response, a.delivery, a.progress,
      left(nullif(trim(a.message), ''), 1000) as message,
      case when mqtt_private.fn_is_uuid(a.command_id) then a.command_id::uuid end as command_id,
      a.redelivered is not true as is_first_delivery,
      case when p_worker is not null and a.shared is not true
        then md5(mqtt_private.fn_device_key(a.topic_id) || a.response::text) end as digest,
      clock_timestamp() - make_interval(secs => coalesce(a.received_seconds_ago, 0)) as received_at
    from rows from (unnest(p_device_ids), jsonb_to_recordset(p_acks) as (
      ref text, topic_id text, command_id text, outcome text, progress int, message text, response jsonb,
      shared boolean, delivery text, redelivered boolean, received_seconds_ago double precision
    )) with ordinality as a (device_id, ref, topic_id, command_id, outcome, progress, message, response, shared,
      delivery, redelivered, received_seconds_ago, place)
  ), judged as materialized (
    select a.*, d.device_code,
      case a.outcome when 'in_progress' then mqtt_private.fn_effect_of_progress(c.status::text, c.attempt)
        else mqtt_private.fn_effect_of_acknowledgement(a.outcome, c.status::text, c.attempt) end as effect,
      coalesce(a.is_first_delivery and a.ref is not null and a.response is not null and c.device_id = a.device_id
        and row_number() over (partition by a.command_id order by a.place) = 1
        and not exists (select from mqtt_private.acknowledgements r where r.ref = a.ref)
        and not exists (
          select from mqtt_private.acknowledgements r where r.device_id = a.device_id and r.digest = a.digest),
        false) as is_alone
    from answers a
    left join lateral (
      select device_id, status, attempt from public.device_commands where command_id = a.command_id offset 0) c on true
    left join lateral (
      select device_code from public.devices where device_id = a.device_id offset 0) d on true
  ), together as materialized (
    select * from (
      select j.*, bool_and(is_alone and effect in ('acknowledged', 'failed', 'rejected', 'in_progress'))
        over (partition by device_id) as is_plain
      from judged j) j
    where is_plain
  ), answered as (
    update public.device_commands c
    set status = t.effect, response = t.response, lease_worker = null, lease_until = null,
        delivered_at = coalesce(c.delivered_at, now()),
        acknowledged_at = case t.effect when 'acknowledged' then now() else c.acknowledged_at end,
        retry_count = c.retry_count + case t.effect when 'failed' then 1 else 0 end,
        last_error = case t.effect
          when 'failed' then 'the device reports failure' || coalesce(': ' || t.message, '')
          when 'rejected' then 'the device refuses' || coalesce(': ' || t.message, '') end,
        due_at = case when t.effect = 'failed' and c.retry_count + 1 < p_max_retries then now() + p_delay end
    from together t
    where c.command_id = t.command_id and t.effect <> 'in_progress'
    returning t.place, c.command_id, c.command_type, c.status, c.retry_count, c.delivered_at
  ), progressed as materialized (
    select t.place, c.command_id, c.command_type, c.status, c.retry_count, c.delivered_at
    from (select * from together where effect = 'in_progress' offset 0) t
    cross join lateral mqtt_private.fn_record_progress(t.command_id, t.progress, t.message) c
  ), changed as materialized (
    select t.place, t.ref, t.device_id, t.digest, t.delivery, t.received_at, jsonb_build_object(
      'ref', t.ref, 'result', t.effect, 'command_id', c.command_id, 'command_type', c.command_type,
      'device_id', t.device_id, 'device_code', t.device_code, 'status', c.status, 'retry_count', c.retry_count,
      'seconds_since_sent', greatest(extract(epoch from now() - c.delivered_at), 0)) as result
    from together t join (select * from answered union all select * from progressed) c on c.place = t.place
  ), recorded as (
    insert into mqtt_private.acknowledgements (ref, worker, device_id, digest, delivery, result, received_at)
    select ref, coalesce(p_worker, ''), device_id, digest, delivery, result, received_at from changed
  )
  select coalesce(jsonb_object_agg(place, result), '{}') from changed into results;
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acknowledge_together', 'service_role');
