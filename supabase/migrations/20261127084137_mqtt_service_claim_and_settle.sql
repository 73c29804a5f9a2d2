-- The worker's side of the command queue: it claims due commands, publishes them, and settles what became of them.
--
-- A claim takes due commands of active devices in the order of publishing and leases them to one worker for a bounded
-- time; each lease raises the row's attempt. Settling names (command, attempt) and changes nothing if another worker
-- has the lease by then. A device belongs to one worker at a time: while another worker holds a lease on any command of
-- it, the device is left alone.
--
-- A claim runs four steps, each over all its rows at once:
--   expire    what was not done in time
--   fail      what is due for a device that is not active, or has used up its retries
--   lease     what is due, up to the limit
--   hand out  what is leased, as it is to be published; what cannot be sent fails for good
--
-- A row that the table refuses to change stops no claim. A project's own trigger, check or column length can refuse
-- what a step writes, and that one row would keep every command of every device from being sent, for ever. So a step
-- that fails through a row's fault runs again, row by row. A command that is refused a lease then fails with the reason.
-- What is refused even that is passed over: the row stays as it is, nothing later of its device is leased before it while
-- it lives, and the claim's answer names it. A step looks past up to 1000 such rows, and no longer than 1.5 seconds. Every
-- other error fails the claim.
--
-- Locks. Claims are serial (an advisory lock). A claim never waits for a row: what another transaction holds is left,
-- with the rest of that device, to the next claim. Settling locks devices first.
--
-- Ids go from one step to the next as arrays: Postgres then looks the rows up by the key, however many it expects.

-- One call of fn_claim_commands: who asks, when, and by which rules.
do $$
begin
  if to_regtype('mqtt_private.claim') is null then
    create type mqtt_private.claim as (
      worker text,
      now timestamptz,
      due_before timestamptz, -- what was due, or over, by then is ours: now, and earlier for a stand-by
      lease_until timestamptz,
      held uuid[],            -- commands that are not to be leased: the worker still has them in hand
      time_to_live interval,  -- of commands without expires_at
      max_retries int,
      retry_delay interval
    );
  end if;
end
$$;

-- Expire -------------------------------------------------------------------------------------------------------

-- A command lives until expires_at, else for its time to live from issued_at (or from scheduled_for, where that is
-- later). One that is leased is left alone: its worker may be publishing it this moment.
create or replace function mqtt_private.fn_find_overdue_commands(p_claim mqtt_private.claim) returns uuid[]
language plpgsql stable set search_path = public, extensions as $$
begin
  return array(
    (select command_id from public.device_commands
     where in_queue and expires_at is not null and expires_at <= p_claim.due_before
       and (status in ('pending', 'sent') or due_at is not null)
       and (lease_until is null or lease_until <= p_claim.now)
     order by expires_at limit 500)
    union all
    (select command_id from public.device_commands
     where in_queue and expires_at is null
       and greatest(issued_at, nullif(scheduled_for, 'infinity')) <= p_claim.due_before - p_claim.time_to_live
       and (status in ('pending', 'sent') or due_at is not null)
       and (lease_until is null or lease_until <= p_claim.now)
     order by greatest(issued_at, nullif(scheduled_for, 'infinity')) limit 500));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_overdue_commands', 'service_role');

-- Returns [{command_id, device_id, device_code, command_type, error}].
create or replace function mqtt_private.fn_expire_commands(
  p_ids uuid[], p_claim mqtt_private.claim, out expired jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with locked as materialized (
    select command_id from public.device_commands
    where command_id = any (p_ids) and in_queue
      and (status in ('pending', 'sent') or due_at is not null)
      and (lease_until is null or lease_until <= p_claim.now)
    for update skip locked
  ), changed as (
    update public.device_commands
    set status = 'expired', due_at = null, lease_worker = null, lease_until = null,
        last_error = left(case
          when status = 'sent' or (status = 'pending' and delivered_at is not null)
            then 'expired: it was delivered to the broker, but the device did not answer in time'
          else 'expired: it could not be delivered in time' || coalesce('; last failure: ' || last_error, '')
        end, 1000)
    where command_id = any (array(select command_id from locked))
    returning command_id, device_id, command_type, last_error as error
  )
  select coalesce(jsonb_agg(to_jsonb(c) || jsonb_build_object('device_code', d.device_code)), '[]')
  from changed c join public.devices d on d.device_id = c.device_id
  into expired;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_expire_commands', 'service_role');

-- Fail ---------------------------------------------------------------------------------------------------------

-- Commands for devices that are not active fail as soon as they are due, and so does a failed command that has used up
-- its retries (the limit was lowered meanwhile).
create or replace function mqtt_private.fn_find_undeliverable_commands(p_claim mqtt_private.claim) returns uuid[]
language plpgsql stable set search_path = public, extensions as $$
begin
  return array(
    with waiting as materialized (
      select distinct device_id from public.device_commands
      where due_at <= p_claim.due_before and (lease_until is null or lease_until <= p_claim.now)
    ), inactive as materialized (
      select d.device_id from waiting join public.devices d on d.device_id = waiting.device_id
      where d.is_active is not true
    )
    select command_id from public.device_commands
    where due_at <= p_claim.due_before and (lease_until is null or lease_until <= p_claim.now)
      and (device_id in (select device_id from inactive)
        or (status = 'failed' and retry_count >= p_claim.max_retries))
    order by due_at limit 1000);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_undeliverable_commands', 'service_role');

-- Returns [{command_id, device_id, device_code, command_type, retry_count, final, error}]. What has used up its retries
-- is not counted again.
create or replace function mqtt_private.fn_fail_undeliverable_commands(
  p_ids uuid[], p_claim mqtt_private.claim, out failed jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with locked as materialized (
    select c.command_id, d.device_code, c.status = 'failed' and c.retry_count >= p_claim.max_retries as used_up,
      format('device %s is not active: map it to a site', coalesce(d.device_code, d.device_mac)) as error
    from public.device_commands c join public.devices d on d.device_id = c.device_id
    where c.command_id = any (p_ids)
      and c.due_at <= p_claim.due_before and (c.lease_until is null or c.lease_until <= p_claim.now)
      and (d.is_active is not true or (c.status = 'failed' and c.retry_count >= p_claim.max_retries))
    for update of c skip locked
  ), changed as (
    update public.device_commands c
    set status = 'failed', lease_worker = null, lease_until = null,
        retry_count = c.retry_count + case when l.used_up then 0 else 1 end,
        last_error = case when l.used_up then c.last_error else l.error end,
        due_at = case when not l.used_up and c.retry_count + 1 < p_claim.max_retries
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

-- Lease --------------------------------------------------------------------------------------------------------

-- What is leased to this worker and is not in its hands: the response to that claim was lost. It is handed out again
-- under the same attempt and the same lease: a lease that could be extended would never run out where a settlement is
-- refused each time. The rows are locked, so that nothing later in the claim waits for them.
create or replace function mqtt_private.fn_find_unseen_commands(p_claim mqtt_private.claim, p_limit int) returns uuid[]
language plpgsql volatile set search_path = public, extensions as $$
begin
  return array(
    select c.command_id
    from public.device_commands c join public.devices d on d.device_id = c.device_id
    where c.lease_until > p_claim.now and c.lease_worker = p_claim.worker and c.status = 'pending' and d.is_active
      and c.command_id not in (select unnest(p_claim.held))
    order by c.priority desc, c.issued_at, c.issue_number limit p_limit
    for update of c skip locked);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_unseen_commands', 'service_role');

-- The due commands of up to p_devices active devices, up to p_commands of them, in the order of publishing, with their
-- devices beside them; due_count: how many are due for all devices.
--
-- No device keeps the others out. One whose next command is locked is left before the limit is applied (up to 1000
-- such devices), so a claim leases something whenever some device can go on. And the first 20 commands of each device
-- go before the rest of any.
create or replace function mqtt_private.fn_find_due_commands(
  p_claim mqtt_private.claim, p_devices int, p_commands int, out ids uuid[], out device_ids uuid[], out due_count int)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with busy as materialized (
    select device_id from public.device_commands
    where lease_until > p_claim.now and lease_worker <> p_claim.worker
  ), due as materialized (
    select c.command_id, c.device_id, c.priority, c.issued_at, c.issue_number,
      row_number() over (partition by c.device_id order by c.priority desc, c.issued_at, c.issue_number) as turn
    from public.device_commands c
    where c.due_at <= p_claim.due_before and (c.lease_until is null or c.lease_until <= p_claim.now)
      and c.device_id not in (select device_id from busy)
      and c.command_id not in (select unnest(p_claim.held))
  ), next_ones as materialized (
    select due.command_id
    from due join public.devices d on d.device_id = due.device_id -- here, so that each device is read once
    where due.turn = 1 and d.is_active
    order by due.priority desc, due.issued_at, due.issue_number limit p_devices + 1000
  ), free_devices as materialized (
    select device_id from public.device_commands
    where command_id = any (array(select command_id from next_ones))
      and status in ('pending', 'failed') and coalesce(due_at, 'infinity') <= p_claim.due_before
    order by priority desc, issued_at, issue_number limit p_devices
    for update skip locked
  ), chosen as materialized (
    select command_id, device_id, turn, priority, issued_at, issue_number from due
    where device_id in (select device_id from free_devices)
    order by turn > 20, priority desc, issued_at, issue_number limit p_commands
  )
  select array(select command_id from chosen order by turn > 20, priority desc, issued_at, issue_number),
    array(select device_id from chosen order by turn > 20, priority desc, issued_at, issue_number),
    (select count(*) from due)
  into ids, device_ids, due_count;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_due_commands', 'service_role');

-- Leases these commands, which are due and in the order of publishing. One that another transaction holds keeps back
-- the later ones of its device, so that their order stands. Returns [{command_id, rescued_from}]; rescued_from: the
-- other worker whose lease on it ran out, or null.
create or replace function mqtt_private.fn_lease_commands(
  p_ids uuid[], p_claim mqtt_private.claim, out leased jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with locked as materialized (
    select command_id,
      case when lease_until <= p_claim.now and lease_worker <> p_claim.worker then lease_worker end as rescued_from
    from public.device_commands
    where command_id = any (p_ids)
      and status in ('pending', 'failed') and coalesce(due_at, 'infinity') <= p_claim.due_before -- still so, now it is ours
    for update skip locked
  ), turns as materialized (
    select w.command_id, l.rescued_from,
      bool_and(l.command_id is not null) over (partition by c.device_id order by w.place) as free
    from unnest(p_ids) with ordinality as w (command_id, place)
    join public.device_commands c on c.command_id = w.command_id
    left join locked l on l.command_id = w.command_id
  ), changed as (
    update public.device_commands
    set status = 'pending', lease_worker = p_claim.worker, lease_until = p_claim.lease_until,
        due_at = p_claim.lease_until, attempt = attempt + 1
    where command_id = any (array(select command_id from turns where free))
    returning command_id
  )
  select coalesce(jsonb_agg(jsonb_build_object('command_id', t.command_id, 'rescued_from', t.rescued_from)), '[]')
  from changed c join turns t on t.command_id = c.command_id
  into leased;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_lease_commands', 'service_role');

-- Hand out -----------------------------------------------------------------------------------------------------

-- Returns the leased commands in the order of publishing, each with all that publishing needs. A command that cannot be
-- sent fails for good with the reason, and one whose time ran out expires: these come last, and have the key final.
create or replace function mqtt_private.fn_hand_out_commands(
  p_ids uuid[], p_claim mqtt_private.claim, out handed jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with leased as materialized (
    select c.command_id, c.device_id, c.command_type, coalesce(c.command_payload, '{}') as command_payload,
      c.attempt, c.retry_count, c.priority,
      c.issued_at, c.issue_number, d.device_code, d.device_name, d.device_mac,
      coalesce(d.mqtt_root, 'device') as topic_root, coalesce(d.mqtt_id, d.device_mac) as topic_id,
      wake.next_wake_at, life.is_over,
      case when life.is_over then 'expired: it could not be delivered in time'
        else coalesce(mqtt_private.fn_problem_of_payload(c.command_payload), wake.fault) end as fault,
      extract(epoch from case when not life.is_over then life.deadline - p_claim.now end) as seconds_to_expiry
    from public.device_commands c
    join public.devices d on d.device_id = c.device_id
    left join public.sites s on s.site_id = d.site_id
    left join lateral mqtt_private.fn_next_wake_of_command(c.command_payload, p_claim.now, s.timezone) wake
      on c.command_type = 'set_wake_schedule'
    cross join lateral (
      select least(coalesce(c.expires_at, greatest(c.issued_at, c.scheduled_for) + p_claim.time_to_live),
        p_claim.now + interval '100 years') as deadline) ends
    cross join lateral (select ends.deadline, ends.deadline <= p_claim.now as is_over) life
    where c.command_id = any (p_ids)
  ), failed as (
    update public.device_commands c
    set status = case when l.is_over then 'expired' else 'failed' end,
        retry_count = c.retry_count + case when l.is_over then 0 else 1 end,
        last_error = l.fault, due_at = null, lease_worker = null, lease_until = null
    from leased l where l.fault is not null and c.command_id = l.command_id
    returning c.command_id, c.device_id, l.device_code, c.command_type, c.retry_count, true as final,
      c.last_error as error
  )
  select coalesce((select jsonb_agg(to_jsonb(l) - array['priority', 'issue_number', 'is_over', 'fault']
      order by priority desc, issued_at, issue_number) from leased l where fault is null), '[]')
    || coalesce((select jsonb_agg(to_jsonb(failed)) from failed), '[]')
  into handed;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_hand_out_commands', 'service_role');

-- Past what the table refuses ----------------------------------------------------------------------------------

create or replace function mqtt_private.fn_run_step(
  p_step text, p_ids uuid[], p_claim mqtt_private.claim, out done jsonb)
language plpgsql volatile set search_path = '' as $$
begin
  done := case
    when p_ids = '{}' then '[]'
    when p_step = 'expire' then mqtt_private.fn_expire_commands(p_ids, p_claim)
    when p_step = 'fail' then mqtt_private.fn_fail_undeliverable_commands(p_ids, p_claim)
    when p_step = 'lease' then mqtt_private.fn_lease_commands(p_ids, p_claim)
    when p_step = 'hand out' then mqtt_private.fn_hand_out_commands(p_ids, p_claim)
  end;
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_step', 'service_role');

-- A command that cannot be leased fails with the reason, and is tried again like any other that failed. Returns
-- [{command_id, device_id, device_code, command_type, retry_count, final, error}]; '[]': the table refuses that too.
create or replace function mqtt_private.fn_fail_refused_command(
  p_id uuid, p_error text, p_claim mqtt_private.claim) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_failed jsonb;
begin
  with changed as (
    update public.device_commands c
    set status = 'failed', lease_worker = null, lease_until = null, retry_count = c.retry_count + 1,
        last_error = p_error,
        due_at = case when c.retry_count + 1 < p_claim.max_retries then p_claim.now + p_claim.retry_delay end
    from public.devices d
    where c.command_id = p_id and d.device_id = c.device_id and c.status in ('pending', 'failed')
    returning c.command_id, c.device_id, d.device_code, c.command_type, c.retry_count, c.due_at is null as final,
      c.last_error as error
  )
  select jsonb_agg(to_jsonb(changed)) from changed into v_failed;
  perform mqtt_private.fn_check_deferred_constraints();
  return coalesce(v_failed, '[]');
exception when others then
  if mqtt_private.fn_is_general_fault(sqlstate) then raise; end if;
  return '[]'; -- the caller names the first reason
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_fail_refused_command', 'service_role');

-- Runs a step over each of these commands alone, in their order, and passes over what the table refuses:
-- {command_id: error}. It ends after 1.5 seconds, and with p_limit when so many are done. With p_device_ids, the commands' devices, a command
-- that is refused fails with the reason (failed); one that cannot even fail, or is locked, keeps back the later ones of
-- its device.
create or replace function mqtt_private.fn_run_step_by_row(
  p_step text, p_ids uuid[], p_claim mqtt_private.claim, p_limit int default null, p_device_ids uuid[] default '{}',
  out done jsonb, out failed jsonb, out refused jsonb)
language plpgsql volatile set search_path = '' as $$
declare
  v_id uuid;
  v_device_id uuid;
  v_done jsonb;
  v_failed jsonb;
  v_fault mqtt_private.fault;
  v_error text;
  v_refused int := 0;
  v_left uuid[] := '{}'; -- devices of which nothing more is taken
  v_end constant timestamptz := clock_timestamp() + interval '1.5 seconds'; -- others wait for this claim
begin
  done := '[]';
  failed := '[]';
  refused := '{}';
  for v_id, v_device_id in select * from unnest(p_ids, p_device_ids) loop
    exit when jsonb_array_length(done) >= p_limit or v_refused >= 1000 or clock_timestamp() > v_end;
    continue when v_device_id = any (v_left);
    v_done := '[]';
    v_failed := '[]';
    begin
      v_done := mqtt_private.fn_run_step(p_step, array[v_id], p_claim);
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_fault(v_fault, 'device_commands');
      if v_error is null then raise; end if;
      if v_device_id is not null then
        v_failed := mqtt_private.fn_fail_refused_command(v_id, v_error, p_claim);
      end if;
      if v_failed = '[]' then
        v_refused := v_refused + 1;
        refused := refused || jsonb_build_object(v_id, v_error);
      end if;
    end;
    done := done || v_done;
    failed := failed || v_failed;
    if v_done || v_failed = '[]' then
      v_left := v_left || v_device_id;
    end if;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_step_by_row', 'service_role');

-- Runs a step over all these commands at once; if the table refuses one of them, over each alone.
create or replace function mqtt_private.fn_run_step_or_pass_over(
  p_step text, p_ids uuid[], p_claim mqtt_private.claim, out done jsonb, out refused jsonb)
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  done := mqtt_private.fn_run_step(p_step, p_ids, p_claim);
  refused := '{}';
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_fault(v_fault, 'device_commands');
  if v_error is null then raise; end if;
  select r.done, r.refused into done, refused
  from mqtt_private.fn_run_step_by_row(p_step, array(
    select command_id from public.device_commands
    where command_id = any (p_ids) order by priority desc, issued_at, issue_number), p_claim) r;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_step_or_pass_over', 'service_role');

-- Runs the step lease, up to the limit. Where a row is refused, rows of up to 1000 further devices take its place.
-- remain: due commands are left that a larger limit might have taken.
create or replace function mqtt_private.fn_lease_or_pass_over(
  p_claim mqtt_private.claim, p_limit int, out done jsonb, out failed jsonb, out refused jsonb, out remain boolean)
language plpgsql volatile set search_path = '' as $$
declare
  v_due record;
  v_fault mqtt_private.fault;
  v_error text;
  v_first constant int := floor(random() * 4294967296 - 2147483648);
begin
  failed := '[]';
  v_due := mqtt_private.fn_find_due_commands(p_claim, p_limit, p_limit);
  done := mqtt_private.fn_run_step('lease', v_due.ids, p_claim);
  refused := '{}';
  remain := v_due.due_count > jsonb_array_length(done);
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_fault(v_fault, 'device_commands');
  if v_error is null then raise; end if;
  v_due := mqtt_private.fn_find_due_commands(p_claim, p_limit + 1000, null);
  if cardinality(v_due.ids) > 400 then
    -- more than there may be time for: another device is first each time, so that none waits behind refused ones
    select array_agg(id order by hashtext(device_id::text) < v_first, place),
      array_agg(device_id order by hashtext(device_id::text) < v_first, place)
    into v_due.ids, v_due.device_ids
    from unnest(v_due.ids, v_due.device_ids) with ordinality as due (id, device_id, place);
  end if;
  select r.done, r.failed, r.refused into done, failed, refused
  from mqtt_private.fn_run_step_by_row('lease', v_due.ids, p_claim, p_limit, v_due.device_ids) r;
  remain := jsonb_array_length(done) >= p_limit or failed <> '[]';
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_lease_or_pass_over', 'service_role');

-- The first 20 of these commands, {command_id: error}, with their devices: [{command_id, device_code, error, waiting}].
-- waiting: how many due commands of the device wait behind one that cannot be leased (p_unleased).
create or replace function mqtt_private.fn_name_refused_commands(p_refused jsonb, p_unleased jsonb) returns jsonb
language plpgsql stable set search_path = public, extensions as $$
begin
  return coalesce((
    select jsonb_agg(to_jsonb(named)) from (
      select c.command_id, d.device_code, p_refused ->> c.command_id::text as error, (
          select count(*) from public.device_commands w
          where p_unleased ? c.command_id::text and w.device_id = c.device_id and w.due_at <= clock_timestamp() and w.lease_until is null
            and not p_refused ? w.command_id::text) as waiting
      from public.device_commands c join public.devices d on d.device_id = c.device_id
      where c.command_id = any (array(select jsonb_object_keys(p_refused)::uuid))
      order by c.priority desc, c.issued_at, c.issue_number limit 20) named), '[]');
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_name_refused_commands', 'service_role');

-- Claim --------------------------------------------------------------------------------------------------------

-- Takes up to p_limit due commands for p_worker and leases them for p_lease_seconds; also expires and fails what is
-- due for that, and fails pictures that were never finished. p_held are the commands that this worker still has in
-- hand; what is leased to it and not held is handed out again at once, under the same attempt.
-- p_standby_seconds: the worker stands by beside another service that sends commands as they come; it takes, fails and
-- expires only what has been due, or over, for longer than that, and so what the other did not take.
-- Returns {now, commands, failed, expired, refused, refused_count, rescued, unknown_types, welcome_due, visits_due,
-- more, seconds_to_next_due}.
--   refused     the first 20 commands that were passed over: [{command_id, device_code, error, waiting}]
--   rescued     the workers whose leases ran out on some of these commands: {worker: how many}
--   unknown_types  types of rows that are left alone, since nobody listed them in device_command_types
--   visits_due  a device is awake whose worker is gone (fn_take_over_visits)
--   more        another claim, at once, would take more
create or replace function public.fn_claim_commands(
  p_worker text, p_limit int default 200, p_lease_seconds double precision default 30,
  p_max_retries int default 3, p_retry_delay_seconds double precision default 30,
  p_command_ttl_seconds double precision default 86400, p_held uuid[] default '{}',
  p_standby_seconds double precision default 0
) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_claim mqtt_private.claim;
  v_expired record;
  v_failed record;
  v_leased record;
  v_handed record;
  v_refused jsonb;
  v_ids uuid[];
begin
  perform mqtt_private.fn_require_worker(p_worker);
  perform pg_advisory_xact_lock(7205759401);  -- claims are serial, so no two take one device
  v_claim.now := clock_timestamp();           -- now that we have the lock: the wait must not shorten the leases
  v_claim.due_before := v_claim.now - make_interval(secs => p_standby_seconds);
  v_claim.worker := p_worker;
  v_claim.lease_until := v_claim.now + make_interval(secs => p_lease_seconds);
  v_claim.held := coalesce(p_held, '{}');
  v_claim.time_to_live := make_interval(secs => p_command_ttl_seconds);
  v_claim.max_retries := p_max_retries;
  v_claim.retry_delay := make_interval(secs => p_retry_delay_seconds);

  v_expired := mqtt_private.fn_run_step_or_pass_over(
    'expire', mqtt_private.fn_find_overdue_commands(v_claim), v_claim);
  v_failed := mqtt_private.fn_run_step_or_pass_over(
    'fail', mqtt_private.fn_find_undeliverable_commands(v_claim), v_claim);
  v_ids := mqtt_private.fn_find_unseen_commands(v_claim, greatest(p_limit, 0));
  -- what could not expire or fail is not to be sent either
  v_claim.held := v_claim.held || array(select jsonb_object_keys(v_expired.refused || v_failed.refused)::uuid);
  v_leased := mqtt_private.fn_lease_or_pass_over(v_claim, greatest(p_limit - cardinality(v_ids), 0));
  v_ids := v_ids || array(
    select (element ->> 'command_id')::uuid from jsonb_array_elements(v_leased.done) as e (element));
  v_handed := mqtt_private.fn_run_step_or_pass_over('hand out', v_ids, v_claim);
  v_refused := v_handed.refused || v_leased.refused || v_failed.refused || v_expired.refused;
  if v_claim.due_before = v_claim.now then -- the other service sees to pictures
    perform mqtt_private.fn_fail_stale_images(v_claim.now);
  end if;

  return jsonb_build_object(
    'now', v_claim.now,
    'commands', jsonb_path_query_array(v_handed.done, '$[*] ? (!exists(@.final))'),
    'failed', v_failed.done || v_leased.failed || jsonb_path_query_array(v_handed.done, '$[*] ? (exists(@.final))'),
    'expired', v_expired.done,
    'refused', mqtt_private.fn_name_refused_commands(v_refused, v_leased.refused),
    'refused_count', (select count(*) from jsonb_object_keys(v_refused)),
    'rescued', coalesce((
      select jsonb_object_agg(worker, commands) from (
        select element ->> 'rescued_from' as worker, count(*) as commands
        from jsonb_array_elements(v_leased.done) as e (element)
        where element ->> 'rescued_from' is not null group by 1) rescued), '{}'),
    'unknown_types', array(
      select command_type from mqtt_private.unknown_command_types
      where not mqtt_private.fn_knows_command_type(command_type) order by command_type),
    'more', v_leased.remain and (cardinality(v_ids) > 0 or v_leased.failed <> '[]'), -- else asking again at once would gain nothing
    'welcome_due', exists (select from public.devices where welcome_due and is_active),
    'visits_due', mqtt_private.fn_are_visits_due(v_claim.now),
    'seconds_to_next_due', (
      select extract(epoch from due_at - v_claim.due_before) from public.device_commands
      where due_at > v_claim.due_before and due_at < 'infinity' order by due_at limit 1));
end
$$;
call mqtt_private.grant_execute(
  'public.fn_claim_commands(text, int, double precision, int, double precision, double precision, uuid[], '
  'double precision)', 'service_role');

-- Settle -------------------------------------------------------------------------------------------------------

-- Applies these results to the rows, all at once. p_results, and the answer: see fn_settle_commands.
create or replace function mqtt_private.fn_settle_rows(
  p_worker text, p_results jsonb, p_max_retries int, p_retry_delay interval) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_answer jsonb;
begin
  with results as materialized (
    select r.*, row_number() over (partition by r.command_id, r.attempt order by r.place) = 1 as first
    from rows from (jsonb_to_recordset(p_results) as (
      command_id uuid, attempt bigint, outcome text, error text, retry boolean, no_listener boolean
    )) with ordinality as r (command_id, attempt, outcome, error, retry, no_listener, place)
  ), settled as (
    update public.device_commands c
    set lease_worker = null, lease_until = null,
        status = case r.outcome when 'sent' then 'sent' when 'failed' then 'failed' else 'pending' end,
        delivered_at = case r.outcome when 'sent' then now() else c.delivered_at end,
        no_listener = case r.outcome when 'sent' then coalesce(r.no_listener, false) else c.no_listener end,
        retry_count = c.retry_count + case r.outcome when 'failed' then 1 else 0 end,
        last_error = case r.outcome when 'sent' then null when 'failed' then r.error else c.last_error end,
        due_at = case
          when r.outcome = 'released' then coalesce(c.scheduled_for, c.issued_at)
          when r.outcome = 'failed' and coalesce(r.retry, true) and c.retry_count + 1 < p_max_retries
            then now() + p_retry_delay
        end
    from results r
    where r.first and r.outcome in ('sent', 'failed', 'released')
      and c.command_id = r.command_id and c.attempt = r.attempt
      and c.lease_worker = p_worker and c.status = 'pending'
    returning c.command_id, c.attempt, c.status, c.retry_count, c.due_at
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', r.command_id,
    'result', case when s.command_id is not null
                or (r.first and c.attempt = r.attempt and c.lease_worker is null and case r.outcome
                  -- A device can answer before its command is settled: then it was sent, as reported.
                  when 'sent' then c.status in ('sent', 'acknowledged')
                  when 'failed' then c.status = 'failed'
                  when 'released' then c.status = 'pending' end)
              then 'settled' else 'stale' end,
    'status', coalesce(s.status, c.status),
    'retry_count', coalesce(s.retry_count, c.retry_count),
    'final', case coalesce(s.status, c.status)
      when 'pending' then false when 'sent' then false
      when 'failed' then case when s.command_id is null then c.due_at is null else s.due_at is null end
      else true end
    ) order by r.place), '[]')
  from results r
  left join settled s on r.first and s.command_id = r.command_id and s.attempt = r.attempt
  left join public.device_commands c on c.command_id = r.command_id
  into v_answer;
  perform mqtt_private.fn_check_deferred_constraints();
  return v_answer;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_settle_rows', 'service_role');

-- The same past what the table refuses: that result is refused, with the reason, and its row stays as it is.
create or replace function mqtt_private.fn_settle_rows_or_pass_over(
  p_worker text, p_results jsonb, p_max_retries int, p_retry_delay interval) returns jsonb
language plpgsql volatile set search_path = '' as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  return mqtt_private.fn_settle_rows(p_worker, p_results, p_max_retries, p_retry_delay);
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_fault(v_fault, 'device_commands');
  if v_error is null then raise; end if;
  if jsonb_array_length(p_results) = 1 then
    return jsonb_build_array(jsonb_build_object(
      'command_id', p_results -> 0 -> 'command_id', 'result', 'refused', 'error', v_error));
  end if;
  return (
    select jsonb_agg(mqtt_private.fn_settle_rows_or_pass_over(
      p_worker, jsonb_build_array(result), p_max_retries, p_retry_delay) -> 0 order by place)
    from jsonb_array_elements(p_results) with ordinality as r (result, place));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_settle_rows_or_pass_over', 'service_role');

-- Reports what became of claimed commands. p_results: [{command_id, attempt, outcome: sent|failed|released, error?,
-- retry? (default true), no_listener?}]. A row changes only while p_worker still holds this attempt of it; else the
-- result is stale. A report that is sent again changes nothing, and is settled while the row is still as it left it.
-- released gives the command back: no failure is counted, and it keeps its place.
-- Returns, in order, [{command_id, result: settled|stale|refused, status, retry_count, final, error?}]; refused: the
-- table refuses the change, error says why, and the row is still leased.
create or replace function public.fn_settle_commands(
  p_worker text, p_results jsonb, p_max_retries int default 3, p_retry_delay_seconds double precision default 30
) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions set lock_timeout = '2s' as $$
begin
  perform mqtt_private.fn_lock_devices(array(
    select c.device_id from jsonb_to_recordset(p_results) as r (command_id uuid)
    join public.device_commands c on c.command_id = r.command_id));
  return mqtt_private.fn_settle_rows_or_pass_over(
    p_worker, p_results, p_max_retries, make_interval(secs => p_retry_delay_seconds));
end
$$;
call mqtt_private.grant_execute('public.fn_settle_commands(text, jsonb, int, double precision)', 'service_role');
