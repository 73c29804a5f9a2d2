-- The worker's side of the queue in public.device_commands: its indexes, and the claim. Settling and acknowledging are
-- in the next two migrations.
--
-- The three functions are called by the worker alone (service_role), take hundreds of rows in one call, and return one
-- jsonb, so that an API's row limit never cuts an answer. Each may be sent again when its response was lost. Durations
-- are seconds.
--
-- device_commands.due_at says when the queue next looks at a row; null is never. Small partial indexes hold what waits,
-- so neither finished rows nor rows for later cost anything.
--
-- Locks. A claim never waits for a row: what another transaction holds is left, with the rest of that device, to
-- the next claim. Settling and acknowledging lock devices first, in the order of device_id; so nobody deadlocks.

-- Indexes ------------------------------------------------------------------------------------------------------

-- Pending, or failed and to be tried again; the guards of the table clear due_at in every other state.
create index if not exists device_commands_due_idx on public.device_commands (due_at) where due_at is not null;

create index if not exists device_commands_leased_idx
  on public.device_commands (device_id) where lease_until is not null;

create index if not exists device_commands_sent_idx
  on public.device_commands (device_id, delivered_at desc) where status = 'sent';

-- What can still expire, at its own time and after its time to live.
create index if not exists device_commands_expires_at_idx on public.device_commands (expires_at)
  where expires_at is not null and (status in ('pending', 'sent') or due_at is not null);
create index if not exists device_commands_time_to_live_idx
  on public.device_commands (greatest(issued_at, nullif(scheduled_for, 'infinity')))
  where expires_at is null and (status in ('pending', 'sent') or due_at is not null);

-- Claim --------------------------------------------------------------------------------------------------------
-- Ids go from one step to the next as arrays: Postgres then looks the rows up by the key, whatever it expects.

-- A command lives until expires_at, else for p_ttl from its issue (or from scheduled_for, where that is later).
-- A live lease is left alone: its worker may be publishing the command this moment.
create or replace function mqtt_private.fn_expire_commands(p_now timestamptz, p_ttl interval) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_answer jsonb;
begin
  with overdue as materialized (
    (select command_id from public.device_commands
     where expires_at is not null and expires_at <= p_now
       and (status in ('pending', 'sent') or due_at is not null)
       and (lease_until is null or lease_until <= p_now)
     order by expires_at limit 500)
    union all
    (select command_id from public.device_commands
     where expires_at is null and greatest(issued_at, nullif(scheduled_for, 'infinity')) <= p_now - p_ttl
       and (status in ('pending', 'sent') or due_at is not null)
       and (lease_until is null or lease_until <= p_now)
     order by greatest(issued_at, nullif(scheduled_for, 'infinity')) limit 500)
  ), locked as materialized (
    select command_id from public.device_commands
    where command_id = any (array(select command_id from overdue))
      and (status in ('pending', 'sent') or due_at is not null)
      and (lease_until is null or lease_until <= p_now)
    for update skip locked
  ), expired as (
    update public.device_commands
    set status = 'expired', due_at = null, lease_worker = null, lease_until = null,
        last_error = case
          when status = 'sent' then 'expired: it was delivered to the broker, but the device did not answer in time'
          else 'expired: it could not be delivered in time' || coalesce('; last failure: ' || last_error, '')
        end
    where command_id = any (array(select command_id from locked))
    returning command_id, device_id, command_type
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', e.command_id, 'device_id', e.device_id, 'device_code', d.device_code,
    'command_type', e.command_type)), '[]')
  from expired e join public.devices d on d.device_id = e.device_id
  into v_answer;
  return v_answer;
end
$$;

-- Commands for devices that are not active fail as soon as they are due. A row whose retries were used up before
-- (the limit was lowered) is not tried again and not counted again.
create or replace function mqtt_private.fn_fail_undeliverable_commands(
  p_now timestamptz, p_max_retries int, p_delay interval) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_answer jsonb;
begin
  with waiting as materialized (
    select distinct device_id from public.device_commands
    where due_at <= p_now and (lease_until is null or lease_until <= p_now)
  ), inactive as materialized (
    select d.device_id from waiting join public.devices d on d.device_id = waiting.device_id
    where d.is_active is not true
  ), due as materialized (
    select c.command_id, d.device_code, c.status = 'failed' and c.retry_count >= p_max_retries as used_up,
      format('device %s is not active: map it to a site', coalesce(d.device_code, d.device_mac)) as error
    from public.device_commands c join public.devices d on d.device_id = c.device_id
    where c.due_at <= p_now and (c.lease_until is null or c.lease_until <= p_now)
      and (c.device_id in (select device_id from inactive)
        or (c.status = 'failed' and c.retry_count >= p_max_retries))
    order by c.due_at limit 1000
    for update of c skip locked
  ), failed as (
    update public.device_commands c
    set status = 'failed', lease_worker = null, lease_until = null,
        retry_count = c.retry_count + case when due.used_up then 0 else 1 end,
        last_error = case when due.used_up then c.last_error else due.error end,
        due_at = case when not due.used_up and c.retry_count + 1 < p_max_retries then p_now + p_delay end
    from due where c.command_id = due.command_id
    returning c.command_id, c.device_id, due.device_code, c.command_type, c.retry_count, c.due_at, c.last_error
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', command_id, 'device_id', device_id, 'device_code', device_code, 'command_type', command_type,
    'retry_count', retry_count, 'final', due_at is null, 'error', last_error)), '[]')
  from failed
  into v_answer;
  return v_answer;
end
$$;

-- What was leased to this worker and is not in its hands: the response to that claim was lost. It comes again under
-- the same attempt and the same lease: a lease that could be made longer would never lapse where a settlement is
-- refused each time. Locked, so that nothing later in the claim waits for these rows.
create or replace function mqtt_private.fn_find_unseen_commands(
  p_worker text, p_limit int, p_now timestamptz, p_held uuid[]) returns uuid[]
language plpgsql volatile set search_path = ''
as $$
begin
  return array(
    select c.command_id
    from public.device_commands c join public.devices d on d.device_id = c.device_id
    where c.lease_until > p_now and c.lease_worker = p_worker and c.status = 'pending' and d.is_active
      and c.command_id not in (select unnest(p_held))
    order by c.priority desc, c.issued_at, c.issue_number limit p_limit
    for update of c skip locked);
end
$$;

-- Leases due commands of active devices in the order of publishing. A device belongs to one worker at a time: while
-- another worker holds a lease on any command of it, the device is left alone. A row that another transaction holds
-- keeps back the later ones of its device, so that their order stands.
--
-- No device keeps the others out. One whose next command is locked is left before the limit is applied (up to 1000
-- such devices), so a claim leases something whenever some device can go on. And the first 20 commands of each
-- device go before the rest of any. remain: due commands are left that a larger limit might have taken.
create or replace function mqtt_private.fn_lease_due_commands(
  p_worker text, p_limit int, p_now timestamptz, p_until timestamptz, p_held uuid[],
  out leased uuid[], out remain boolean)
language plpgsql volatile set search_path = ''
as $$
begin
  with busy as materialized (
    select device_id from public.device_commands where lease_until > p_now and lease_worker <> p_worker
  ), due as materialized (
    select c.command_id, c.device_id, c.priority, c.issued_at, c.issue_number,
      row_number() over (partition by c.device_id order by c.priority desc, c.issued_at, c.issue_number) as turn
    from public.device_commands c
    where c.due_at <= p_now and (c.lease_until is null or c.lease_until <= p_now)
      and c.device_id not in (select device_id from busy)
      and c.command_id not in (select unnest(p_held))
  ), next_ones as materialized (
    select due.command_id
    from due join public.devices d on d.device_id = due.device_id -- here, so that each device is read once
    where due.turn = 1 and d.is_active
    order by due.priority desc, due.issued_at, due.issue_number limit p_limit + 1000
  ), free_devices as materialized (
    select device_id from public.device_commands
    where command_id = any (array(select command_id from next_ones))
      and status in ('pending', 'failed') and coalesce(due_at, 'infinity') <= p_now
    order by priority desc, issued_at, issue_number limit p_limit
    for update skip locked
  ), waiting as materialized (
    select command_id, device_id, turn from due
    where device_id in (select device_id from free_devices)
    order by turn > 20, priority desc, issued_at, issue_number limit p_limit
  ), locked as materialized (
    select command_id from public.device_commands
    where command_id = any (array(select command_id from waiting))
      and status in ('pending', 'failed') and coalesce(due_at, 'infinity') <= p_now -- still so, now that it is ours
    for update skip locked
  ), turns as materialized (
    select command_id,
      bool_and(command_id in (select command_id from locked)) over (partition by device_id order by turn) as free
    from waiting
  ), claimed as (
    update public.device_commands
    set status = 'pending', lease_worker = p_worker, lease_until = p_until, due_at = p_until, attempt = attempt + 1
    where command_id = any (array(select command_id from turns where free))
    returning command_id
  )
  select coalesce((select array_agg(command_id) from claimed), '{}'),
    (select count(*) from due) > (select count(*) from claimed)
  into leased, remain;
end
$$;

-- When a device that gets this set_wake_schedule now wakes next; fault says why that cannot be worked out.
create or replace function mqtt_private.fn_next_wake_of_command(
  p_payload jsonb, p_now timestamptz, p_timezone text, out next_wake_at timestamptz, out fault text)
language plpgsql stable set search_path = ''
as $$
begin
  if nullif(trim(p_payload ->> 'wake_schedule_cron'), '') is not null then
    next_wake_at := public.fn_calculate_next_wake(
      p_payload ->> 'wake_schedule_cron', p_now, coalesce(p_timezone, 'UTC'));
  else
    next_wake_at := (p_payload ->> 'next_wake_time')::timestamptz;
  end if;
  if next_wake_at is null or not isfinite(next_wake_at) then
    fault := 'set_wake_schedule names no time: write next_wake_time or wake_schedule_cron into command_payload';
  end if;
exception when others then
  fault := 'set_wake_schedule cannot be worked out: ' || sqlerrm;
end
$$;

-- The leased rows as the worker publishes them, in that order. A row whose wake time cannot be worked out fails for
-- good with the reason, and keeps nobody else.
create or replace function mqtt_private.fn_hand_out_commands(
  p_ids uuid[], p_now timestamptz, p_ttl interval, out commands jsonb, out broken jsonb)
language plpgsql volatile set search_path = ''
as $$
begin
  with rows as materialized (
    select c.command_id, c.device_id, c.command_type, c.command_payload, c.attempt, c.retry_count, c.priority,
      c.issued_at, c.issue_number, d.device_code, d.device_name, d.device_mac,
      coalesce(d.mqtt_root, 'device') as topic_root, coalesce(d.mqtt_id, d.device_mac) as topic_id,
      wake.next_wake_at, wake.fault,
      least(coalesce(c.expires_at, greatest(c.issued_at, c.scheduled_for) + p_ttl), p_now + interval '100 years')
        as deadline
    from public.device_commands c
    join public.devices d on d.device_id = c.device_id
    left join public.sites s on s.site_id = d.site_id
    left join lateral mqtt_private.fn_next_wake_of_command(c.command_payload, p_now, s.timezone) wake
      on c.command_type = 'set_wake_schedule'
    where c.command_id = any (p_ids)
  ), refused as (
    update public.device_commands c
    set status = 'failed', retry_count = c.retry_count + 1, last_error = r.fault,
        due_at = null, lease_worker = null, lease_until = null
    from rows r where r.fault is not null and c.command_id = r.command_id
    returning c.command_id, c.device_id, r.device_code, c.command_type, c.retry_count, c.last_error
  )
  select
    (select coalesce(jsonb_agg(jsonb_build_object(
       'command_id', command_id, 'device_id', device_id, 'device_code', device_code, 'device_name', device_name,
       'device_mac', device_mac, 'topic_root', topic_root, 'topic_id', topic_id,
       'command_type', command_type, 'command_payload', command_payload, 'attempt', attempt,
       'retry_count', retry_count, 'issued_at', issued_at, 'next_wake_at', next_wake_at,
       'seconds_to_expiry', extract(epoch from deadline - p_now)
       ) order by priority desc, issued_at, issue_number), '[]')
     from rows where fault is null),
    (select coalesce(jsonb_agg(jsonb_build_object(
       'command_id', command_id, 'device_id', device_id, 'device_code', device_code, 'command_type', command_type,
       'retry_count', retry_count, 'final', true, 'error', last_error)), '[]')
     from refused)
  into commands, broken;
end
$$;

-- Takes up to p_limit due commands for p_worker and leases them for p_lease_seconds; also expires and fails what is
-- due for that. p_worker names one process, for as long as it lives. p_held are the commands that this worker still
-- has in hand; what is leased to it and not held comes again at once, under the same attempt.
-- Returns {now, commands, failed, expired, welcome_due, more, seconds_to_next_due}.
create or replace function public.fn_claim_commands(
  p_worker text,
  p_limit int default 200,
  p_lease_seconds double precision default 30,
  p_max_retries int default 3,
  p_retry_delay_seconds double precision default 30,
  p_command_ttl_seconds double precision default 86400,
  p_held uuid[] default '{}'
) returns jsonb
language plpgsql volatile security invoker set search_path = ''
-- One plan for an empty table and for millions of finished rows: the planner cannot know how few are due.
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz;
  v_until timestamptz;
  v_ttl constant interval := make_interval(secs => p_command_ttl_seconds);
  v_held constant uuid[] := coalesce(p_held, '{}');
  v_expired jsonb;
  v_failed jsonb;
  v_broken jsonb;
  v_commands jsonb;
  v_ids uuid[];
  v_new uuid[];
  v_remain boolean;
begin
  if coalesce(p_worker, '') = '' then
    raise exception 'p_worker is empty'
      using errcode = 'invalid_parameter_value', hint = 'Name the worker that claims.';
  end if;
  perform pg_advisory_xact_lock(7205759401); -- claims are serial, so no two take one device
  v_now := clock_timestamp();                -- the wait for the lock must not date the leases back
  v_until := v_now + make_interval(secs => p_lease_seconds);

  v_expired := mqtt_private.fn_expire_commands(v_now, v_ttl);
  v_failed := mqtt_private.fn_fail_undeliverable_commands(
    v_now, p_max_retries, make_interval(secs => p_retry_delay_seconds));
  v_ids := mqtt_private.fn_find_unseen_commands(p_worker, greatest(p_limit, 0), v_now, v_held);
  select l.leased, l.remain into v_new, v_remain
  from mqtt_private.fn_lease_due_commands(
    p_worker, greatest(p_limit - cardinality(v_ids), 0), v_now, v_until, v_held) l;
  select h.commands, h.broken into v_commands, v_broken
  from mqtt_private.fn_hand_out_commands(v_ids || v_new, v_now, v_ttl) h;

  return jsonb_build_object(
    'now', v_now, 'commands', v_commands, 'failed', v_failed || v_broken, 'expired', v_expired,
    'more', v_remain and cardinality(v_ids || v_new) > 0, -- else asking again at once would gain nothing
    'welcome_due', exists (select from public.devices where welcome_due and is_active),
    'seconds_to_next_due', (
      select extract(epoch from due_at - v_now) from public.device_commands
      where due_at > v_now and due_at < 'infinity' order by due_at limit 1));
end
$$;

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_expire_commands(timestamptz, interval)',
    'mqtt_private.fn_fail_undeliverable_commands(timestamptz, int, interval)',
    'mqtt_private.fn_find_unseen_commands(text, int, timestamptz, uuid[])',
    'mqtt_private.fn_lease_due_commands(text, int, timestamptz, timestamptz, uuid[])',
    'mqtt_private.fn_next_wake_of_command(jsonb, timestamptz, text)',
    'mqtt_private.fn_hand_out_commands(uuid[], timestamptz, interval)',
    'public.fn_claim_commands(text, int, double precision, int, double precision, double precision, uuid[])'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;

grant usage on schema mqtt_private to service_role;
