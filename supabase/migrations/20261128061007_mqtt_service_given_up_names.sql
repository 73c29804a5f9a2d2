-- A visit expects no picture that was given up: the worker that takes it over would ask the device for it once.

-- Records one HELLO of a device whose visit is locked. p_is_held: another transaction holds the device's row, so that
-- nothing is written but the visit; else the device's row is locked too. The answer's given_up_names, if there are any, are
-- pictures that it lists and is not asked for; the visit's pending_names and pending_count leave them out.
create or replace function mqtt_private.fn_record_heartbeat(
  p_device_id uuid, p_heartbeat jsonb, p_worker text, p_redelivery_limit int, p_lease interval, p_now timestamptz,
  p_is_held boolean)
returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_device public.devices;
  v_visit record;
  v_warnings text[];
  v_next_wake_at constant timestamptz := (mqtt_private.fn_next_wake_of_device(p_device_id, p_now)).next_wake_at;
  v_names constant text[] := array(
    select name from jsonb_array_elements_text(
      case jsonb_typeof(p_heartbeat -> 'pending_names') when 'array' then p_heartbeat -> 'pending_names' else '[]' end)
      with ordinality as p (name, place)
    where name <> '' group by name order by min(place));
  v_given_up constant text[] := mqtt_private.fn_find_given_up_names(p_device_id, v_names);
  v_expected constant text[] := array(
    select name from unnest(v_names) with ordinality as p (name, place) where name <> all (v_given_up) order by place);
  v_count constant int := greatest(
    coalesce((p_heartbeat ->> 'pending_count')::int, 0) - cardinality(v_given_up), cardinality(v_expected));
begin
  v_visit := mqtt_private.fn_join_or_begin_visit(
    p_device_id, p_worker, p_heartbeat ->> 'ref', p_now, p_lease, v_count, v_expected,
    coalesce(p_heartbeat -> 'shared' = 'true'::jsonb, false));
  if v_visit.begins and p_is_held then
    v_warnings := array['another transaction of the project holds the row of this device in public.devices, so that '
      'nothing is written there: end it if it stays'];
  elsif v_visit.begins then
    v_warnings := array[
      mqtt_private.fn_update_device_status_or_pass_over(p_device_id, p_heartbeat, v_next_wake_at, p_now),
      mqtt_private.fn_record_pending_pictures(p_device_id, v_names, p_now)];
  end if;
  select * into v_device from public.devices where device_id = p_device_id;
  if v_visit.begins and v_device.is_active and not p_is_held then
    v_warnings := v_warnings || mqtt_private.fn_redeliver_commands_or_pass_over(
      p_device_id, p_redelivery_limit, p_now);
  end if;
  return jsonb_build_object(
    'device_id', p_device_id, 'device_code', v_device.device_code, 'is_active', coalesce(v_device.is_active, false),
    'holds_lease', v_visit.holds_lease, 'next_wake_at', v_next_wake_at,
    'commands', case when v_device.is_active
      then mqtt_private.fn_count_open_commands(p_device_id, null, p_now) else 0 end,
    'redelivered', (
      select count(*) from public.device_commands
      where device_id = p_device_id and v_device.is_active and due_at <= p_now and redelivery_count > 0),
    'warnings', coalesce(array_remove(v_warnings, null), '{}'))
    || case when v_given_up = '{}' then '{}' else jsonb_build_object('given_up_names', v_given_up) end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_heartbeat', 'service_role');
