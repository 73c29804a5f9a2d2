-- devices_overdue reckons with the spread of wakes: by_two_wakes said so too early for a device whose schedule is moved.

-- The spread of sites without one of their own, in seconds. Security definer, since a member of a company, whom the view
-- below serves, may not read the table.
create or replace function mqtt_private.fn_default_wake_spread() returns int
language sql stable security definer set search_path = '' as $$
  select seconds from mqtt_private.wake_spread
$$;
call mqtt_private.grant_execute('mqtt_private.fn_default_wake_spread', 'authenticated', 'service_role');

-- A device's share of a spread: from 0 up to, and not including, so many seconds.
create or replace function mqtt_private.fn_share_of_spread(p_device_id uuid, p_seconds int) returns int
language sql immutable parallel safe set search_path = '' as $$
  select floor(('x' || left(md5(p_device_id::text), 8))::bit(32)::bigint / 4294967296.0 * coalesce(p_seconds, 0))::int
$$;
call mqtt_private.grant_execute('mqtt_private.fn_share_of_spread', 'authenticated', 'service_role');

-- By how many whole seconds the schedule of this device is moved.
create or replace function mqtt_private.fn_wake_shift(p_device_id uuid) returns int
language sql stable set search_path = public, extensions as $$
  select mqtt_private.fn_share_of_spread(
    d.device_id, coalesce(s.wake_spread_seconds, mqtt_private.fn_default_wake_spread()))
  from public.devices d left join public.sites s on s.site_id = d.site_id
  where d.device_id = p_device_id
$$;
call mqtt_private.grant_execute('mqtt_private.fn_wake_shift', 'service_role');

call mqtt_private.create_view('devices_overdue',
  'Active devices that did not wake when they should have, ten minutes ago or earlier; by two wakes, where the second is past too.', $$
  select d.device_id, d.device_code, d.device_name, d.company_id, d.site_id, d.last_seen_at, d.next_wake_at,
    extract(epoch from now() - d.next_wake_at)::double precision as overdue_seconds,
    coalesce(mqtt_private.fn_wake_after(
      coalesce(nullif(trim(d.wake_schedule_cron), ''), nullif(trim(s.wake_schedule_cron), ''), '0 8,16 * * *'),
      d.next_wake_at - shift, coalesce(nullif(trim(s.timezone), ''), 'UTC')) + shift < now() - interval '10 minutes', false)
      as by_two_wakes
  from public.devices d left join public.sites s on s.site_id = d.site_id
  cross join lateral make_interval(secs => mqtt_private.fn_share_of_spread(
    d.device_id, coalesce(s.wake_spread_seconds, mqtt_private.fn_default_wake_spread()))) as shift
  where d.is_active and d.next_wake_at < now() - interval '10 minutes'
    and (d.last_seen_at is null or d.last_seen_at < d.next_wake_at - interval '10 minutes')
$$);
