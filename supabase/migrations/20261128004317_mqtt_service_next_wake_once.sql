-- A schedule is worked out once for all devices that follow it: a batch of a site's devices has one schedule and one time.
--
-- Between a time and the first run after it there is no run, so that run is the answer for each time between too. What was
-- worked out is kept for the transaction alone, so no change of a schedule can be missed: a schedule is its own key.

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
