-- The change of a site's schedule, with the API's function as an invoker like all of them: what needs more rights than the
-- caller's is a function of its own.

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
call mqtt_private.grant_execute('mqtt_private.fn_write_site_schedule', 'authenticated');

-- See …_wake_planning.sql. New: security invoker.
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
call mqtt_private.grant_execute('public.fn_set_site_schedule(uuid, text, text)', 'authenticated');

-- See …_wake_planning.sql. New: a cron that cannot be read is never written, whoever calls it.
create or replace function mqtt_private.fn_write_device_schedule(p_device_id uuid, p_cron text) returns void
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
begin
  perform mqtt_private.fn_demand_admin((select company_id from public.devices where device_id = p_device_id));
  perform public.fn_calculate_next_wake(p_cron, now(), 'UTC');
  update public.devices set wake_schedule_cron = p_cron where device_id = p_device_id;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_write_device_schedule', 'authenticated');

-- The version of the newest of these files. Each later migration replaces this function with its own version.
create or replace function mqtt_private.fn_schema_version() returns text
language sql immutable parallel safe set search_path = '' as $$
  select '20261128101409'
$$;
call mqtt_private.grant_execute('mqtt_private.fn_schema_version', 'service_role');
