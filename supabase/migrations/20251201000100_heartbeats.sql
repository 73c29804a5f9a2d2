-- HELLOs: a device that wakes is written down, or registers itself; its visit begins, and what it did not answer when
-- it was last awake is delivered again.
--
-- Every worker hears every HELLO. The first to bring it begins the visit and speaks; for the others it is an echo.
--
-- Locks, in this order, so nobody deadlocks: the registrations (an advisory lock, only where a device is unknown),
-- devices by device_id, visits by device_id. What is delivered again and what is no longer pending is not waited for:
-- whoever holds such a row is changing it.

alter table public.devices
  add column if not exists reported_location text,          -- the device's own word for it; site_id is where it is
  add column if not exists self_registered_at timestamptz;  -- null: a person or a back end wrote the row

create index if not exists devices_self_registered_at_idx on public.devices (self_registered_at)
  where self_registered_at is not null;
-- The numbers of DEVICE-ESP32S3-001 and so on: the next is one more than the largest.
create index if not exists devices_code_number_idx
  on public.devices ((substring(device_code::text from '^DEVICE-ESP32S3-([0-9]{1,18})$')::bigint));

alter table public.device_commands
  add column if not exists redelivery_count integer not null default 0;  -- how often a wake made it pending again

-- pending: the device says that it has the picture, and has sent nothing of it yet.
select mqtt_private.fn_allow_words('public.device_images', 'status', array['pending']);
alter table public.device_images
  add column if not exists listed_at timestamptz;  -- when a HELLO first listed it; null: it came without that
create index if not exists device_images_pending_idx
  on public.device_images (device_id, image_name) where status = 'pending';

-- Faults -------------------------------------------------------------------------------------------------------

-- Whether an error lies in what one row holds (a check, a length, a project's own trigger), so that the rows beside
-- it can go on. Lock time-outs, missing grants and the like concern all of them.
create or replace function mqtt_private.fn_is_row_fault(p_sqlstate text) returns boolean
language sql immutable strict parallel safe set search_path = ''
as $$
  select left(p_sqlstate, 2) not in ('08', '25', '40', '42', '53', '55', '57', '58', 'XX')
$$;

-- Registration -------------------------------------------------------------------------------------------------

-- The largest number in a device_code of ours.
create or replace function mqtt_private.fn_last_code_number() returns bigint
language plpgsql stable set search_path = ''
as $$
begin
  return coalesce((
    select max(substring(device_code::text from '^DEVICE-ESP32S3-([0-9]{1,18})$')::bigint) from public.devices), 0);
end
$$;

-- The row of a device that nobody knows: it waits to be mapped. Registrations are locked, so no two take one code. A
-- person can write the same device or the same code this moment: then that device is it (null), or the next code is
-- free.
create or replace function mqtt_private.fn_register_device(p_topic_id text, p_now timestamptz) returns uuid
language plpgsql volatile set search_path = ''
as $$
declare
  v_device_id uuid;
  v_code text;
  v_number bigint := mqtt_private.fn_last_code_number();
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
    if mqtt_private.fn_find_device(p_topic_id) is not null then
      return null;
    end if;
  end loop;
  raise exception 'no device_code is free after DEVICE-ESP32S3-%', v_number - 100
    using errcode = 'unique_violation', hint = 'Give the devices with the largest numbers another device_code.';
end
$$;

-- Registers those of these devices that nobody knows, as long as fewer than p_per_minute did so within the last
-- minute, over all workers. errors: {topic_id: why its row was refused}.
create or replace function mqtt_private.fn_register_unknown_devices(
  p_topic_ids text[], p_per_minute int, out created uuid[], out errors jsonb)
language plpgsql volatile set search_path = ''
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_id text;
  v_device_id uuid;
  v_left int;
  v_unknown constant text[] := array(
    select topic_id from unnest(p_topic_ids) with ordinality as t (topic_id, place)
    where topic_id <> '' and mqtt_private.fn_find_device(topic_id) is null order by place);
begin
  created := '{}';
  errors := '{}';
  if v_unknown = '{}' or mqtt_private.fn_registrations_left(p_per_minute, v_now) <= 0 then
    return;
  end if;
  perform pg_advisory_xact_lock(7205759402);
  v_now := clock_timestamp();
  v_left := mqtt_private.fn_registrations_left(p_per_minute, v_now);
  foreach v_id in array v_unknown loop
    exit when v_left <= 0;
    continue when mqtt_private.fn_find_device(v_id) is not null; -- another worker was first, or it is here twice
    begin
      v_device_id := mqtt_private.fn_register_device(v_id, v_now);
      created := array_remove(created || v_device_id, null);
      v_left := v_left - 1;
    exception when others then
      if not mqtt_private.fn_is_row_fault(sqlstate) then
        raise;
      end if;
      errors := errors || jsonb_build_object(v_id, sqlerrm);
    end;
  end loop;
end
$$;

create or replace function mqtt_private.fn_registrations_left(p_per_minute int, p_now timestamptz) returns int
language plpgsql stable set search_path = ''
as $$
begin
  return coalesce(p_per_minute, 0) - (
    select count(*) from public.devices where self_registered_at > p_now - interval '1 minute');
end
$$;

-- When whoever speaks under this id is to come back: a device that nobody knows too.
create or replace function mqtt_private.fn_next_wake_for_topic_id(p_topic_id text, p_now timestamptz) returns timestamptz
language plpgsql stable set search_path = ''
as $$
declare
  v_device_id constant uuid := mqtt_private.fn_find_device(p_topic_id);
begin
  return case when v_device_id is null then public.fn_calculate_next_wake('0 8,16 * * *', p_now, 'UTC')
    else (mqtt_private.fn_next_wake_of_device(v_device_id, p_now)).next_wake_at end;
end
$$;

-- What a HELLO begins ------------------------------------------------------------------------------------------

-- Commands that were sent and never answered are due again, in their old place and under the same command_id: those
-- that can be repeated without harm, and any of which the broker had said that nobody was listening.
create or replace function mqtt_private.fn_redeliver_commands(p_device_id uuid, p_limit int, p_now timestamptz) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update public.device_commands
  set status = 'pending', due_at = p_now, redelivery_count = redelivery_count + 1
  where command_id = any (array(
    select c.command_id from public.device_commands c
    where c.device_id = p_device_id and c.status = 'sent' and c.redelivery_count < p_limit
      and (c.no_listener
        or c.command_type in ('send_image', 'set_wake_schedule', 'update_config')
          and coalesce(c.delivered_at, '-infinity') < p_now - interval '10 seconds')
      and not (c.command_type = 'set_wake_schedule' and exists ( -- a newer schedule is not to be undone
        select from public.device_commands newer
        where newer.device_id = p_device_id and newer.command_type = 'set_wake_schedule'
          and newer.issued_at > c.issued_at and newer.status in ('pending', 'sent', 'acknowledged')))
    for update of c skip locked));
end
$$;

-- The device's pending pictures are those that it lists. A picture that is being received is not pending; a pending
-- row that came from elsewhere (a table that was there before) is not ours to remove.
-- A table that was there before can ask for more than we know; that must not cost the device its answer.
create or replace function mqtt_private.fn_record_pending_pictures(
  p_device_id uuid, p_names text[], p_now timestamptz) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  delete from public.device_images
  where image_id = any (array(
    select image_id from public.device_images
    where device_id = p_device_id and status = 'pending' and listed_at is not null
      and image_name <> all (p_names)
    for update skip locked));
  insert into public.device_images (device_id, image_name, status, listed_at)
  select p_device_id, name, 'pending', p_now
  from unnest(p_names) as p (name)
  where not exists (
    select from public.device_images
    where device_id = p_device_id and image_name = name and status in ('pending', 'receiving'))
  on conflict do nothing;
exception when others then
  if not mqtt_private.fn_is_row_fault(sqlstate) then
    raise;
  end if;
  raise warning 'device_images refused the pending pictures of device %: %', p_device_id, sqlerrm;
end
$$;

-- The visit that this HELLO belongs to. begins: it begins one. It does not where its ref was heard before (the response
-- was lost), nor where another worker brought it within the last 20 seconds. speaks: p_worker does, in this visit.
create or replace function mqtt_private.fn_hear_hello(
  p_device_id uuid, p_worker text, p_ref text, p_now timestamptz, p_lease interval, p_count int, p_names text[],
  p_shared boolean, out begins boolean, out holds_lease boolean)
language plpgsql volatile set search_path = ''
as $$
begin
  begins := false;
  update mqtt_private.visits set until = case when worker = p_worker then p_now + p_lease else until end
  where device_id = p_device_id and p_ref = any (heard_refs)
  returning worker = p_worker and ended_at is null into holds_lease;
  if found then
    return;
  end if;
  holds_lease := false;
  update mqtt_private.visits set heard_by = heard_by || p_worker, heard_refs = heard_refs || p_ref
  where device_id = p_device_id and worker <> p_worker and hello_at > p_now - interval '20 seconds'
    and p_worker <> all (heard_by) and not p_shared;
  if found then
    return;
  end if;
  perform mqtt_private.fn_begin_visit(p_device_id, p_worker, p_ref, p_now, p_lease, p_count, p_names);
  begins := true;
  holds_lease := true;
end
$$;

-- What the device says of itself. What it leaves out keeps its old value.
create or replace function mqtt_private.fn_note_heartbeat(
  p_device_id uuid, p_hello jsonb, p_next_wake_at timestamptz, p_now timestamptz) returns void
language plpgsql volatile set search_path = ''
as $$
begin
  update public.devices d
  set last_seen_at = p_now, last_wake_at = p_now, next_wake_at = p_next_wake_at, mqtt_id = h.topic_id,
      mqtt_root = case when h.topic_root in ('device', 'ESP32CAM') then h.topic_root else d.mqtt_root end,
      firmware_version = coalesce(h.firmware_version, d.firmware_version),
      battery_voltage = coalesce(h.battery_voltage, d.battery_voltage),
      wifi_rssi = coalesce(h.wifi_rssi, d.wifi_rssi),
      reported_location = coalesce(h.location, d.reported_location)
  from jsonb_to_record(p_hello) as h (
    topic_root text, topic_id text, firmware_version text, battery_voltage numeric, wifi_rssi int, location text)
  where d.device_id = p_device_id;
end
$$;

-- One HELLO of a device whose row and visit are locked.
create or replace function mqtt_private.fn_record_heartbeat(
  p_device_id uuid, p_hello jsonb, p_worker text, p_redelivery_limit int, p_lease interval, p_now timestamptz)
returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_device public.devices;
  v_heard record;
  v_next_wake_at constant timestamptz := (mqtt_private.fn_next_wake_of_device(p_device_id, p_now)).next_wake_at;
  v_names constant text[] := array(
    select name from jsonb_array_elements_text(
      case jsonb_typeof(p_hello -> 'pending_names') when 'array' then p_hello -> 'pending_names' else '[]' end)
      with ordinality as p (name, place)
    where name <> '' group by name order by min(place));
  v_count constant int := greatest(coalesce((p_hello ->> 'pending_count')::int, 0), cardinality(v_names));
begin
  v_heard := mqtt_private.fn_hear_hello(
    p_device_id, p_worker, p_hello ->> 'ref', p_now, p_lease, v_count, v_names,
    coalesce(p_hello -> 'shared' = 'true'::jsonb, false)); -- one worker alone hears what is shared
  if v_heard.begins then
    perform mqtt_private.fn_note_heartbeat(p_device_id, p_hello, v_next_wake_at, p_now);
    perform mqtt_private.fn_record_pending_pictures(p_device_id, v_names, p_now);
  end if;
  select * into v_device from public.devices where device_id = p_device_id;
  if v_heard.begins and v_device.is_active then
    perform mqtt_private.fn_redeliver_commands(p_device_id, p_redelivery_limit, p_now);
  end if;
  return jsonb_build_object(
    'device_id', p_device_id, 'device_code', v_device.device_code, 'is_active', coalesce(v_device.is_active, false),
    'holds_lease', v_heard.holds_lease, 'next_wake_at', v_next_wake_at,
    'commands', case when v_device.is_active
      then mqtt_private.fn_count_open_commands(p_device_id, null, p_now) else 0 end,
    'redelivered', (
      select count(*) from public.device_commands
      where device_id = p_device_id and v_device.is_active and due_at <= p_now and redelivery_count > 0));
end
$$;

-- The worker's call --------------------------------------------------------------------------------------------

-- Writes what devices said when they woke, many in one call, in the order given.
-- p_hellos: [{ref, topic_root, topic_id, pending_count, pending_names, firmware_version?, battery_voltage?,
-- wifi_rssi?, location?, shared?}]; volts, dBm. p_register: whether a device that nobody knows is registered, at most
-- p_registrations_per_minute over all workers. p_redelivery_limit: how often a command that is not answered is
-- delivered again on wake. p_lease_seconds: for how long p_worker holds_lease, unless it holds the visit (fn_renew_visits).
-- Returns, in order, [{ref, result, device_id, device_code, is_active, holds_lease, commands, redelivered, next_wake_at,
-- error?}].
-- result: known; created; refused (nothing is written; error says why where it was the database). speaks: p_worker
-- answers in this visit. commands: how many are due or leased for the device now; redelivered: how many of them were
-- sent before, and no answer to them came.
-- Never activates a device, never owes it a welcome. Sent again under the same refs, when the response was lost, it
-- begins no further visits and delivers nothing a second time; speaks is what holds by then.
--
-- A transaction that holds one device's row would keep all HELLOs waiting, so nothing is waited for longer than
-- lock_timeout. The caller gets 55P03, nothing has changed, and it can send smaller parts.
create or replace function public.fn_record_heartbeats(
  p_worker text,
  p_hellos jsonb,
  p_register boolean default true,
  p_registrations_per_minute int default 60,
  p_redelivery_limit int default 3,
  p_lease_seconds double precision default 10
) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_hello jsonb;
  v_device_id uuid;
  v_ids uuid[];
  v_created uuid[];
  v_errors jsonb;
  v_now timestamptz;
  v_answers jsonb[] := '{}';
  v_topic_ids constant text[] := array(
    select h ->> 'topic_id' from jsonb_array_elements(p_hellos) with ordinality as a (h, place) order by place);
begin
  perform mqtt_private.fn_require_worker(p_worker);
  select r.created, r.errors into v_created, v_errors
  from mqtt_private.fn_register_unknown_devices(
    case when p_register then v_topic_ids else '{}' end, p_registrations_per_minute) r;
  v_ids := mqtt_private.fn_lock_speakers(v_topic_ids);
  v_now := clock_timestamp(); -- the wait for the locks must not date the leases back

  for v_hello, v_device_id in
    select h, v_ids[place] from jsonb_array_elements(p_hellos) with ordinality as a (h, place) order by place
  loop
    begin
      if v_device_id is null then
        v_answers := v_answers || mqtt_private.fn_refuse_device(v_hello, v_errors ->> (v_hello ->> 'topic_id'), v_now);
        continue;
      end if;
      v_answers := v_answers || (
        jsonb_build_object('ref', v_hello -> 'ref', 'result',
          case when v_device_id = any (v_created) then 'created' else 'known' end)
        || mqtt_private.fn_record_heartbeat(v_device_id, v_hello, p_worker, p_redelivery_limit,
          make_interval(secs => p_lease_seconds), v_now));
      v_created := array_remove(v_created, v_device_id);
    exception when others then
      if not mqtt_private.fn_is_row_fault(sqlstate) then
        raise;
      end if;
      v_answers := v_answers || mqtt_private.fn_refuse_device(v_hello, sqlerrm, v_now);
    end;
  end loop;
  return to_jsonb(v_answers);
end
$$;

-- The devices that speak under these ids, in that order; null where nobody knows one. They are locked, then their
-- visits. Whoever appears later is not looked up again: it would be locked out of order.
create or replace function mqtt_private.fn_lock_speakers(p_topic_ids text[]) returns uuid[]
language plpgsql volatile set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select mqtt_private.fn_find_device(topic_id) from unnest(p_topic_ids) with ordinality as t (topic_id, place)
    order by place);
begin
  perform mqtt_private.fn_lock_devices(v_ids);
  perform mqtt_private.fn_lock_visits(v_ids);
  return array( -- one can have been deleted meanwhile
    select d.device_id from unnest(v_ids) with ordinality as a (device_id, place)
    left join public.devices d on d.device_id = a.device_id order by place);
end
$$;

create or replace function mqtt_private.fn_refuse_device(p_hello jsonb, p_error text, p_now timestamptz) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'ref', p_hello -> 'ref', 'result', 'refused', 'device_id', null, 'device_code', null, 'is_active', false,
    'holds_lease', false, 'commands', 0, 'redelivered', 0, 'error', p_error,
    'next_wake_at', mqtt_private.fn_next_wake_for_topic_id(p_hello ->> 'topic_id', p_now))
$$;

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_log_event(uuid, text, text, text, jsonb)',
    'mqtt_private.fn_is_row_fault(text)',
    'mqtt_private.fn_last_code_number()',
    'mqtt_private.fn_register_device(text, timestamptz)',
    'mqtt_private.fn_register_unknown_devices(text[], int)',
    'mqtt_private.fn_registrations_left(int, timestamptz)',
    'mqtt_private.fn_next_wake_for_topic_id(text, timestamptz)',
    'mqtt_private.fn_redeliver_commands(uuid, int, timestamptz)',
    'mqtt_private.fn_record_pending_pictures(uuid, text[], timestamptz)',
    'mqtt_private.fn_hear_hello(uuid, text, text, timestamptz, interval, int, text[], boolean)',
    'mqtt_private.fn_note_heartbeat(uuid, jsonb, timestamptz, timestamptz)',
    'mqtt_private.fn_record_heartbeat(uuid, jsonb, text, int, interval, timestamptz)',
    'mqtt_private.fn_lock_speakers(text[])',
    'mqtt_private.fn_refuse_device(jsonb, text, timestamptz)',
    'public.fn_record_heartbeats(text, jsonb, boolean, int, int, double precision)'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$$;
