-- What a device that wakes tells of its firmware, and what it is told of its configuration.
--
-- A HELLO costs two looks more: into the device's row, which it reads anyway, for config_due, and into an index for an
-- update_firmware of a release that is not verified. Only where there is something, something is done.

-- Firmware -----------------------------------------------------------------------------------------------------

-- a device's firmware commands that are not verified: each HELLO looks
create index if not exists device_commands_unverified_idx on public.device_commands (device_id)
  where release_id is not null and verified_at is null;

-- What a device that woke with this version says about the releases that it was sent.
--   it is the version   the command is acknowledged, if the answer was lost, and verified
--   it is another       one that the device acknowledged before it said so has not taken: it fails for good
-- p_heard_at: when the HELLO was received. A HELLO from around the answer says nothing against it: it may have been sent
-- before. A device that comes back with the version later corrects what failed or expired.
create or replace function mqtt_private.fn_verify_firmware(
  p_device_id uuid, p_version text, p_heard_at timestamptz, p_now timestamptz) returns void
language plpgsql volatile set search_path = public, extensions as $$
begin
  with judged as materialized (
    select c.command_id, r.version,
      mqtt_private.fn_version_fits(p_version, jsonb_build_object('=', r.version)) as fits
    from public.device_commands c join public.firmware_releases r on r.release_id = c.release_id
    where c.device_id = p_device_id and c.release_id is not null and c.verified_at is null and c.attempt > 0
      and c.status in ('pending', 'sent', 'acknowledged', 'failed', 'expired')
    for update of c skip locked
  )
  update public.device_commands c
  set status = case when j.fits then 'acknowledged' else 'failed' end,
      verified_at = case when j.fits then p_now end,
      acknowledged_at = coalesce(c.acknowledged_at, p_now),
      delivered_at = coalesce(c.delivered_at, p_now),
      last_error = case when not j.fits
        then left(format('the device came back with version %s, not %s', p_version, j.version), 1000) end,
      due_at = null, lease_worker = null, lease_until = null
  from judged j
  where c.command_id = j.command_id
    and (j.fits or c.status = 'acknowledged' and c.acknowledged_at < p_heard_at - interval '5 seconds');
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_verify_firmware', 'service_role');

-- The same, past what the project refuses: then they stay as they are, and the result says why; null: nothing is.
create or replace function mqtt_private.fn_verify_firmware_or_pass_over(
  p_device_id uuid, p_version text, p_heard_at timestamptz, p_now timestamptz) returns text
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  if not exists (
    select from public.device_commands
    where device_id = p_device_id and release_id is not null and verified_at is null)
  then
    return null;
  end if;
  begin
    perform mqtt_private.fn_verify_firmware(p_device_id, p_version, p_heard_at, p_now);
    return null;
  exception when others then
    get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
      v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
      v_fault.column_name = column_name;
    v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_commands');
    if v_error is null then raise; end if;
    return 'its firmware command is not verified: ' || v_error;
  end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_verify_firmware_or_pass_over', 'service_role');

-- Configuration ------------------------------------------------------------------------------------------------

-- Queues what the device is to get, as one update_config, unless the same version is on its way. What is left of an older
-- version and was not sent is cancelled; what a worker is sending now goes first. The device's row is locked.
create or replace function mqtt_private.fn_queue_config(p_device_id uuid, p_now timestamptz) returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_version constant bigint := (select desired_config_version from public.devices where device_id = p_device_id);
begin
  if exists (
    select from public.device_commands
    where device_id = p_device_id and config_version = v_version and (status = 'sent' or due_at is not null))
  then
    return;
  end if;
  update public.device_commands
  set status = 'cancelled', last_error = format('version %s of the configuration replaced it', v_version)
  where command_id = any (array(
    select command_id from public.device_commands
    where device_id = p_device_id and config_version < v_version and due_at is not null
      and coalesce(lease_until <= p_now, true)
    for update skip locked));
  insert into public.device_commands (device_id, command_type, command_payload, config_version)
  select d.device_id, 'update_config', difference, v_version
  from public.devices d, mqtt_private.fn_config_difference(d.desired_config, d.reported_config, d.config_unconfirmed)
    as difference
  where d.device_id = p_device_id and difference <> '{}';
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_config', 'service_role');

-- The same, past what the project refuses: then it is tried at the next wake, and the result says why; null: it is done.
create or replace function mqtt_private.fn_queue_config_or_pass_over(p_device_id uuid, p_now timestamptz) returns text
language plpgsql volatile set search_path = '' as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  perform mqtt_private.fn_queue_config(p_device_id, p_now);
  return null;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_commands');
  if v_error is null then raise; end if;
  return 'its configuration is not queued: ' || v_error;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_queue_config_or_pass_over', 'service_role');

-- See …_heartbeats.sql. New: a configuration goes out again only while it is the one that is wanted.
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
      and (c.config_version is null or c.config_version = (
        select desired_config_version from public.devices where device_id = p_device_id))
    for update of c skip locked));
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_redeliver_commands', 'service_role');

-- See …_given_up_names.sql. New: what it says of its firmware, and the configuration that it is to get.
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
  if v_visit.begins and p_heartbeat ->> 'firmware_version' is not null then
    v_warnings := v_warnings || mqtt_private.fn_verify_firmware_or_pass_over(p_device_id,
      p_heartbeat ->> 'firmware_version',
      p_now - make_interval(secs => coalesce((p_heartbeat ->> 'received_seconds_ago')::double precision, 0)), p_now);
  end if;
  if v_visit.begins and v_device.config_due and v_device.is_active and not p_is_held then
    v_warnings := v_warnings || mqtt_private.fn_queue_config_or_pass_over(p_device_id, p_now);
  end if;
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
