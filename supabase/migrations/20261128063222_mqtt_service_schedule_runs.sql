-- Recurring commands are queued by the claims: each occurrence once for each device, however many workers there are.
--
-- A claim looks at next_run_at, by one probe of an index, and queues what is due, page by page in the order of device_id:
-- at most 500 devices and 25 schedules a claim. Where that is not all, it says that the next claim is due at once. Claims
-- are serial, the schedule's row is locked, and how far a run has come is written in the transaction that queues: a claim
-- that is rolled back has queued nothing. The commands' idempotency keys name schedule, occurrence and device.

-- Queueing -----------------------------------------------------------------------------------------------------

-- Queues an occurrence for these devices; returns for how many. At a site's wakes each gets it at its share of the spread.
create or replace function mqtt_private.fn_queue_occurrence(
  p_schedule public.command_schedules, p_now timestamptz, p_device_ids uuid[]) returns int
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_queued int;
begin
  insert into public.device_commands (device_id, command_type, command_payload, priority, scheduled_for, expires_at,
    idempotency_key, created_by_user_id)
  select device.id, p_schedule.command_type, p_schedule.command_payload, p_schedule.priority, wake.at,
    greatest(p_now, wake.at) + p_schedule.validity,
    format('schedule:%s:%s:%s', p_schedule.schedule_id,
      to_char(p_schedule.next_run_at at time zone 'UTC', 'YYYYMMDDHH24MISS'), device.id),
    -- an adopted table's own column may refer to other ids than those of auth.users
    case when not mqtt_private.fn_was_adopted('public.device_commands') then p_schedule.created_by_user_id end
  from unnest(p_device_ids) as device (id)
  cross join lateral (
    select case when p_schedule.cron is null
      then p_schedule.next_run_at + make_interval(secs => coalesce(mqtt_private.fn_wake_shift(device.id), 0)) end) wake (at)
  on conflict do nothing;
  get diagnostics v_queued = row_count;
  perform mqtt_private.fn_check_deferred_constraints();
  return v_queued;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_occurrence', 'service_role');

-- The same; where the project's own rules refuse a row, device by device past those. error: why the last was refused.
create or replace function mqtt_private.fn_queue_occurrence_or_pass_over(
  p_schedule public.command_schedules, p_now timestamptz, p_device_ids uuid[], out queued int, out refused int,
  out error text)
language plpgsql volatile set search_path = '' as $$
declare
  v_parts jsonb := jsonb_build_array(to_jsonb(p_device_ids));
  v_part uuid[];
  v_fault mqtt_private.fault;
begin
  queued := 0; refused := 0;
  while jsonb_array_length(v_parts) > 0 loop
    v_part := array(select jsonb_array_elements_text(v_parts -> 0))::uuid[];
    v_parts := v_parts - 0;
    begin
      queued := queued + mqtt_private.fn_queue_occurrence(p_schedule, p_now, v_part);
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      if mqtt_private.fn_explain_refusal(v_fault, 'device_commands') is null then raise; end if;
      if cardinality(v_part) = 1 then
        refused := refused + 1;
        error := mqtt_private.fn_explain_refusal(v_fault, 'device_commands');
      else -- halves, down to the rows that are refused
        v_parts := v_parts || jsonb_build_array(v_part[1 : cardinality(v_part) / 2],
          v_part[cardinality(v_part) / 2 + 1 :]);
      end if;
    end;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_occurrence_or_pass_over', 'service_role');

-- Runs ---------------------------------------------------------------------------------------------------------

-- What became of a run, for a person.
create or replace function mqtt_private.fn_describe_run(p_run public.command_schedule_runs, p_late boolean) returns text
language sql immutable parallel safe set search_path = '' as $$
  select concat_ws(', ',
    case when p_run.queued + p_run.not_active + p_run.not_found + p_run.refused = 0 then 'queued 0: no device fits the target'
      else format('queued %s', p_run.queued) end,
    case when p_run.not_active > 0 then format('skipped %s that are not active: map them to a site', p_run.not_active) end,
    case when p_run.not_found > 0
      then format('skipped %s that are not devices of the company or do not fit the target', p_run.not_found) end,
    case when p_run.refused > 0 then format('refused %s', p_run.refused) end,
    case when p_late then 'late, once for all that were missed' end)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_describe_run', 'service_role');

-- Moves a schedule on to its first occurrence after p_after. One whose site has a schedule that cannot be read stops, and
-- says so.
create or replace function mqtt_private.fn_move_schedule_on(
  p_schedule public.command_schedules, p_after timestamptz, p_result text) returns void
language plpgsql volatile set search_path = '' as $$
declare
  v_next timestamptz;
  v_fault text;
begin
  begin
    v_next := mqtt_private.fn_next_occurrence(p_schedule.cron, p_schedule.timezone, p_schedule.target, p_after);
  exception when data_exception or integrity_constraint_violation then
    v_fault := 'stopped, until its schedule can be read: ' || sqlerrm;
  end;
  update public.command_schedules
  set next_run_at = v_next, last_result = left(concat_ws('; ', p_result, v_fault), 2000)
  where schedule_id = p_schedule.schedule_id;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_move_schedule_on', 'service_role');

-- Ends a run, which goes on at no later claim.
create or replace function mqtt_private.fn_finish_run(
  p_schedule public.command_schedules, p_run public.command_schedule_runs, p_now timestamptz, p_error text) returns void
language plpgsql volatile set search_path = '' as $$
declare
  v_late constant boolean := p_run.started_at > p_run.occurrence + interval '5 minutes';
  v_result constant text := left(
    concat_ws(': ', mqtt_private.fn_describe_run(p_run, v_late), p_error), 2000);
begin
  update public.command_schedule_runs set finished_at = p_now, result = v_result
  where schedule_id = p_run.schedule_id and occurrence = p_run.occurrence;
  delete from public.command_schedule_runs
  where schedule_id = p_run.schedule_id and occurrence < (
    select occurrence from public.command_schedule_runs
    where schedule_id = p_run.schedule_id order by occurrence desc offset 19 limit 1);
  update public.command_schedules set last_run_at = p_run.occurrence where schedule_id = p_run.schedule_id;
  perform mqtt_private.fn_move_schedule_on(
    p_schedule, case when v_late then p_now else p_run.occurrence end, v_result);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_finish_run', 'service_role');

-- Queues the next page of the occurrence that is due, or skips it; returns how many devices it looked at. It does not wait
-- for a device that somebody holds for update, or deletes: every claim would wait with it.
create or replace function mqtt_private.fn_run_schedule(
  p_schedule public.command_schedules, p_now timestamptz, p_rows int) returns int
language plpgsql volatile set search_path = '' set lock_timeout = '50ms' as $$
declare
  v_run public.command_schedule_runs;
  v_page uuid[];
  v_found record;
  v_done record;
begin
  select * into v_run from public.command_schedule_runs
  where schedule_id = p_schedule.schedule_id and occurrence = p_schedule.next_run_at;
  if v_run.finished_at is not null then -- the clock went back, and somebody paused and resumed it
    perform mqtt_private.fn_move_schedule_on(p_schedule, p_schedule.next_run_at, v_run.result);
    return 0;
  elsif v_run.schedule_id is null and p_schedule.missed = 'skip'
    and p_schedule.next_run_at < p_now - interval '5 minutes'
  then
    perform mqtt_private.fn_move_schedule_on(p_schedule, p_now - interval '5 minutes', format(
      'skipped: nobody saw to what was due from %s UTC on',
      to_char(p_schedule.next_run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')));
    return 0;
  elsif v_run.schedule_id is null then
    insert into public.command_schedule_runs (schedule_id, occurrence, started_at)
    values (p_schedule.schedule_id, p_schedule.next_run_at, p_now) returning * into v_run;
  end if;
  v_page := mqtt_private.fn_list_candidates(p_schedule.target, p_schedule.company_id, v_run.last_device_id, p_rows);
  v_found := mqtt_private.fn_match_target(p_schedule.target, p_schedule.company_id, v_page);
  v_done := mqtt_private.fn_queue_occurrence_or_pass_over(p_schedule, p_now, v_found.active_ids);
  update public.command_schedule_runs
  set last_device_id = coalesce(v_page[cardinality(v_page)], last_device_id),
      queued = queued + v_done.queued, refused = refused + v_done.refused,
      not_active = not_active + cardinality(v_found.ids) - cardinality(v_found.active_ids),
      not_found = not_found + case when p_schedule.target ? 'devices'
        then cardinality(v_page) - cardinality(v_found.ids) else 0 end,
      result = coalesce(v_done.error, result)
  where schedule_id = v_run.schedule_id and occurrence = v_run.occurrence
  returning * into v_run;
  if cardinality(v_page) < p_rows then
    perform mqtt_private.fn_finish_run(p_schedule, v_run, p_now, v_run.result);
  end if;
  return cardinality(v_page);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_schedule', 'service_role');

-- The same, for a claim, which nothing of a schedule's may stop: one that cannot be queued at all stops, and says why; one
-- whose devices somebody holds waits for the next claim.
create or replace function mqtt_private.fn_run_schedule_or_stop_it(
  p_schedule public.command_schedules, p_now timestamptz, p_rows int) returns int
language plpgsql volatile set search_path = '' as $$
begin
  return mqtt_private.fn_run_schedule(p_schedule, p_now, p_rows);
exception when others then
  if mqtt_private.fn_is_general_fault(sqlstate) then raise; end if;
  if sqlstate = '55P03' then return 0; end if;
  update public.command_schedules
  set next_run_at = null, last_result = left(format('stopped: %s (%s); resume it when that is mended',
    sqlerrm, sqlstate), 2000)
  where schedule_id = p_schedule.schedule_id;
  return 0;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_schedule_or_stop_it', 'service_role');

-- Queues what is due: at most p_rows devices of p_schedules schedules, and for two seconds, since the project's own triggers
-- may be slow. Each gets a fair part, so that one for 100,000 devices does not keep the others waiting. A schedule that
-- somebody else holds waits for the next claim.
create or replace function mqtt_private.fn_queue_due_schedules(
  p_now timestamptz, p_rows int default 500, p_schedules int default 25) returns void
language plpgsql volatile set search_path = '' as $$
declare
  v_due public.command_schedules[] := array(
    select s from public.command_schedules s
    where next_run_at <= p_now order by next_run_at limit p_schedules for update skip locked);
  v_schedule public.command_schedules;
  c_page constant int := 50;
  c_until constant timestamptz := clock_timestamp() + interval '2 seconds';
  v_rows int := p_rows;
  v_waiting int := cardinality(v_due);
  v_part int;
  v_seen int;
begin
  if v_waiting = 0 then return; end if;
  -- the claim that queues them takes them: it need not ring, nor wake itself (…_doorbell.sql)
  perform set_config('mqtt_service.rung_in', pg_current_xact_id()::text, true);
  foreach v_schedule in array v_due loop
    v_part := least(v_rows, greatest(v_rows / v_waiting, c_page));
    v_waiting := v_waiting - 1;
    loop
      if v_rows <= 0 or clock_timestamp() > c_until then return; end if;
      v_seen := mqtt_private.fn_run_schedule_or_stop_it(v_schedule, p_now, least(v_part, c_page));
      v_rows := v_rows - v_seen;
      exit when v_seen < c_page or v_seen = v_part; -- it is done, or has had its part
      v_part := v_part - v_seen;
    end loop;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_due_schedules', 'service_role');

-- In how many seconds a claim is to look at schedules again; null: there are none. 0.05 where some are due that this
-- claim did not come to, but for those that somebody else holds.
create or replace function mqtt_private.fn_seconds_to_next_schedule(p_now timestamptz) returns double precision
language plpgsql volatile set search_path = '' as $$
declare
  v_next timestamptz := (
    select next_run_at from public.command_schedules where next_run_at is not null order by next_run_at limit 1);
begin
  if v_next <= p_now then
    select next_run_at into v_next from public.command_schedules
    where next_run_at is not null order by next_run_at limit 1 for update skip locked;
  end if;
  return case when v_next is not null then greatest(extract(epoch from v_next - p_now), 0.05) end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_seconds_to_next_schedule', 'service_role');

-- Claim --------------------------------------------------------------------------------------------------------

-- See …_claims_at_any_size.sql. New: it first queues what schedules have due, and wakes the worker for the next of them.
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

  perform mqtt_private.fn_queue_due_schedules(v_claim.now);
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
    'seconds_to_next_due', least(mqtt_private.fn_seconds_to_next_schedule(v_claim.now), (
      select extract(epoch from due_at - v_claim.due_before) from public.device_commands
      where due_at > v_claim.due_before and due_at < 'infinity' order by due_at limit 1)));
end
$$;
call mqtt_private.grant_execute(
  'public.fn_claim_commands(text, int, double precision, int, double precision, double precision, uuid[], '
  'double precision)', 'service_role');

-- The version of the newest of these files. Each later migration replaces this function with its own version.
create or replace function mqtt_private.fn_schema_version() returns text
language sql immutable parallel safe set search_path = '' as $$
  select '20261128063222'
$$;
call mqtt_private.grant_execute('mqtt_private.fn_schema_version', 'service_role');
