-- When devices wake: a preview of a schedule, and its change by an admin, for a device or a whole site.
--
-- Nobody who is signed in may write devices or sites. These functions write the schedule alone, after asking whether the
-- company is one of which the caller is an admin, as for mapping. A device takes a new schedule over when it wakes next;
-- before that only if it happens to listen.

-- The next p_count (1 to 50) runs of a schedule after p_from, as fn_calculate_next_wake works them out: ["2026-11-28T…", …].
-- Fewer where there are no more. Raises 22023 for a cron or a zone that cannot be read.
create or replace function public.fn_preview_schedule(
  p_cron text, p_timezone text default 'UTC', p_count int default 10, p_from timestamptz default now()) returns jsonb
language plpgsql stable security invoker set search_path = public, extensions as $$
declare
  v_runs timestamptz[] := '{}';
  v_run timestamptz := p_from;
begin
  for n in 1 .. least(greatest(coalesce(p_count, 10), 1), 50) loop
    v_run := public.fn_calculate_next_wake(p_cron, v_run, p_timezone);
    exit when v_run is null;
    v_runs := v_runs || v_run;
  end loop;
  return to_jsonb(v_runs);
end
$$;
call mqtt_private.grant_execute(
  'public.fn_preview_schedule(text, text, int, timestamptz)', 'authenticated', 'service_role');

comment on function public.fn_preview_schedule(text, text, int, timestamptz) is
  'The next runs of a five-field cron schedule in an IANA time zone, at most 50.';

-- Raises 42501 where the signed-in user is no admin of the company. The secret key may do what an admin may: within a
-- definer's function, only the setting still says who asks.
create or replace function mqtt_private.fn_demand_admin(p_company_id uuid) returns void
language plpgsql stable set search_path = '' as $$
begin
  if current_setting('role') = 'service_role' then return; end if;
  if p_company_id is null or p_company_id not in (select mqtt_private.fn_my_companies('admin')) then
    raise exception 'only an admin of the company changes its wake schedules'
      using errcode = 'insufficient_privilege', hint = 'Ask an admin of the company.';
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_demand_admin');

-- Writes the device's own schedule; null: its site's holds. A cron that cannot be read is never written, whoever calls it.
-- Security definer, as fn_apply_assignment: people write no devices.
create or replace function mqtt_private.fn_write_device_schedule(p_device_id uuid, p_cron text) returns void
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
begin
  perform mqtt_private.fn_demand_admin((select company_id from public.devices where device_id = p_device_id));
  perform public.fn_calculate_next_wake(p_cron, now(), 'UTC');
  update public.devices set wake_schedule_cron = p_cron where device_id = p_device_id;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_write_device_schedule', 'authenticated', 'service_role');

-- Gives a device a schedule of its own, or with null or blanks its site's again, and where it is active queues a
-- set_wake_schedule, so that it hears of it before its next wake if it listens.
-- Raises 22023 for a cron that cannot be read, 42501 for who is no admin of the device's company.
-- Returns {cron, timezone, next_run_at, command_id}: what holds now, and the command, or null.
create or replace function public.fn_set_device_schedule(p_device_id uuid, p_cron text) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions as $$
declare
  v_own constant text := nullif(trim(p_cron), '');
  v_device record;
  v_cron text;
  v_next timestamptz;
  v_command_id uuid;
begin
  select d.is_active, nullif(trim(s.wake_schedule_cron), '') as cron_of_site,
    coalesce(nullif(trim(s.timezone), ''), 'UTC') as timezone
  into v_device
  from public.devices d left join public.sites s on s.site_id = d.site_id where d.device_id = p_device_id;
  v_cron := coalesce(v_own, v_device.cron_of_site, '0 8,16 * * *');
  v_next := public.fn_calculate_next_wake(v_cron, now(), v_device.timezone);
  perform mqtt_private.fn_write_device_schedule(p_device_id, v_own);
  if v_device.is_active then
    insert into public.device_commands (device_id, command_type, command_payload)
    values (p_device_id, 'set_wake_schedule', jsonb_build_object('wake_schedule_cron', v_cron))
    returning command_id into v_command_id;
  end if;
  return jsonb_build_object(
    'cron', v_cron, 'timezone', v_device.timezone, 'next_run_at', v_next, 'command_id', v_command_id);
end
$$;
call mqtt_private.grant_execute('public.fn_set_device_schedule(uuid, text)', 'authenticated', 'service_role');

comment on function public.fn_set_device_schedule(uuid, text) is
  'Gives a device a wake schedule of its own, or its site''s again (null), and tells it; for admins of its company.';

-- Writes the schedule and the zone of a site; returns how many active devices follow it.
-- Security definer, as fn_apply_assignment: people write no sites.
create or replace function mqtt_private.fn_write_site_schedule(p_site_id uuid, p_cron text, p_timezone text) returns bigint
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
begin
  perform mqtt_private.fn_demand_admin((
    select coalesce(s.company_id, p.company_id)
    from public.sites s left join public.pilot_programs p on p.program_id = s.program_id where s.site_id = p_site_id));
  -- also for who calls this past the API's function: what cannot be read is never written
  perform public.fn_calculate_next_wake(coalesce(p_cron, '0 8,16 * * *'), now(), p_timezone);
  update public.sites set wake_schedule_cron = p_cron, timezone = p_timezone where site_id = p_site_id;
  return (select count(*) from public.devices
    where site_id = p_site_id and is_active and nullif(trim(wake_schedule_cron), '') is null);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_write_site_schedule', 'authenticated', 'service_role');

-- Changes when the devices of a site wake, those without a schedule of their own: from their next wake on. Schedules of
-- commands that follow the site's wakes follow (…_command_schedules.sql). p_cron null or blank: the default, 8 and 16 o'clock.
-- Raises as above, and 22023 for a zone that is none. Returns {cron, timezone, next_run_at, devices}: how many it concerns.
create or replace function public.fn_set_site_schedule(p_site_id uuid, p_cron text, p_timezone text) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions as $$
declare
  v_cron constant text := nullif(trim(p_cron), '');
  v_timezone constant text := coalesce(nullif(trim(p_timezone), ''), 'UTC');
  v_devices constant bigint := mqtt_private.fn_write_site_schedule(p_site_id, v_cron, v_timezone);
begin
  return jsonb_build_object('cron', coalesce(v_cron, '0 8,16 * * *'), 'timezone', v_timezone, 'devices', v_devices,
    'next_run_at', public.fn_calculate_next_wake(coalesce(v_cron, '0 8,16 * * *'), now(), v_timezone));
end
$$;
call mqtt_private.grant_execute('public.fn_set_site_schedule(uuid, text, text)', 'authenticated', 'service_role');

comment on function public.fn_set_site_schedule(uuid, text, text) is
  'Changes when the devices of a site wake, from their next wake on; for admins of its company.';
