-- Heartbeats: what happens when a device wakes and says HELLO. Its row is brought up to date, or it registers itself;
-- its visit begins (…_visits.sql); and the commands that it did not answer when it was last awake are redelivered.
--
-- Every worker receives every HELLO. The first to bring it begins the visit and answers; for the others it is a
-- duplicate.
--
-- A device is answered from what can be read, whatever the database refuses to write of its HELLO: what is refused is
-- left out, and the answer names it.
--
-- Locks, in this order: the registrations (an advisory lock, only where a device is unknown), devices, visits. Commands
-- to redeliver and pictures that are no longer pending are not waited for: whoever holds such a row is changing it.

-- Registration -------------------------------------------------------------------------------------------------

-- Adds the row of an unknown device; it waits to be mapped. Registrations are locked, so no two take one code. A person
-- may add the same device or use the same code this moment: then the result is null, or the next code is taken.
create or replace function mqtt_private.fn_register_device(p_topic_id text, p_now timestamptz) returns uuid
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_device_id uuid;
  v_code text;
  v_number bigint := coalesce((
    select max(substring(device_code::text from '^DEVICE-ESP32S3-([0-9]{1,18})$')::bigint) from public.devices), 0);
begin
  for attempt in 1..100 loop
    v_number := v_number + 1;
    v_code := 'DEVICE-ESP32S3-' || case when v_number < 1000 then lpad(v_number::text, 3, '0') else v_number::text end;
    insert into public.devices
      (device_mac, device_code, provisioning_status, is_active, mqtt_id, last_seen_at, self_registered_at)
    select p_topic_id, v_code, 'pending_mapping', false, p_topic_id, p_now, p_now
    where not exists (select from public.devices where device_code = v_code)
    on conflict do nothing returning device_id into v_device_id;
    if found then
      perform mqtt_private.fn_log_event(v_device_id, 'self_registered', 'info',
        format('registered itself as %s; map it to a site', v_code),
        jsonb_build_object('device_mac', p_topic_id, 'device_code', v_code));
      return v_device_id;
    end if;
    if mqtt_private.fn_find_device(p_topic_id) is not null then return null; end if;
  end loop;
  raise exception 'no device_code is free after DEVICE-ESP32S3-%', v_number - 100
    using errcode = 'unique_violation', hint = 'Give the devices with the largest numbers another device_code.';
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_register_device', 'service_role');

-- How many devices may still register themselves, of p_per_minute over all workers.
create or replace function mqtt_private.fn_registrations_left(p_per_minute int, p_now timestamptz) returns int
language plpgsql stable set search_path = public, extensions as $$
begin
  return coalesce(p_per_minute, 0) - (
    select count(*) from public.devices where self_registered_at > p_now - interval '1 minute');
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_registrations_left', 'service_role');

-- Registers those of these devices that are unknown, within the limit. errors: {topic_id: why its row was refused}.
create or replace function mqtt_private.fn_register_unknown_devices(
  p_topic_ids text[], p_per_minute int, out created uuid[], out errors jsonb)
language plpgsql volatile set search_path = '' as $$
declare
  v_now timestamptz := clock_timestamp();
  v_id text;
  v_device_id uuid;
  v_left int;
  v_fault mqtt_private.fault;
  v_error text;
  v_unknown constant text[] := array(
    select topic_id from unnest(p_topic_ids) with ordinality as t (topic_id, place)
    where topic_id <> '' and mqtt_private.fn_find_device(topic_id) is null order by place);
begin
  created := '{}';
  errors := '{}';
  if v_unknown = '{}' or mqtt_private.fn_registrations_left(p_per_minute, v_now) <= 0 then return; end if;
  perform pg_advisory_xact_lock(7205759402);
  v_now := clock_timestamp();
  v_left := mqtt_private.fn_registrations_left(p_per_minute, v_now);
  foreach v_id in array v_unknown loop
    exit when v_left <= 0;
    continue when mqtt_private.fn_find_device(v_id) is not null; -- another worker was first, or it is here twice
    begin
      v_device_id := mqtt_private.fn_register_device(v_id, v_now);
      perform mqtt_private.fn_check_deferred_constraints();
      created := array_remove(created || v_device_id, null);
      v_left := v_left - 1;
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_refusal(v_fault, 'devices');
      if v_error is null then raise; end if;
      errors := errors || jsonb_build_object(v_id, v_error);
    end;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_register_unknown_devices', 'service_role');

-- Redelivery ---------------------------------------------------------------------------------------------------

-- Whether redelivering this command would undo something newer: a schedule, one that is pending, sent or acknowledged;
-- a configuration, one that is acknowledged and names one of its keys.
create or replace function mqtt_private.fn_is_outdated(p_command public.device_commands) returns boolean
language plpgsql stable set search_path = public, extensions as $$
begin
  return p_command.command_type in ('set_wake_schedule', 'update_config') and exists (
    select from public.device_commands newer
    where newer.device_id = p_command.device_id and newer.command_type = p_command.command_type
      and (newer.issued_at, newer.issue_number) > (p_command.issued_at, p_command.issue_number)
      and case p_command.command_type
        when 'set_wake_schedule' then newer.status in ('pending', 'sent', 'acknowledged')
        else newer.status = 'acknowledged' and jsonb_typeof(p_command.command_payload) = 'object'
          and newer.command_payload ?| array(select jsonb_object_keys(p_command.command_payload)) end);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_outdated', 'service_role');

-- Makes commands that were sent and never answered due again, in their old place and under the same command_id: those
-- that can be repeated without harm, and those for which the broker reported that nobody was subscribed.
create or replace function mqtt_private.fn_redeliver_commands(p_device_id uuid, p_limit int, p_now timestamptz)
returns void
language plpgsql volatile set search_path = public, extensions as $$
begin
  update public.device_commands
  set status = 'pending', due_at = p_now, redelivery_count = redelivery_count + 1
  where command_id = any (array(
    select c.command_id from public.device_commands c
    where c.device_id = p_device_id and c.in_queue and c.status = 'sent' and c.redelivery_count < p_limit
      and (c.no_listener
        or (c.command_type in ('send_image', 'set_wake_schedule', 'update_config')
            or c.command_type::text = any (array(
              select t.command_type::text from public.device_command_types t where t.repeatable)))
          and coalesce(c.delivered_at, '-infinity') < p_now - interval '10 seconds')
      and not mqtt_private.fn_is_outdated(c)
    for update of c skip locked));
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_redeliver_commands', 'service_role');

-- The same, past what the project refuses: then they stay as they are, and the result says why; null: nothing is.
create or replace function mqtt_private.fn_redeliver_commands_or_pass_over(
  p_device_id uuid, p_limit int, p_now timestamptz) returns text
language plpgsql volatile set search_path = '' as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  perform mqtt_private.fn_redeliver_commands(p_device_id, p_limit, p_now);
  return null;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_commands');
  if v_error is null then raise; end if;
  return 'commands that it did not answer are not sent again: ' || v_error;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_redeliver_commands_or_pass_over', 'service_role');

-- Recording ----------------------------------------------------------------------------------------------------

-- What the device says of itself. What it leaves out keeps its old value.
create or replace function mqtt_private.fn_update_device_status(
  p_device_id uuid, p_heartbeat jsonb, p_next_wake_at timestamptz, p_now timestamptz) returns void
language plpgsql volatile set search_path = public, extensions as $$
begin
  update public.devices d
  set last_seen_at = p_now, last_wake_at = p_now, next_wake_at = p_next_wake_at, mqtt_id = h.topic_id,
      mqtt_root = case when h.topic_root in ('device', 'ESP32CAM') then h.topic_root else d.mqtt_root end,
      firmware_version = coalesce(h.firmware_version, d.firmware_version),
      battery_voltage = coalesce(h.battery_voltage, d.battery_voltage),
      wifi_rssi = coalesce(h.wifi_rssi, d.wifi_rssi),
      reported_location = coalesce(h.location, d.reported_location)
  from jsonb_to_record(p_heartbeat) as h (
    topic_root text, topic_id text, firmware_version text, battery_voltage numeric, wifi_rssi int, location text)
  where d.device_id = p_device_id;
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_update_device_status', 'service_role');

-- The same, past what the project refuses: the rest is written, and the result says what is not, and why; null: all is.
create or replace function mqtt_private.fn_update_device_status_or_pass_over(
  p_device_id uuid, p_heartbeat jsonb, p_next_wake_at timestamptz, p_now timestamptz) returns text
language plpgsql volatile set search_path = '' as $$
declare
  v_fault mqtt_private.fault;
begin
  begin
    perform mqtt_private.fn_update_device_status(p_device_id, p_heartbeat, p_next_wake_at, p_now);
    return null;
  exception when others then
    get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
      v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
      v_fault.column_name = column_name;
    if mqtt_private.fn_explain_refusal(v_fault, 'devices') is null then raise; end if;
  end;
  return mqtt_private.fn_describe_left_out('devices', mqtt_private.fn_write_row('devices', 'device_id',
    jsonb_build_object('device_id', p_device_id), jsonb_strip_nulls(jsonb_build_object(
      'last_seen_at', p_now, 'last_wake_at', p_now, 'next_wake_at', p_next_wake_at,
      'mqtt_id', p_heartbeat -> 'topic_id',
      'mqtt_root',
        case when p_heartbeat ->> 'topic_root' in ('device', 'ESP32CAM') then p_heartbeat -> 'topic_root' end,
      'firmware_version', p_heartbeat -> 'firmware_version', 'battery_voltage', p_heartbeat -> 'battery_voltage',
      'wifi_rssi', p_heartbeat -> 'wifi_rssi', 'reported_location', p_heartbeat -> 'location'))));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_update_device_status_or_pass_over', 'service_role');

-- Lists these pictures as pending. One that is being received is not; a pending row that is there already stays, be it
-- the project's own. Where a table demands a time of capture, it is p_now until the picture says its own.
create or replace function mqtt_private.fn_list_pending_pictures(
  p_device_id uuid, p_names text[], p_now timestamptz) returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_needs_time constant boolean := mqtt_private.fn_is_demanded('device_images', 'captured_at');
begin
  insert into public.device_images (device_id, image_name, status, listed_at, captured_at, time_unknown)
  select p_device_id, name, 'pending', p_now, case when v_needs_time then p_now end, v_needs_time
  from unnest(p_names) as p (name)
  where not exists (
    select from public.device_images
    where device_id = p_device_id and image_name = name and status in ('pending', 'receiving'))
  on conflict do nothing;
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_list_pending_pictures', 'service_role');

-- The same, past what the project refuses: the others are listed. Returns what refuses one; null: all are listed.
create or replace function mqtt_private.fn_list_pending_pictures_or_pass_over(
  p_device_id uuid, p_names text[], p_now timestamptz) returns text
language plpgsql volatile set search_path = '' as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  perform mqtt_private.fn_list_pending_pictures(p_device_id, p_names, p_now);
  return null;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_images');
  if v_error is null then raise; end if;
  if cardinality(p_names) = 1 then
    return format('the pending picture %s is not listed: %s', left(p_names[1], 255), v_error);
  end if;
  return (
    select min(mqtt_private.fn_list_pending_pictures_or_pass_over(p_device_id, array[name], p_now))
    from unnest(p_names) as p (name));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_list_pending_pictures_or_pass_over', 'service_role');

-- Makes the device's pending pictures those that it lists; a pending row that came from elsewhere (an adopted table)
-- stays. Returns what the project refuses of that, and why; null: nothing.
create or replace function mqtt_private.fn_record_pending_pictures(
  p_device_id uuid, p_names text[], p_now timestamptz) returns text
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  begin
    delete from public.device_images
    where image_id = any (array(
      select image_id from public.device_images
      where device_id = p_device_id and status = 'pending' and listed_at is not null
        and image_name <> all (p_names)
      for update skip locked));
    perform mqtt_private.fn_check_deferred_constraints();
  exception when others then
    get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
      v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
      v_fault.column_name = column_name;
    v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_images');
    if v_error is null then raise; end if;
    v_error := 'pictures that it no longer has stay pending: ' || v_error;
  end;
  return coalesce(mqtt_private.fn_list_pending_pictures_or_pass_over(p_device_id, p_names, p_now), v_error);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_pending_pictures', 'service_role');

-- Records one HELLO of a device whose visit is locked. p_is_held: another transaction holds the device's row, so that
-- nothing is written but the visit; else the device's row is locked too.
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
  v_count constant int := greatest(coalesce((p_heartbeat ->> 'pending_count')::int, 0), cardinality(v_names));
begin
  v_visit := mqtt_private.fn_join_or_begin_visit(
    p_device_id, p_worker, p_heartbeat ->> 'ref', p_now, p_lease, v_count, v_names,
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
    'warnings', coalesce(array_remove(v_warnings, null), '{}'));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_heartbeat', 'service_role');

-- The answer to a HELLO of which nothing was written.
create or replace function mqtt_private.fn_refuse_heartbeat(p_heartbeat jsonb, p_error text, p_now timestamptz)
returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'ref', p_heartbeat -> 'ref', 'result', 'refused', 'device_id', null, 'device_code', null, 'is_active', false,
    'holds_lease', false, 'commands', 0, 'redelivered', 0, 'error', p_error, 'warnings', '[]'::jsonb,
    'next_wake_at', mqtt_private.fn_next_wake_for_topic_id(p_heartbeat ->> 'topic_id', p_now))
$$;
call mqtt_private.grant_execute('mqtt_private.fn_refuse_heartbeat', 'service_role');

-- Locks the devices and visits of these ids on MQTT, as fn_lock_devices_and_visits. Where there is one device and another
-- transaction keeps its row, the visit alone: the device is answered all the same. is_held says so. Of several devices,
-- one that is held raises 55P03: the worker sends each alone then.
create or replace function mqtt_private.fn_lock_devices_or_visit(
  p_topic_ids text[], out device_ids uuid[], out is_held boolean)
language plpgsql volatile set search_path = '' as $$
begin
  device_ids := mqtt_private.fn_lock_devices_and_visits(p_topic_ids);
  is_held := false;
exception when lock_not_available then
  if cardinality(p_topic_ids) > 1 then raise; end if;
  device_ids := array[mqtt_private.fn_find_device(p_topic_ids[1])];
  perform pg_advisory_xact_lock(720575940, hashtext(device_ids[1]::text)); -- no two workers begin one visit
  perform mqtt_private.fn_lock_visits(device_ids);
  is_held := true;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_lock_devices_or_visit', 'service_role');

-- The worker's call --------------------------------------------------------------------------------------------

-- Records what devices said when they woke, in the order given.
-- p_heartbeats: [{ref, topic_root, topic_id, pending_count, pending_names, firmware_version?, battery_voltage?,
-- wifi_rssi?, location?, shared?}]; V, dBm; shared: no other worker received it. p_register: whether unknown devices
-- are registered, at most p_registrations_per_minute over all workers. p_redelivery_limit: how often a command that is
-- not answered is redelivered. p_lease_seconds: for how long p_worker holds the visit, unless it renews it
-- (fn_renew_visits).
-- Returns, in order, [{ref, result, device_id, device_code, is_active, holds_lease, commands, redelivered,
-- next_wake_at, warnings, error?}].
--   result       known; created; refused (nothing is written; error says why where it was the database)
--   warnings     what the database does not take of a HELLO that is known or created, and why; texts
--   holds_lease  p_worker answers in this visit
--   commands     how many are due or leased for the device now
--   redelivered  how many of them were sent before, and not answered
-- Never activates a device, never welcomes it. A call that is sent again under the same refs begins no further visits
-- and redelivers nothing a second time; holds_lease is as it is by then.
create or replace function public.fn_record_heartbeats(
  p_worker text, p_heartbeats jsonb, p_register boolean default true, p_registrations_per_minute int default 60,
  p_redelivery_limit int default 3, p_lease_seconds double precision default 10
) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_heartbeat jsonb;
  v_device_id uuid;
  v_ids uuid[];
  v_locked record;
  v_created uuid[];
  v_errors jsonb;
  v_fault mqtt_private.fault;
  v_error text;
  v_now timestamptz;
  v_answers jsonb[] := '{}';
  v_topic_ids constant text[] := array(
    select h ->> 'topic_id' from jsonb_array_elements(p_heartbeats) with ordinality as a (h, place) order by place);
begin
  perform mqtt_private.fn_require_worker(p_worker);
  select r.created, r.errors into v_created, v_errors
  from mqtt_private.fn_register_unknown_devices(
    case when p_register then v_topic_ids else '{}' end, p_registrations_per_minute) r;
  v_locked := mqtt_private.fn_lock_devices_or_visit(v_topic_ids);
  v_ids := v_locked.device_ids;
  v_now := clock_timestamp(); -- now that we have the locks: the wait must not shorten the leases

  for v_heartbeat, v_device_id in
    select h, v_ids[place] from jsonb_array_elements(p_heartbeats) with ordinality as a (h, place) order by place
  loop
    begin
      if v_device_id is null then
        v_answers := v_answers || mqtt_private.fn_refuse_heartbeat(
          v_heartbeat, v_errors ->> (v_heartbeat ->> 'topic_id'), v_now);
        continue;
      end if;
      v_answers := v_answers || (
        jsonb_build_object('ref', v_heartbeat -> 'ref', 'result',
          case when v_device_id = any (v_created) then 'created' else 'known' end)
        || mqtt_private.fn_record_heartbeat(v_device_id, v_heartbeat, p_worker, p_redelivery_limit,
          make_interval(secs => p_lease_seconds), v_now, v_locked.is_held));
      v_created := array_remove(v_created, v_device_id);
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_refusal(v_fault, 'devices');
      if v_error is null then raise; end if;
      v_answers := v_answers || mqtt_private.fn_refuse_heartbeat(v_heartbeat, v_error, v_now);
    end;
  end loop;
  return to_jsonb(v_answers);
end
$$;
call mqtt_private.grant_execute(
  'public.fn_record_heartbeats(text, jsonb, boolean, int, int, double precision)', 'service_role');
