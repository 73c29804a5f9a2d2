-- Commands that wait for a maintenance window are counted: they have no due_at, so no count of the queue saw them.

-- See …_measures.sql. New: held. How many commands wait, by what they wait for, each counted up to p_most; and for how long the oldest that is due has
-- been so. Reads the indexes of what waits, so finished commands cost nothing.
--   due        to be sent now, by any worker
--   scheduled  to be sent later
--   leased     in the hands of a worker
--   retry      failed, to be tried again
--   held       kept back until a maintenance window opens
--   sent       the device has not answered yet
-- Returns {due, scheduled, leased, retry, held, sent, oldest_due_seconds}; oldest_due_seconds is 0 where nothing is due.
create or replace function public.fn_measure_queue(p_most int default 100000) returns jsonb
language sql stable security invoker set search_path = public, extensions
set enable_seqscan = off set jit = off as $$
  select jsonb_build_object(
    'due', count(*) filter (where state = 'due'), 'scheduled', count(*) filter (where state = 'scheduled'),
    'leased', count(*) filter (where state = 'leased'), 'retry', count(*) filter (where state = 'retry'),
    'held', (select count(*) from (
      select from public.device_commands where held_until is not null order by held_until limit p_most) kept),
    'sent', (select count(*) from (
      select from public.device_commands where in_queue and status = 'sent' limit p_most) answers),
    'oldest_due_seconds', coalesce(greatest(extract(epoch from clock_timestamp() - min(due_at)), 0), 0))
  from (
    select due_at, case
      when lease_until > clock_timestamp() then 'leased'
      when due_at > clock_timestamp() then case when status = 'failed' then 'retry' else 'scheduled' end
      else 'due' end as state
    from public.device_commands where due_at is not null order by due_at limit p_most) waiting
$$;
call mqtt_private.grant_execute('public.fn_measure_queue(int)', 'service_role');

-- See …_fleet_overview.sql. New: depth.held, how many wait for a maintenance window.
create or replace function public.fn_fleet_overview(
  p_window_seconds double precision default 3600, p_slowest int default 5) returns jsonb
language sql stable security invoker set search_path = public, extensions set enable_seqscan = off set jit = off as $$
  with asked as materialized (
    select now() as at, least(greatest(coalesce(p_window_seconds, 3600), 60), 86400) as seconds
  ), waiting as materialized (
    select c.status::text as status, c.due_at, c.lease_until > asked.at as leased
    from public.device_commands c cross join asked
    where c.due_at is not null
  ), recent as materialized (
    select c.device_id, c.delivered_at, c.acknowledged_at
    from asked cross join public.devices d cross join lateral (
      select x.device_id, x.delivered_at, x.acknowledged_at from public.device_commands x
      where x.device_id = d.device_id and x.in_queue and x.delivered_at is not null
        and x.delivered_at > asked.at - make_interval(secs => asked.seconds)
      offset 0) c -- device by device
  ), issued as materialized (
    select c.issued_at, c.lost
    from asked cross join public.devices d cross join lateral (
      select x.issued_at,
        (x.status::text in ('rejected', 'expired') or x.status::text = 'failed' and x.due_at is null) as lost
      from public.device_commands x
      where x.device_id = d.device_id and x.in_queue
        and x.issued_at > asked.at - make_interval(secs => asked.seconds)
      offset 0) c
  ), flow as (
    select span.name, jsonb_build_object(
      'seconds', span.seconds,
      'issued', (select count(*) from issued where issued_at > asked.at - make_interval(secs => span.seconds)),
      'lost', (select count(*) from issued where lost and issued_at > asked.at - make_interval(secs => span.seconds)),
      'delivered', (select count(*) from recent where delivered_at > asked.at - make_interval(secs => span.seconds)),
      'acknowledged',
        (select count(*) from recent where acknowledged_at > asked.at - make_interval(secs => span.seconds))) as counts
    from asked cross join lateral (values ('minute', 60::double precision), ('window', asked.seconds))
      as span (name, seconds)
  )
  select jsonb_build_object(
    'now', asked.at,
    'depth', (
      select jsonb_build_object(
        'due', count(*) filter (where due_at <= asked.at and leased is not true),
        'leased', count(*) filter (where leased),
        'scheduled', count(*) filter (where due_at > asked.at and status = 'pending' and leased is not true),
        'retrying', count(*) filter (where due_at > asked.at and status = 'failed' and leased is not true),
        'held', (select count(*) from public.device_commands where held_until is not null),
        'sent', (select count(*) from public.device_commands where in_queue and status = 'sent'),
        'oldest_due_at', min(due_at) filter (where due_at <= asked.at and leased is not true))
      from waiting),
    'minute', (select counts from flow where name = 'minute'),
    'window', (select counts from flow where name = 'window'),
    'devices', (select count(*) from public.devices),
    'active', (select count(*) from public.devices where is_active),
    'awake', (
      select count(*) from mqtt_private.visits where ended_at is null and began_at > asked.at - interval '10 minutes'),
    'overdue', (
      select count(*) from public.devices where is_active and next_wake_at < asked.at - interval '10 minutes'),
    'slowest', (
      select coalesce(jsonb_agg(jsonb_build_object('device_id', s.device_id, 'device_code', d.device_code::text,
        'answers', s.answers, 'median_seconds', s.median_seconds) order by s.median_seconds desc, s.device_id), '[]')
      from (
        select device_id, count(*) as answers,
          percentile_cont(0.5) within group (
            order by greatest(extract(epoch from acknowledged_at - delivered_at), 0)::double precision)
            as median_seconds
        from recent where acknowledged_at is not null group by device_id
        order by median_seconds desc, device_id limit greatest(p_slowest, 0)) s
      join public.devices d on d.device_id = s.device_id),
    'workers', (
      select coalesce(jsonb_agg(jsonb_build_object('client_id', i.client_id, 'worker', i.worker, 'since', i.since,
        'commands', (select count(*) from public.device_commands c
                     where c.lease_until is not null and c.lease_until > asked.at and c.lease_worker = i.worker),
        'visits', (select count(*) from mqtt_private.visits v
                   where v.ended_at is null and v.lease_until > asked.at and v.lease_worker = i.worker))
        order by i.since desc, i.client_id), '[]')
      from mqtt_private.worker_instances i))
  from asked
$$;
call mqtt_private.grant_execute('public.fn_fleet_overview(double precision, int)', 'authenticated', 'service_role');

-- The version of the newest of these files. Each later migration replaces this function with its own version.
create or replace function mqtt_private.fn_schema_version() returns text
language sql immutable parallel safe set search_path = '' as $$
  select '20261128102611'
$$;
call mqtt_private.grant_execute('mqtt_private.fn_schema_version', 'service_role');
