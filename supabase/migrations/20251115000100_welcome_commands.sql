-- The welcome of a newly mapped device: one set_wake_schedule command with its schedule and where it belongs.

-- Queues the welcome of every active device that is owed one (devices.welcome_due), or of those named, up to p_limit.
-- The flag falls in the transaction that inserts the command, under a lock on the device; so each mapping is welcomed
-- exactly once, however many workers call, and however often. A device that another call holds is left to that call.
-- A schedule that does not parse is left out, and next_wake_time is 12 hours from now.
-- Returns [{command_id, device_id, device_code, site_id, next_wake_at}] of the devices welcomed by this call.
create or replace function public.fn_queue_welcome_commands(p_device_ids uuid[] default null, p_limit int default 500)
returns jsonb
language sql volatile security invoker set search_path = ''
as $$
  with owed as materialized (
    select device_id from public.devices
    where welcome_due and is_active and (p_device_ids is null or device_id = any (p_device_ids))
    order by device_id limit greatest(p_limit, 0)
    for no key update skip locked
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
        'site_id', d.site_id, 'site_name', s.name,
        'program_id', d.program_id, 'program_name', p.name,
        'company_id', d.company_id)) as payload
    from owed o
    join public.devices d on d.device_id = o.device_id
    left join public.sites s on s.site_id = d.site_id
    left join public.pilot_programs p on p.program_id = d.program_id
    left join lateral (
      select x.assignment_id, x.assigned_at from public.device_site_assignments x
      where x.device_id = d.device_id and x.is_active order by x.assigned_at desc limit 1) a on true
    cross join lateral mqtt_private.fn_next_wake_of_device(d.device_id, now()) wake
  ), paid as (
    update public.devices d set welcome_due = false, next_wake_at = w.next_wake_at
    from welcome w where d.device_id = w.device_id
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

revoke all on function public.fn_queue_welcome_commands(uuid[], int) from public, anon, authenticated;
grant execute on function public.fn_queue_welcome_commands(uuid[], int) to service_role;
