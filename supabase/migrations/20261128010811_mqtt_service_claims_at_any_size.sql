-- Claims and settlements whose cost grows with what they take, and not with what else is there.
--
-- A claim looks at rows by three indexes, each on live states alone; a row that waits is in one of them:
--   ready   never claimed, for no particular time: in the order of publishing, so that a claim reads as many as it takes
--   later   all others that no worker has leased: scheduled, failed, given back; by the time when they are due
--   leased  by the end of the lease
-- So neither finished rows, nor those for later, nor a backlog behind what is taken are read. Of what is due out of
-- `later` all is read: a claim costs more while many rows that were scheduled or failed are due at once.
--
-- The planner takes a step of a statement for one row and joins it by nested loops, whatever the rows: 500 rows beside
-- 500 are 250,000 comparisons. So what a step found goes on as an array, and is looked up by key or in a hash.

create index if not exists device_commands_ready_idx
  on public.device_commands (priority desc, issued_at, issue_number)
  where due_at is not null and lease_until is null and attempt = 0 and status = 'pending' and scheduled_for is null;
create index if not exists device_commands_later_idx on public.device_commands (due_at)
  where due_at is not null and lease_until is null and (attempt > 0 or status <> 'pending' or scheduled_for is not null);
create index if not exists device_commands_leases_idx on public.device_commands (lease_until)
  where lease_until is not null;

-- Fail ---------------------------------------------------------------------------------------------------------

-- Commands for devices that are not active fail when their turn comes: those among the next 1000. So does a failed
-- command that has used up its retries (the limit was lowered meanwhile).
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
    select command_id from due
    where used_up or device_id in (select device_id from inactive)
    order by due_at limit 1000);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_undeliverable_commands', 'service_role');

-- Lease --------------------------------------------------------------------------------------------------------

-- The due commands of up to p_devices active devices, up to p_commands of them, in the order of publishing, with their
-- devices beside them; due_count: how many are due for all devices, or more than p_commands.
--
-- No device keeps the others out. One whose next command is locked is left before the limit is applied (up to 1000
-- such devices), so a claim leases something whenever some device can go on. And the first 20 commands of each device
-- go before the rest of any. So where what was read does not fill the claim without that rest, four times as much is
-- read, without the devices that are not active, until nothing is left.
create or replace function mqtt_private.fn_find_due_commands(
  p_claim mqtt_private.claim, p_devices int, p_commands int, out ids uuid[], out device_ids uuid[], out due_count int)
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_left uuid[] := array( -- devices that another worker is sending to, and what turns out not to be active
    select device_id from public.device_commands
    where lease_until > p_claim.now and lease_worker <> p_claim.worker);
  v_window int := p_commands + 200; -- null: all
  v_first int; -- how many of those chosen are among the first 20 of their device
  v_inactive uuid[];
begin
  loop
    with listed as (
      (select command_id, device_id, priority, issued_at, issue_number
       from public.device_commands
       where due_at is not null and lease_until is null and attempt = 0 and status = 'pending' and scheduled_for is null
         and due_at <= p_claim.due_before
         and device_id not in (select unnest(v_left)) and command_id not in (select unnest(p_claim.held))
       order by priority desc, issued_at, issue_number limit v_window)
      union all
      (select command_id, device_id, priority, issued_at, issue_number
       from public.device_commands
       where due_at <= p_claim.due_before and lease_until is null
         and (attempt > 0 or status <> 'pending' or scheduled_for is not null)
         and device_id not in (select unnest(v_left)) and command_id not in (select unnest(p_claim.held)))
      union all
      (select command_id, device_id, priority, issued_at, issue_number
       from public.device_commands
       where lease_until <= p_claim.now and due_at <= p_claim.due_before
         and device_id not in (select unnest(v_left)) and command_id not in (select unnest(p_claim.held)))
    ), due as materialized (
      select l.*, row_number() over (
        partition by l.device_id order by l.priority desc, l.issued_at, l.issue_number) as turn
      from (select * from listed order by priority desc, issued_at, issue_number limit v_window) l
    ), active as materialized (
      select d.device_id from public.devices d
      where d.device_id = any (array(select distinct due.device_id from due)) and d.is_active
    ), next_ones as materialized (
      select due.command_id from due
      where due.turn = 1 and due.device_id in (select device_id from active)
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
      (select count(*) from due), (select count(*) from chosen where turn <= 20),
      array(select distinct device_id from due where device_id not in (select device_id from active))
    into ids, device_ids, due_count, v_first, v_inactive;
    exit when v_window is null or due_count < v_window or v_first >= p_commands;
    v_left := v_left || v_inactive;
    v_window := least(v_window * 4::bigint, 2147483647);
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_due_commands', 'service_role');

-- Leases these commands, which are due and in the order of publishing. One that another transaction holds keeps back
-- the later ones of its device, so that their order stands. Returns [{command_id, rescued_from}]; rescued_from: the
-- other worker whose lease on it ran out, or null.
create or replace function mqtt_private.fn_lease_commands(
  p_ids uuid[], p_claim mqtt_private.claim, out leased jsonb)
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_free uuid[];
  v_rescued jsonb; -- {command_id: worker}
begin
  with locked as materialized (
    select command_id,
      case when lease_until <= p_claim.now and lease_worker <> p_claim.worker then lease_worker end as rescued_from
    from public.device_commands
    where command_id = any (p_ids)
      and status in ('pending', 'failed') and coalesce(due_at, 'infinity') <= p_claim.due_before -- still so, now it is ours
    for update skip locked
  )
  select array_agg(command_id),
    coalesce(jsonb_object_agg(command_id, rescued_from) filter (where rescued_from is not null), '{}')
  from locked
  into v_free, v_rescued;
  if cardinality(v_free) < cardinality(p_ids) then
    v_free := array(
      select turn.command_id from (
        select c.command_id, bool_and(c.command_id in (select unnest(v_free)))
          over (partition by c.device_id order by array_position(p_ids, c.command_id)) as free
        from public.device_commands c
        where c.command_id = any (p_ids)) turn
      where turn.free);
  end if;
  with changed as (
    update public.device_commands
    set status = 'pending', lease_worker = p_claim.worker, lease_until = p_claim.lease_until,
        due_at = p_claim.lease_until, attempt = attempt + 1
    where command_id = any (v_free)
    returning command_id
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', command_id, 'rescued_from', v_rescued ->> command_id::text)), '[]')
  from changed
  into leased;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_lease_commands', 'service_role');

-- Hand out -----------------------------------------------------------------------------------------------------

-- Returns the leased commands in the order of publishing, each with all that publishing needs. A command that cannot be
-- sent fails for good with the reason, and one whose time ran out expires: these come last, and have the key final.
-- waited_seconds: since it was to be sent.
create or replace function mqtt_private.fn_hand_out_commands(
  p_ids uuid[], p_claim mqtt_private.claim, out handed jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with leased as materialized (
    select c.command_id, c.device_id, c.command_type, coalesce(c.command_payload, '{}') as command_payload,
      c.attempt, c.retry_count, c.priority,
      case when isfinite(greatest(c.issued_at, c.scheduled_for))
        then extract(epoch from p_claim.now - greatest(c.issued_at, c.scheduled_for)) end as waited_seconds,
      c.issued_at, c.issue_number, d.device_code, d.device_name, d.device_mac,
      coalesce(d.mqtt_root, 'device') as topic_root, coalesce(d.mqtt_id, d.device_mac) as topic_id,
      wake.next_wake_at, life.is_over,
      case when life.is_over then 'expired: it could not be delivered in time'
        else coalesce(mqtt_private.fn_problem_of_payload(c.command_payload), wake.fault) end as fault,
      extract(epoch from case when not life.is_over then life.deadline - p_claim.now end) as seconds_to_expiry
    from public.device_commands c
    join public.devices d on d.device_id = c.device_id
    left join public.sites s on s.site_id = d.site_id
    left join lateral ( -- called for these alone: as a join's condition, the type is looked at after the call
      select w.next_wake_at, w.fault
      from mqtt_private.fn_next_wake_of_command(c.command_payload, p_claim.now, s.timezone) w
      where c.command_type = 'set_wake_schedule' offset 0) wake on true
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

-- Claim --------------------------------------------------------------------------------------------------------

-- See …_claim_and_settle.sql. New: `more` also where as many commands have failed as one claim fails, so that many for
-- devices that are not active are done with soon.
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
    'more', v_leased.remain and (cardinality(v_ids) > 0 or v_leased.failed <> '[]') -- else asking again gains nothing
      or jsonb_array_length(v_failed.done) >= 1000, -- as many as one claim fails
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

-- Applies these results to the rows, all at once. p_results, and the answer: see fn_settle_commands in
-- …_claim_and_settle.sql; a result sent may have a notice too.
create or replace function mqtt_private.fn_settle_rows(
  p_worker text, p_results jsonb, p_max_retries int, p_retry_delay interval) returns jsonb
language plpgsql volatile set search_path = public, extensions
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_settled uuid[];
  v_answer jsonb;
begin
  with results as materialized (
    select r.*, row_number() over (partition by r.command_id, r.attempt order by r.place) = 1 as first
    from rows from (jsonb_to_recordset(p_results) as (
      command_id uuid, attempt bigint, outcome text, error text, retry boolean, no_listener boolean, notice text
    )) with ordinality as r (command_id, attempt, outcome, error, retry, no_listener, notice, place)
  ), settled as (
    update public.device_commands c
    set lease_worker = null, lease_until = null,
        status = case r.outcome when 'sent' then 'sent' when 'failed' then 'failed' else 'pending' end,
        delivered_at = case r.outcome when 'sent' then now() else c.delivered_at end,
        no_listener = case r.outcome when 'sent' then coalesce(r.no_listener, false) else c.no_listener end,
        delivery_notice = case r.outcome when 'sent' then left(r.notice, 1000) else c.delivery_notice end,
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
    returning c.command_id
  ), noticed as (
    update public.device_commands c
    set delivery_notice = left(r.notice, 1000)
    from results r
    where r.notice is not null and r.first and r.outcome = 'sent'
      and c.command_id = r.command_id and c.attempt = r.attempt and c.status = 'acknowledged' -- before it was settled
  )
  select array_agg(command_id) from settled into v_settled;

  -- The rows as they are now. A row has one attempt, so what was settled is the result that names it.
  with results as materialized (
    select r.*, row_number() over (partition by r.command_id, r.attempt order by r.place) = 1 as first,
      r.command_id in (select unnest(v_settled)) as settled
    from rows from (jsonb_to_recordset(p_results) as (command_id uuid, attempt bigint, outcome text))
      with ordinality as r (command_id, attempt, outcome, place)
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', r.command_id,
    'result', case when r.first and c.attempt = r.attempt and (r.settled
                or (c.lease_worker is null and case r.outcome
                  -- A device can answer before its command is settled: then it was sent, as reported.
                  when 'sent' then c.status in ('sent', 'acknowledged')
                  when 'failed' then c.status = 'failed'
                  when 'released' then c.status = 'pending' end))
              then 'settled' else 'stale' end,
    'status', c.status,
    'retry_count', c.retry_count,
    'final', case c.status
      when 'pending' then false when 'sent' then false when 'failed' then c.due_at is null else true end
    ) order by r.place), '[]')
  from results r
  left join lateral (
    select attempt, lease_worker, status, retry_count, due_at from public.device_commands
    where command_id = r.command_id offset 0) c on true
  into v_answer;
  perform mqtt_private.fn_check_deferred_constraints();
  return v_answer;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_settle_rows', 'service_role');
