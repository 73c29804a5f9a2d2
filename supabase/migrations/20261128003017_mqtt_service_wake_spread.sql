-- Wakes are spread: the devices of a site wake one after another instead of in the same second.
--
-- A device's schedule is moved as a whole by its share of the spread, which is worked out from its id: so it is the same
-- at each wake and with each worker, and no wake is skipped or comes twice, however long the spread is.
-- fn_calculate_next_wake stays exact, and so does a set_wake_schedule that a person writes.
--
-- The spread is sites.wake_spread_seconds; null: what the worker that started last announced (WAKE_SPREAD), else 0.

alter table public.sites
  add column if not exists wake_spread_seconds integer; -- 0 to 43200; null: the workers' setting WAKE_SPREAD

do $$
begin
  if not exists (
    select from pg_catalog.pg_constraint
    where conrelid = 'public.sites'::regclass and conname = 'sites_wake_spread_seconds_check')
  then
    alter table public.sites add constraint sites_wake_spread_seconds_check
      check (wake_spread_seconds between 0 and 43200);
  end if;
end
$$;

call mqtt_private.create_table('mqtt_private.wake_spread', null, $$
  only_row boolean primary key default true check (only_row),
  seconds integer not null check (seconds between 0 and 43200)
$$);
grant select, insert, update on table mqtt_private.wake_spread to service_role;

-- By how many whole seconds the schedule of this device is moved: from 0 up to, and not including, the spread.
create or replace function mqtt_private.fn_wake_shift(p_device_id uuid) returns int
language sql stable set search_path = public, extensions as $$
  select floor(('x' || left(md5(d.device_id::text), 8))::bit(32)::bigint / 4294967296.0
    * coalesce(s.wake_spread_seconds, (select w.seconds from mqtt_private.wake_spread w), 0))::int
  from public.devices d left join public.sites s on s.site_id = d.site_id
  where d.device_id = p_device_id
$$;
call mqtt_private.grant_execute('mqtt_private.fn_wake_shift', 'service_role');

-- A schedule is worked out once for all devices that follow it: a batch of a site's devices has one schedule and one time.
-- Between a time and the first run after it there is no run, so that run is the answer for each time between too. What was
-- worked out is kept for the transaction alone, so no change of a schedule can be missed: a schedule is its own key.
--
-- The first run of this schedule after p_from, as public.fn_calculate_next_wake has it, which says what it raises.
-- `mqtt_service.next_runs` keeps {key: [from, run]}; it starts over before it is large enough to cost more than it saves.
create or replace function mqtt_private.fn_next_run(p_cron text, p_from timestamptz, p_timezone text) returns timestamptz
language plpgsql volatile set search_path = '' as $$
declare
  v_runs jsonb := coalesce(nullif(current_setting('mqtt_service.next_runs', true), '')::jsonb, '{}');
  v_key constant text := md5(p_cron || e'\n' || p_timezone);
  v_known constant jsonb := v_runs -> v_key;
  v_run timestamptz := (v_known ->> 1)::timestamptz;
begin
  if (v_known ->> 0)::timestamptz <= p_from and p_from < v_run then return v_run; end if;
  v_run := public.fn_calculate_next_wake(p_cron, p_from, p_timezone);
  if octet_length(v_runs::text) > 4000 then v_runs := '{}'; end if;
  perform set_config(
    'mqtt_service.next_runs', (v_runs || jsonb_build_object(v_key, jsonb_build_array(p_from, v_run)))::text, true);
  return v_run;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_run', 'service_role');

-- A device's own schedule takes precedence over its site's; where neither has one, it is 8 and 16 o'clock. The first run
-- after p_now of the schedule, moved by the device's shift. A schedule that does not parse gives 12 hours from now, and
-- fault says why.
create or replace function mqtt_private.fn_next_wake_of_device(
  p_device_id uuid, p_now timestamptz, out cron text, out timezone text, out next_wake_at timestamptz, out fault text)
language plpgsql stable set search_path = public, extensions as $$
declare
  v_shift interval;
begin
  select coalesce(nullif(trim(d.wake_schedule_cron), ''), nullif(trim(s.wake_schedule_cron), ''), '0 8,16 * * *'),
    coalesce(nullif(trim(s.timezone), ''), 'UTC')
  into cron, timezone
  from public.devices d left join public.sites s on s.site_id = d.site_id
  where d.device_id = p_device_id;
  v_shift := make_interval(secs => coalesce(mqtt_private.fn_wake_shift(p_device_id), 0));
  next_wake_at := mqtt_private.fn_next_run(cron, p_now - v_shift, timezone) + v_shift;
exception when others then
  next_wake_at := p_now + interval '12 hours';
  fault := sqlerrm;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_wake_of_device', 'service_role');

-- When a device that gets this set_wake_schedule now wakes next; fault says why that cannot be worked out. A welcome
-- says by how much its device's schedule is moved (wake_shift_seconds).
create or replace function mqtt_private.fn_next_wake_of_command(
  p_payload jsonb, p_now timestamptz, p_timezone text, out next_wake_at timestamptz, out fault text)
language plpgsql stable set search_path = '' as $$
declare
  v_cron constant text := coalesce(nullif(trim(p_payload ->> 'wake_schedule_cron'), ''), p_payload ->> 'cron');
  v_shift interval;
begin
  if nullif(trim(v_cron), '') is not null then
    v_shift := make_interval(secs => coalesce((p_payload ->> 'wake_shift_seconds')::int, 0));
    next_wake_at := public.fn_calculate_next_wake(v_cron, p_now - v_shift, coalesce(p_timezone, 'UTC')) + v_shift;
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
call mqtt_private.grant_execute('mqtt_private.fn_next_wake_of_command', 'service_role');

-- Queues the welcome of mapped devices, all in one statement. As fn_queue_welcome_commands.
create or replace function mqtt_private.fn_queue_welcomes(
  p_device_ids uuid[], p_limit int, p_standby_seconds double precision) returns jsonb
language sql volatile set search_path = public, extensions as $$
  with due as materialized (
    select d.device_id, others.welcomed from public.devices d
    cross join lateral (
      select exists (
        select from public.device_commands c
        where c.device_id = d.device_id and c.command_type = 'set_wake_schedule' and c.issued_at > d.mapped_at
          and c.status in ('pending', 'sent', 'acknowledged')) as welcomed) others
    where d.welcome_due and d.is_active and (p_device_ids is null or d.device_id = any (p_device_ids))
      and (others.welcomed or coalesce(d.mapped_at, '-infinity') <= now() - make_interval(secs => p_standby_seconds))
    order by d.device_id limit greatest(p_limit, 0)
    for no key update of d skip locked
  ), welcome as materialized (
    select d.device_id, d.device_code, d.site_id, wake.next_wake_at,
      -- One mapping, one key: an assignment that is ended and begun again begins a new mapping.
      format('welcome:%s:%s', coalesce(a.assignment_id, d.device_id),
        to_char(coalesce(a.assigned_at, d.mapped_at) at time zone 'UTC', 'YYYYMMDDHH24MISSUS')) as idempotency_key,
      jsonb_strip_nulls(jsonb_build_object(
        'welcome', true,
        'wake_schedule_cron', case when wake.fault is null then wake.cron end,
        'next_wake_time', to_char(wake.next_wake_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'timezone', wake.timezone,
        'wake_shift_seconds', nullif(mqtt_private.fn_wake_shift(d.device_id), 0),
        'site_id', d.site_id, 'site_name', s.name,
        'program_id', d.program_id, 'program_name', p.name,
        'company_id', d.company_id)) as payload
    from due
    join public.devices d on d.device_id = due.device_id and not due.welcomed
    left join public.sites s on s.site_id = d.site_id
    left join public.pilot_programs p on p.program_id = d.program_id
    left join lateral (
      select x.assignment_id, x.assigned_at from public.device_site_assignments x
      where x.device_id = d.device_id and x.is_active order by x.assigned_at desc limit 1) a on true
    cross join lateral mqtt_private.fn_next_wake_of_device(d.device_id, now()) wake
  ), cleared as (
    update public.devices d set welcome_due = false, next_wake_at = coalesce(w.next_wake_at, d.next_wake_at)
    from due left join welcome w on w.device_id = due.device_id
    where d.device_id = due.device_id
  ), queued as (
    insert into public.device_commands (device_id, command_type, command_payload, idempotency_key)
    select device_id, 'set_wake_schedule', payload, idempotency_key from welcome order by device_id
    on conflict (idempotency_key) where idempotency_key is not null do nothing
    returning command_id, device_id
  )
  select coalesce(jsonb_agg(jsonb_build_object(
    'command_id', q.command_id, 'device_id', w.device_id, 'device_code', w.device_code, 'site_id', w.site_id,
    'next_wake_at', w.next_wake_at) order by w.device_id), '[]')
  from queued q join welcome w on w.device_id = q.device_id
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_welcomes', 'service_role');

-- Sets the spread of sites that name none, in seconds; the workers say it when they start, and the last one counts.
create or replace function public.fn_set_wake_spread(p_seconds int) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into mqtt_private.wake_spread as w (seconds) values (p_seconds)
  on conflict (only_row) do update set seconds = excluded.seconds where w.seconds <> excluded.seconds
$$;
call mqtt_private.grant_execute('public.fn_set_wake_spread(int)', 'service_role');
