-- Claims release the devices of rollouts, count what became of their commands, and hold commands whose windows are closed.
--
-- A claim reads, by one probe of an index each: which rollouts are due or have changed (at most 25), which commands of
-- rollouts have changed (at most 1000), which windows have closed, which held commands' windows open (at most 1000).
-- Claims are serial, and how far a rollout has come is written in the transaction that releases: a claim that is rolled
-- back has released nothing. The commands' idempotency keys name rollout and device, and so does the key of
-- rollout_devices: each device gets it once.
--
-- A rollout keeps at most 1000 commands that were not sent yet, or one minute's rate: then it waits for the queue.

-- Counting -----------------------------------------------------------------------------------------------------

-- What a command means for its rollout.
create or replace function mqtt_private.fn_rollout_state(
  p_status text, p_ended boolean, p_release_id uuid, p_verified_at timestamptz) returns text
language sql immutable parallel safe set search_path = '' as $$
  select case p_status
    when 'acknowledged' then case when p_release_id is null or p_verified_at is not null then 'succeeded' else 'unverified' end
    when 'sent' then 'sent'
    when 'rejected' then 'failed'
    when 'expired' then 'failed'
    when 'cancelled' then 'cancelled'
    when 'failed' then case when p_ended then 'failed' else 'pending' end
    else 'pending' end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_rollout_state', 'service_role');

-- Counts the next p_rows changes; returns whether there may be more. A command that is gone leaves its device cancelled,
-- unless it had ended: retention removes old ones.
create or replace function mqtt_private.fn_count_rollout_changes(p_rows int) returns boolean
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_taken int;
begin
  with taken as materialized (
    delete from mqtt_private.rollout_changes
    where change_id = any (array(
      select change_id from mqtt_private.rollout_changes order by change_id limit p_rows for update skip locked))
    returning rollout_id, device_id, command_id
  ), seen as materialized (
    select t.rollout_id, t.device_id, r.state as old_state, c.last_error, c.command_id is null as is_gone,
      case when c.command_id is not null then mqtt_private.fn_rollout_state(
          c.status::text, c.due_at is null, c.release_id, c.verified_at)
        when r.state in ('pending', 'sent', 'unverified') then 'cancelled'
        else r.state end as new_state
    from (select distinct rollout_id, device_id, command_id from taken) t
    join public.rollout_devices r
      on r.rollout_id = t.rollout_id and r.device_id = t.device_id and r.command_id = t.command_id
    left join public.device_commands c on c.command_id = t.command_id
  ), moved as materialized (
    select * from seen where new_state <> old_state
  ), written as (
    update public.rollout_devices r
    set state = m.new_state, updated_at = now(), reason = case
      when m.is_gone then 'its command was removed, by itself or with the device'
      when m.new_state = 'cancelled' then 'the command was cancelled'
      when m.new_state = 'failed' then m.last_error end
    from moved m where r.rollout_id = m.rollout_id and r.device_id = m.device_id
  ), sums as materialized (
    select rollout_id,
      count(*) filter (where new_state = 'pending') - count(*) filter (where old_state = 'pending') as pending,
      count(*) filter (where new_state = 'sent') - count(*) filter (where old_state = 'sent') as sent,
      count(*) filter (where new_state = 'unverified') - count(*) filter (where old_state = 'unverified') as unverified,
      count(*) filter (where new_state = 'succeeded') - count(*) filter (where old_state = 'succeeded') as succeeded,
      count(*) filter (where new_state = 'failed') - count(*) filter (where old_state = 'failed') as failed,
      count(*) filter (where new_state = 'cancelled') - count(*) filter (where old_state = 'cancelled') as cancelled
    from moved group by rollout_id
  ), counted as (
    update public.rollout_counts c
    set pending = c.pending + s.pending, sent = c.sent + s.sent, unverified = c.unverified + s.unverified,
        succeeded = c.succeeded + s.succeeded, failed = c.failed + s.failed, cancelled = c.cancelled + s.cancelled,
        unseen = true
    from sums s where c.rollout_id = s.rollout_id
  )
  select count(*) from taken into v_taken;
  return v_taken >= p_rows;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_count_rollout_changes', 'service_role');

-- Names devices that get no command now, with the reason; one that was skipped before keeps its row.
create or replace function mqtt_private.fn_name_left_out(
  p_rollout_id uuid, p_device_ids uuid[], p_state text, p_reason text) returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_new int;
begin
  if coalesce(cardinality(p_device_ids), 0) = 0 then return; end if;
  insert into public.rollout_devices (rollout_id, device_id, state, reason)
  select p_rollout_id, id, p_state, p_reason from unnest(p_device_ids) as device (id)
  on conflict do nothing;
  get diagnostics v_new = row_count;
  update public.rollout_counts
  set skipped = skipped + case p_state when 'skipped' then v_new else 0 end,
      refused = refused + case p_state when 'refused' then v_new else 0 end, unseen = unseen or v_new > 0 and p_state = 'refused'
  where rollout_id = p_rollout_id;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_name_left_out', 'service_role');

-- Releasing ----------------------------------------------------------------------------------------------------

-- Queues a rollout's command for these devices; returns for how many. One that has a command with its key already is named.
create or replace function mqtt_private.fn_release_devices(
  p_rollout public.command_rollouts, p_now timestamptz, p_device_ids uuid[]) returns int
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_queued uuid[];
begin
  -- those that were skipped before are skipped no more
  with again as (
    delete from public.rollout_devices
    where rollout_id = p_rollout.rollout_id and device_id = any (p_device_ids) and state = 'skipped' returning 1
  )
  update public.rollout_counts set skipped = skipped - (select count(*) from again)
  where rollout_id = p_rollout.rollout_id and exists (select from again);
  with queued as (
    insert into public.device_commands (device_id, command_type, command_payload, priority, expires_at, execution_timeout,
      release_id, rollout_id, idempotency_key, created_by_user_id)
    select device.id, p_rollout.command_type, p_rollout.command_payload, p_rollout.priority, p_now + p_rollout.validity,
      p_rollout.execution_timeout, p_rollout.release_id, p_rollout.rollout_id,
      format('rollout:%s:%s', p_rollout.rollout_id, device.id),
      -- an adopted table's own column may refer to other ids than those of auth.users
      case when not mqtt_private.fn_was_adopted('public.device_commands') then p_rollout.created_by_user_id end
    from unnest(p_device_ids) as device (id)
    on conflict do nothing
    returning command_id, device_id
  ), named as (
    insert into public.rollout_devices (rollout_id, device_id, command_id)
    select p_rollout.rollout_id, device_id, command_id from queued
    returning device_id
  )
  select coalesce(array_agg(device_id), '{}') from named into v_queued;
  update public.rollout_counts set pending = pending + cardinality(v_queued) where rollout_id = p_rollout.rollout_id;
  perform mqtt_private.fn_name_left_out(p_rollout.rollout_id,
    array(select id from unnest(p_device_ids) as device (id) where id <> all (v_queued)),
    'skipped', 'a command with its key is there already');
  perform mqtt_private.fn_check_deferred_constraints();
  return cardinality(v_queued);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_release_devices', 'service_role');

-- The same; where the project's own rules refuse a row, device by device past those, which are named.
create or replace function mqtt_private.fn_release_or_pass_over(
  p_rollout public.command_rollouts, p_now timestamptz, p_device_ids uuid[]) returns int
language plpgsql volatile set search_path = '' as $$
declare
  v_parts jsonb := jsonb_build_array(to_jsonb(p_device_ids));
  v_part uuid[];
  v_fault mqtt_private.fault;
  v_queued int := 0;
begin
  while jsonb_array_length(v_parts) > 0 loop
    v_part := array(select jsonb_array_elements_text(v_parts -> 0))::uuid[];
    v_parts := v_parts - 0;
    continue when v_part = '{}';
    begin
      v_queued := v_queued + mqtt_private.fn_release_devices(p_rollout, p_now, v_part);
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      if mqtt_private.fn_explain_refusal(v_fault, 'device_commands') is null then raise; end if;
      if cardinality(v_part) = 1 then
        perform mqtt_private.fn_name_left_out(p_rollout.rollout_id, v_part, 'refused',
          left(mqtt_private.fn_explain_refusal(v_fault, 'device_commands'), 1000));
      else -- halves, down to the rows that are refused
        v_parts := v_parts || jsonb_build_array(v_part[1 : cardinality(v_part) / 2],
          v_part[cardinality(v_part) / 2 + 1 :]);
      end if;
    end;
  end loop;
  return v_queued;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_release_or_pass_over', 'service_role');

-- The next devices of a rollout in the order of device_id, after p_after: of its snapshot, or that may fit its target now.
-- Fewer than p_limit, and not none, say nothing of what follows.
create or replace function mqtt_private.fn_list_rollout_devices(
  p_rollout public.command_rollouts, p_after uuid, p_limit int) returns uuid[]
language plpgsql stable set search_path = '' as $$
begin
  if p_rollout.continuous then
    return mqtt_private.fn_list_candidates(p_rollout.target, p_rollout.company_id, p_after, p_limit);
  end if;
  return array(
    select listed.id from unnest((
      select device_ids from mqtt_private.rollout_pages
      where rollout_id = p_rollout.rollout_id
        and last_device_id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
      order by last_device_id limit 1)) as listed (id)
    where p_after is null or listed.id > p_after
    order by listed.id limit p_limit);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_list_rollout_devices', 'service_role');

-- Which of these devices are to get a rollout's command now (active_ids), and which fit but cannot (ids beyond those): of
-- a snapshot, whichever are the company's; else those that fit the target.
create or replace function mqtt_private.fn_match_rollout(
  p_rollout public.command_rollouts, p_page uuid[], out ids uuid[], out active_ids uuid[])
language plpgsql stable set search_path = public, extensions as $$
declare
  v_left constant uuid[] := array(
    select device.id from unnest(p_page) as device (id)
    where not exists (select from public.rollout_devices r
      where r.rollout_id = p_rollout.rollout_id and r.device_id = device.id and r.state <> 'skipped'));
begin
  if p_rollout.continuous then
    select m.ids, m.active_ids into ids, active_ids
    from mqtt_private.fn_match_target(p_rollout.target, p_rollout.company_id, v_left) m;
    return;
  end if;
  ids := v_left;
  active_ids := array(
    select device_id from public.devices
    where device_id = any (v_left) and company_id = p_rollout.company_id and is_active order by device_id);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_match_rollout', 'service_role');

-- Releases the next page of the minute, up to p_rows devices; returns how many it looked at. It does not wait for a device
-- that somebody holds for update, or deletes: every claim would wait with it.
create or replace function mqtt_private.fn_release_page(
  p_rollout public.command_rollouts, p_now timestamptz, p_rows int) returns int
language plpgsql volatile set search_path = '' set lock_timeout = '50ms' as $$
declare
  v_left int := p_rollout.minute_left;
  v_began timestamptz := p_rollout.minute_began_at;
  v_page uuid[];
  v_found record;
  v_last uuid;
  v_over boolean;
begin
  if v_left = 0 then
    v_left := floor(p_rollout.current_rate);
    v_began := p_now;
  end if;
  v_page := mqtt_private.fn_list_rollout_devices(p_rollout, p_rollout.last_device_id, p_rows);
  v_found := mqtt_private.fn_match_rollout(p_rollout, v_page);
  v_last := coalesce(v_page[cardinality(v_page)], p_rollout.last_device_id);
  v_over := cardinality(v_page) = 0 or p_rollout.continuous and cardinality(v_page) < p_rows;
  if cardinality(v_found.active_ids) > v_left then -- the rest of the page is for the next minute
    v_found.active_ids := v_found.active_ids[1 : v_left];
    v_last := v_found.active_ids[v_left];
    v_over := false;
  end if;
  perform mqtt_private.fn_name_left_out(p_rollout.rollout_id,
    array(select id from unnest(v_found.ids) as fits (id) where id <= v_last and id <> all (v_found.active_ids)),
    'skipped', 'not active, or no device of the company any more: map it to a site');
  v_left := v_left - mqtt_private.fn_release_or_pass_over(p_rollout, p_now, v_found.active_ids);
  update public.command_rollouts
  set minute_left = case when v_over then 0 else v_left end, minute_began_at = v_began,
      last_device_id = case when v_over and continuous then null else v_last end,
      all_released = v_over and not continuous,
      next_release_at = case
        when v_over and continuous then p_now + interval '5 minutes'
        when v_over then p_now -- once more: its commands may have ended already
        when v_left <= 0 then greatest(v_began + interval '1 minute', p_now)
        -- a continuous rollout that finds nobody looks on without haste
        when continuous and cardinality(v_found.active_ids) = 0 then p_now + interval '1 second'
        else p_now end,
      last_result = null
  where rollout_id = p_rollout.rollout_id;
  return cardinality(v_page);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_release_page', 'service_role');

-- What became of a rollout's devices, for a person.
create or replace function mqtt_private.fn_describe_rollout(p_counts public.rollout_counts) returns text
language sql immutable parallel safe set search_path = '' as $$
  select concat_ws(', ', format('%s succeeded', p_counts.succeeded),
    case when p_counts.failed > 0 then format('%s failed', p_counts.failed) end,
    case when p_counts.cancelled > 0 then format('%s cancelled', p_counts.cancelled) end,
    case when p_counts.refused > 0 then format('%s refused by the project''s own rules', p_counts.refused) end,
    case when p_counts.skipped > 0 then format('%s skipped', p_counts.skipped) end)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_describe_rollout', 'service_role');

-- Looks at a rollout that runs: stops it, finishes it, lets its rate grow, and releases up to p_rows devices where the next
-- are due. Returns how many devices it looked at.
create or replace function mqtt_private.fn_run_rollout(
  p_rollout public.command_rollouts, p_now timestamptz, p_rows int) returns int
language plpgsql volatile set search_path = '' as $$
declare
  v_rollout public.command_rollouts := p_rollout;
  v_counts public.rollout_counts;
  v_failures int;
  v_ended int;
  v_hold timestamptz;
begin
  select * into v_counts from public.rollout_counts where rollout_id = p_rollout.rollout_id;
  v_failures := v_counts.failed + v_counts.cancelled + v_counts.refused - p_rollout.failures_before;
  v_ended := v_counts.succeeded + v_counts.failed + v_counts.cancelled + v_counts.refused - p_rollout.ended_before;
  if v_ended >= p_rollout.failure_minimum and v_failures > p_rollout.failure_threshold * v_ended then
    update public.command_rollouts
    set status = 'stopped', last_result = format('stopped: %s of %s that ended have failed, more than %s %%', v_failures,
      v_ended, round(p_rollout.failure_threshold * 100, 1)::float8)
    where rollout_id = p_rollout.rollout_id;
    return 0;
  elsif p_rollout.all_released then
    if v_counts.pending + v_counts.sent + v_counts.unverified = 0 then
      update public.command_rollouts
      set status = 'finished', last_result = case when v_counts.total = 0 then 'no device fits the target'
        else mqtt_private.fn_describe_rollout(v_counts) end
      where rollout_id = p_rollout.rollout_id;
    elsif p_rollout.next_release_at is not null then
      update public.command_rollouts set next_release_at = null where rollout_id = p_rollout.rollout_id;
    end if;
    return 0;
  end if;
  while v_rollout.growth_factor > 1 and v_rollout.current_rate < v_rollout.max_rate_per_minute
    and v_counts.succeeded - v_rollout.grown_at >= floor(v_rollout.current_rate)
  loop
    v_rollout.grown_at := v_rollout.grown_at + floor(v_rollout.current_rate);
    v_rollout.current_rate := least(v_rollout.current_rate * v_rollout.growth_factor, v_rollout.max_rate_per_minute);
  end loop;
  if v_rollout.grown_at <> p_rollout.grown_at then
    update public.command_rollouts set current_rate = v_rollout.current_rate, grown_at = v_rollout.grown_at
    where rollout_id = p_rollout.rollout_id;
  end if;
  if coalesce(p_rollout.next_release_at > p_now, true) then return 0; end if;
  v_hold := mqtt_private.fn_hold_until(null, p_rollout.rollout_id, p_rollout.command_type, p_now);
  if v_hold is not null then
    update public.command_rollouts
    set next_release_at = v_hold, minute_left = 0, last_result = format('waits for its window, which opens at %s UTC',
      to_char(v_hold at time zone 'UTC', 'YYYY-MM-DD HH24:MI'))
    where rollout_id = p_rollout.rollout_id;
    return 0;
  elsif v_counts.pending >= greatest(1000, v_rollout.current_rate) then
    update public.command_rollouts
    set next_release_at = p_now + interval '10 seconds',
        last_result = format('waits for the queue: %s of its commands were not sent yet', v_counts.pending)
    where rollout_id = p_rollout.rollout_id;
    return 0;
  end if;
  return mqtt_private.fn_release_page(v_rollout, p_now, p_rows);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_rollout', 'service_role');

-- The same, for a claim, which nothing of a rollout's may stop: one that cannot go on at all stops, and says why; one whose
-- devices somebody holds waits a second.
create or replace function mqtt_private.fn_run_rollout_or_stop_it(
  p_rollout_id uuid, p_now timestamptz, p_rows int) returns int
language plpgsql volatile set search_path = '' as $$
declare
  v_rollout public.command_rollouts;
begin
  select * into v_rollout from public.command_rollouts where rollout_id = p_rollout_id;
  if v_rollout.status = 'cancelled' then
    update public.command_rollouts
    set next_release_at = case
      when mqtt_private.fn_cancel_rollout_commands(p_rollout_id, interval '1 second') then p_now + interval '1 second' end
    where rollout_id = p_rollout_id;
    return 0;
  elsif v_rollout.status <> 'running' then
    return 0;
  end if;
  return mqtt_private.fn_run_rollout(v_rollout, p_now, p_rows);
exception when others then
  if mqtt_private.fn_is_general_fault(sqlstate) then raise; end if;
  if sqlstate = '55P03' then
    update public.command_rollouts set next_release_at = p_now + interval '1 second' where rollout_id = p_rollout_id;
    return 0;
  end if;
  update public.command_rollouts
  set status = 'stopped', last_result = left(format('stopped: %s (%s); resume it when that is mended', sqlerrm, sqlstate), 2000)
  where rollout_id = p_rollout_id and status = 'running';
  return 0;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_rollout_or_stop_it', 'service_role');

-- Counts, and looks at what is due: at most p_rows devices of p_rollouts rollouts, and for two seconds, since the project's
-- own triggers may be slow. Each gets a fair part. A rollout that somebody else holds waits for the next claim. Returns
-- whether the next claim is due at once.
create or replace function mqtt_private.fn_run_rollouts(
  p_now timestamptz, p_rows int default 500, p_rollouts int default 25) returns boolean
language plpgsql volatile set search_path = '' as $$
declare
  c_page constant int := 50;
  c_until constant timestamptz := clock_timestamp() + interval '2 seconds';
  v_more boolean := mqtt_private.fn_count_rollout_changes(1000);
  v_due uuid[] := array(
    select rollout_id from public.command_rollouts
    where rollout_id = any (array(
      (select rollout_id from public.command_rollouts
       where next_release_at <= p_now order by next_release_at limit p_rollouts)
      union
      (select rollout_id from public.rollout_counts where unseen limit p_rollouts)))
    order by next_release_at limit p_rollouts for no key update skip locked);
  v_id uuid;
  v_rows int := p_rows;
  v_waiting int := cardinality(v_due);
  v_part int;
  v_seen int;
begin
  if v_waiting = 0 then return v_more; end if;
  -- the claim that releases them takes them: it need not ring, nor wake itself (…_doorbell.sql)
  perform set_config('mqtt_service.rung_in', pg_current_xact_id()::text, true);
  foreach v_id in array v_due loop
    v_part := least(v_rows, greatest(v_rows / v_waiting, c_page));
    v_waiting := v_waiting - 1;
    update public.rollout_counts set unseen = false where rollout_id = v_id and unseen;
    loop
      if v_rows <= 0 or clock_timestamp() > c_until then return true; end if;
      v_seen := mqtt_private.fn_run_rollout_or_stop_it(v_id, p_now, least(v_part, c_page));
      v_rows := v_rows - v_seen;
      v_part := v_part - v_seen;
      exit when v_part <= 0 or not exists ( -- it is done for now, or has had its part
        select from public.command_rollouts where rollout_id = v_id and status = 'running' and next_release_at <= p_now);
    end loop;
  end loop;
  return v_more or cardinality(v_due) >= p_rollouts;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_rollouts', 'service_role');

-- In how many seconds a claim is to look at rollouts again; null: for none. 0.05 where some are due that this claim did not
-- come to, but for those that somebody else holds.
create or replace function mqtt_private.fn_seconds_to_next_release(p_now timestamptz) returns double precision
language plpgsql volatile set search_path = '' as $$
declare
  v_next timestamptz := (
    select next_release_at from public.command_rollouts
    where next_release_at is not null order by next_release_at limit 1);
begin
  if v_next <= p_now then
    select next_release_at into v_next from public.command_rollouts
    where next_release_at is not null order by next_release_at limit 1 for no key update skip locked;
  end if;
  return case when v_next is not null then greatest(extract(epoch from v_next - p_now), 0.05) end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_seconds_to_next_release', 'service_role');

-- Holding ------------------------------------------------------------------------------------------------------

-- Takes these commands off the queue until their windows open. A failed one waits as pending: what failed for good is not
-- due either. Returns [{command_id}].
create or replace function mqtt_private.fn_hold_commands(p_ids uuid[], p_claim mqtt_private.claim, out held jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with locked as materialized (
    select c.command_id, mqtt_private.fn_hold_until(d.site_id, c.rollout_id, c.command_type::text, p_claim.now) as until
    from public.device_commands c join public.devices d on d.device_id = c.device_id
    where c.command_id = any (p_ids) and c.status::text in ('pending', 'failed') and c.due_at <= p_claim.now
    for update of c skip locked
  ), changed as (
    update public.device_commands c
    set status = 'pending', held_until = l.until, due_at = null, lease_worker = null, lease_until = null
    from locked l where c.command_id = l.command_id and l.until is not null
    returning c.command_id
  )
  select coalesce(jsonb_agg(to_jsonb(changed)), '[]') from changed into held;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_hold_commands', 'service_role');

-- Puts held commands back on the queue, where they are due at once. Returns [{command_id}].
create or replace function mqtt_private.fn_open_commands(p_ids uuid[], p_claim mqtt_private.claim, out opened jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  perform set_config('mqtt_service.rung_in', pg_current_xact_id()::text, true); -- this claim takes them
  with locked as materialized (
    select command_id from public.device_commands
    where command_id = any (p_ids) and held_until is not null for update skip locked
  ), changed as (
    update public.device_commands set due_at = p_claim.now, held_until = null
    where command_id = any (array(select command_id from locked))
    returning command_id
  )
  select coalesce(jsonb_agg(to_jsonb(changed)), '[]') from changed into opened;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_open_commands', 'service_role');

-- See …_claim_and_settle.sql. New: the steps hold and open.
create or replace function mqtt_private.fn_run_step(
  p_step text, p_ids uuid[], p_claim mqtt_private.claim, out done jsonb)
language plpgsql volatile set search_path = '' as $$
begin
  done := case
    when p_ids = '{}' then '[]'
    when p_step = 'expire' then mqtt_private.fn_expire_commands(p_ids, p_claim)
    when p_step = 'fail' then mqtt_private.fn_fail_undeliverable_commands(p_ids, p_claim)
    when p_step = 'open' then mqtt_private.fn_open_commands(p_ids, p_claim)
    when p_step = 'hold' then mqtt_private.fn_hold_commands(p_ids, p_claim)
    when p_step = 'lease' then mqtt_private.fn_lease_commands(p_ids, p_claim)
    when p_step = 'hand out' then mqtt_private.fn_hand_out_commands(p_ids, p_claim)
  end;
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_run_step', 'service_role');

-- The held commands whose turn it is: up to 1000 whose windows open, and those that a changed window may have held, of the
-- next 1000 held ones. What other windows hold is held again when the claim comes to it.
create or replace function mqtt_private.fn_find_opened_commands(p_claim mqtt_private.claim) returns uuid[]
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_ids uuid[] := array(
    select command_id from public.device_commands where held_until <= p_claim.now order by held_until limit 1000);
  v_change mqtt_private.window_changes;
  v_page uuid[];
begin
  select * into v_change from mqtt_private.window_changes order by change_id limit 1 for update skip locked;
  if not found then return v_ids; end if;
  v_page := array(
    select command_id from public.device_commands
    where held_until is not null and command_id > v_change.last_command_id order by command_id limit 1000);
  if cardinality(v_page) < 1000 then
    delete from mqtt_private.window_changes where change_id = v_change.change_id;
  else
    update mqtt_private.window_changes set last_command_id = v_page[1000] where change_id = v_change.change_id;
  end if;
  return v_ids || array(
    select c.command_id from public.device_commands c join public.devices d on d.device_id = c.device_id
    where c.command_id = any (v_page) and c.command_id <> all (v_ids)
      and (d.site_id = v_change.site_id or c.rollout_id = v_change.rollout_id));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_opened_commands', 'service_role');

-- In how many seconds a claim is to look at held commands again; null: for none.
create or replace function mqtt_private.fn_seconds_to_next_opening(p_now timestamptz) returns double precision
language plpgsql stable set search_path = public, extensions as $$
begin
  if exists (select from mqtt_private.window_changes) then return 0.05; end if;
  return (
    select greatest(extract(epoch from held_until - p_now), 0.05) from public.device_commands
    where held_until is not null order by held_until limit 1);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_seconds_to_next_opening', 'service_role');

-- As fn_find_due_commands, without what closed windows hold: that is taken off the queue, and others take its place. For a
-- second: then it returns what it has, and holding: whether held commands may be left, which the next claim takes off.
create or replace function mqtt_private.fn_find_sendable_commands(
  p_claim mqtt_private.claim, p_devices int, p_commands int,
  out ids uuid[], out device_ids uuid[], out due_count int, out holding boolean)
language plpgsql volatile set search_path = public, extensions as $$
declare
  c_until constant timestamptz := clock_timestamp() + interval '1 second';
  v_claim mqtt_private.claim := p_claim;
  v_held uuid[];
begin
  loop
    select d.ids, d.device_ids, d.due_count into ids, device_ids, due_count
    from mqtt_private.fn_find_due_commands(v_claim, p_devices, p_commands) d;
    holding := mqtt_private.fn_are_windows_in_force();
    if not holding then return; end if;
    v_held := array(
      select c.command_id from public.device_commands c join public.devices d on d.device_id = c.device_id
      where c.command_id = any (ids)
        and mqtt_private.fn_hold_until(d.site_id, c.rollout_id, c.command_type::text, p_claim.now) is not null);
    holding := cardinality(v_held) > 0;
    if not holding then return; end if;
    perform mqtt_private.fn_run_step_or_pass_over('hold', v_held, v_claim);
    v_claim.held := v_claim.held || v_held; -- also those that somebody else has locked, or the table refuses to change
    if clock_timestamp() > c_until then
      select coalesce(array_agg(due.id order by due.place), '{}'), coalesce(array_agg(due.device order by due.place), '{}')
      into ids, device_ids
      from unnest(ids, device_ids) with ordinality as due (id, device, place) where due.id <> all (v_held);
      return;
    end if;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_sendable_commands', 'service_role');

-- See fn_lease_or_pass_over in …_claim_and_settle.sql, which it replaces. New: what closed windows hold is not leased;
-- holding: the next claim is to take more of it off.
create or replace function mqtt_private.fn_lease_in_windows_or_pass_over(
  p_claim mqtt_private.claim, p_limit int,
  out done jsonb, out failed jsonb, out refused jsonb, out remain boolean, out holding boolean)
language plpgsql volatile set search_path = '' as $$
declare
  v_due record;
  v_fault mqtt_private.fault;
  v_error text;
  v_first constant int := floor(random() * 4294967296 - 2147483648);
begin
  failed := '[]';
  v_due := mqtt_private.fn_find_sendable_commands(p_claim, p_limit, p_limit);
  done := mqtt_private.fn_run_step('lease', v_due.ids, p_claim);
  refused := '{}';
  remain := v_due.due_count > jsonb_array_length(done);
  holding := v_due.holding;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_fault(v_fault, 'device_commands');
  if v_error is null then raise; end if;
  v_due := mqtt_private.fn_find_sendable_commands(p_claim, p_limit + 1000, null);
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
  holding := v_due.holding;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_lease_in_windows_or_pass_over', 'service_role');

-- Visits -------------------------------------------------------------------------------------------------------

-- See …_visits.sql. New: a visit does not wait for what closed windows hold; the claim takes it off the queue.
create or replace function mqtt_private.fn_count_open_commands(
  p_device_id uuid, p_since timestamptz, p_now timestamptz) returns int
language plpgsql stable set search_path = public, extensions as $$
declare
  v_site_id uuid;
  v_windows constant boolean := mqtt_private.fn_are_windows_in_force();
begin
  if v_windows then
    select site_id into v_site_id from public.devices where device_id = p_device_id;
  end if;
  return (
    select count(*) from public.device_commands
    where device_id = p_device_id and due_at is not null and (due_at <= p_now or lease_until > p_now)
      and (not v_windows or lease_until > p_now
        or mqtt_private.fn_hold_until(v_site_id, rollout_id, command_type::text, p_now) is null)
  ) + (
    select count(*) from public.device_commands
    where device_id = p_device_id and in_queue and status = 'sent' and delivered_at >= p_since);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_count_open_commands', 'service_role');

-- Claim --------------------------------------------------------------------------------------------------------

-- See …_schedule_runs.sql. New: it first counts and releases what rollouts have due, and puts commands whose windows open
-- back on the queue; what closed windows hold is not leased.
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
  v_rollouts_due boolean;
  v_opened record;
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

  perform mqtt_private.fn_move_windows_on(v_claim.now);
  perform mqtt_private.fn_queue_due_schedules(v_claim.now);
  v_rollouts_due := mqtt_private.fn_run_rollouts(v_claim.now);
  v_opened := mqtt_private.fn_run_step_or_pass_over(
    'open', mqtt_private.fn_find_opened_commands(v_claim), v_claim);
  v_expired := mqtt_private.fn_run_step_or_pass_over(
    'expire', mqtt_private.fn_find_overdue_commands(v_claim), v_claim);
  v_failed := mqtt_private.fn_run_step_or_pass_over(
    'fail', mqtt_private.fn_find_undeliverable_commands(v_claim), v_claim);
  v_ids := mqtt_private.fn_find_unseen_commands(v_claim, greatest(p_limit, 0));
  -- what could not expire or fail is not to be sent either
  v_claim.held := v_claim.held || array(select jsonb_object_keys(v_expired.refused || v_failed.refused)::uuid);
  v_leased := mqtt_private.fn_lease_in_windows_or_pass_over(v_claim, greatest(p_limit - cardinality(v_ids), 0));
  v_ids := v_ids || array(
    select (element ->> 'command_id')::uuid from jsonb_array_elements(v_leased.done) as e (element));
  v_handed := mqtt_private.fn_run_step_or_pass_over('hand out', v_ids, v_claim);
  v_refused := v_handed.refused || v_leased.refused || v_failed.refused || v_expired.refused || v_opened.refused;
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
      or jsonb_array_length(v_failed.done) >= 1000 -- as many as one claim fails
      or v_leased.holding,
    'welcome_due', exists (select from public.devices where welcome_due and is_active),
    'visits_due', mqtt_private.fn_are_visits_due(v_claim.now),
    'seconds_to_next_due', least(mqtt_private.fn_seconds_to_next_schedule(v_claim.now),
      case when v_rollouts_due then 0.05 end, mqtt_private.fn_seconds_to_next_release(v_claim.now),
      mqtt_private.fn_seconds_to_next_opening(v_claim.now), (
      select extract(epoch from due_at - v_claim.due_before) from public.device_commands
      where due_at > v_claim.due_before and due_at < 'infinity' order by due_at limit 1)));
end
$$;
call mqtt_private.grant_execute(
  'public.fn_claim_commands(text, int, double precision, int, double precision, double precision, uuid[], '
  'double precision)', 'service_role');

drop function if exists mqtt_private.fn_lease_or_pass_over(mqtt_private.claim, int);
