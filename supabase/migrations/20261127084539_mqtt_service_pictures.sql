-- The worker's writing of pictures: announced, asked for again, stored or given up. Their states are drawn in
-- …_images_and_telemetry.sql; the bytes are in Storage.
--
-- A picture is (device, image_name, captured_at). A device keeps a picture under its name until it is confirmed; so
-- what comes under a name without a time is the unfinished picture of that name.
--
-- Locks, in this order: devices, visits, pictures.

-- Rows that turned out to be a picture that is complete already, and were deleted: for a report that is sent again.
call mqtt_private.create_table('mqtt_private.duplicate_images', null, $$
  image_id uuid primary key,
  original_id uuid not null references public.device_images (image_id) on delete cascade,
  found_at timestamptz not null default now()
$$);
-- the duplicates of a picture that is deleted
create index if not exists duplicate_images_original_id_idx on mqtt_private.duplicate_images (original_id);
-- the rows to delete
create index if not exists duplicate_images_found_at_idx on mqtt_private.duplicate_images (found_at);
grant select, insert, update, delete on table mqtt_private.duplicate_images to service_role;

-- Which picture is meant ---------------------------------------------------------------------------------------

-- The row of a picture by its name and time; a row of nulls: it is new. A row without a time becomes that of the first
-- picture of its name that comes with one; so does a pending row that the project's own code made, whatever its time.
create or replace function mqtt_private.fn_find_image(
  p_device_id uuid, p_name text, p_captured_at timestamptz) returns public.device_images
language plpgsql stable set search_path = public, extensions as $$
declare
  v_image public.device_images;
begin
  if p_captured_at is not null then
    select * into v_image from public.device_images
    where device_id = p_device_id and image_name = p_name and captured_at = p_captured_at
    order by status = 'complete' desc, created_at limit 1;
    if not found then
      select * into v_image from public.device_images
      where device_id = p_device_id and image_name = p_name and status <> 'complete'
        and (captured_at is null or time_unknown or status = 'pending' and listed_at is null)
      order by status = 'pending', updated_at desc limit 1;
    end if;
    return v_image;
  end if;

  select * into v_image from public.device_images
  where device_id = p_device_id and image_name = p_name and status <> 'pending' order by updated_at desc limit 1;
  if v_image.image_id is null or v_image.status = 'complete' then -- the next picture of this name
    select * into v_image from public.device_images
    where device_id = p_device_id and image_name = p_name and status = 'pending' order by created_at limit 1;
  end if;
  return v_image;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_image', 'service_role');

-- The row of the picture that a device announces (as fn_find_image), and the time it is taken to have.
-- A device whose clock begins at the same plausible time at each boot gives many pictures one name and one time. What
-- is announced with another size than the picture stored under them is not that picture: to call it complete would have
-- the device delete it. It is received as one without a time, which only its bytes tell from others.
-- Chunks without metadata mean the picture that this visit has stored under that name, if it has.
create or replace function mqtt_private.fn_find_announced_image(
  p_device_id uuid, p_image jsonb, out image public.device_images, out captured_at timestamptz)
language plpgsql stable set search_path = public, extensions as $$
declare
  v_stored public.device_images;
  v_name constant text := p_image ->> 'image_name';
begin
  captured_at := (p_image ->> 'captured_at')::timestamptz;
  captured_at := case when isfinite(captured_at) then captured_at end;
  image := mqtt_private.fn_find_image(p_device_id, v_name, captured_at);
  if image.status = 'complete' and captured_at is not null and (p_image ->> 'image_size')::int <> image.image_size then
    captured_at := null;
    image := mqtt_private.fn_find_image(p_device_id, v_name, null);
  end if;
  if p_image ->> 'total_chunks' is null then
    select i.* into v_stored
    from public.device_images i join mqtt_private.visits v on v.device_id = i.device_id
    where i.device_id = p_device_id and i.image_name = v_name and i.status = 'complete' and i.completed_at >= v.began_at
    order by i.completed_at desc limit 1;
    if found then
      image := v_stored;
    end if;
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_announced_image', 'service_role');

-- Recording ----------------------------------------------------------------------------------------------------

-- Where a picture is stored. The path is made of ids alone: never of a name that a device chose.
create or replace function mqtt_private.fn_image_path(
  p_device public.devices, p_image_id uuid, p_captured_at timestamptz, p_now timestamptz) returns text
language sql stable set search_path = '' as $$
  select format('%s/%s/%s/%s/%s.jpg',
    coalesce((p_device).company_id::text, 'unassigned'), coalesce((p_device).site_id::text, 'unassigned'),
    (p_device).device_id, to_char(coalesce(p_captured_at, p_now) at time zone 'UTC', 'YYYY-MM-DD'), p_image_id)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_image_path', 'service_role');

-- What a picture's row has in metadata: what the device sent, and its readings beside that under the names by which the
-- Node service had them there, in the unit in which they are recorded.
create or replace function mqtt_private.fn_image_metadata(p_image jsonb) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
  return coalesce(nullif(p_image -> 'metadata', 'null'), '{}') || jsonb_strip_nulls(jsonb_build_object(
    'temperature', p_image -> 'temperature', 'humidity', p_image -> 'humidity', 'pressure', p_image -> 'pressure',
    'gas_resistance', p_image -> 'gas_resistance'));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_image_metadata', 'service_role');

-- Writes metadata that the table refused whole: a generated column of the project may have no room for a reading.
-- Returns what is left out by then, as fn_write_row.
create or replace function mqtt_private.fn_write_metadata_without_readings(
  p_image_id uuid, p_metadata jsonb, p_left_out jsonb) returns jsonb
language plpgsql volatile set search_path = '' as $$
declare
  v_metadata constant jsonb := p_metadata - '{temperature,humidity,pressure,gas_resistance}'::text[];
begin
  if not p_left_out ? 'metadata' or mqtt_private.fn_write_row('device_images', 'image_id',
    jsonb_build_object('image_id', p_image_id), jsonb_build_object('metadata', v_metadata)) ? 'metadata'
  then
    return p_left_out;
  end if;
  return p_left_out - 'metadata' || jsonb_build_object('the readings in metadata', p_left_out -> 'metadata');
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_write_metadata_without_readings', 'service_role');

-- Makes the row of a picture receiving, or adds one, in one statement. p_old: what fn_find_announced_image found.
-- image: the row; warning: what the table does not take of it, or null.
create or replace function mqtt_private.fn_receive_image(
  p_device public.devices, p_old public.device_images, p_image jsonb, p_captured_at timestamptz, p_now timestamptz,
  out image public.device_images, out warning text)
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_is_new constant boolean := p_old.image_id is null;
  v_id constant uuid := coalesce(p_old.image_id, gen_random_uuid());
  v_captured_at constant timestamptz := coalesce(p_captured_at, p_old.captured_at);
  v_needs_time constant boolean := v_captured_at is null
    and mqtt_private.fn_is_demanded('device_images', 'captured_at');
  v_metadata constant jsonb := mqtt_private.fn_image_metadata(p_image);
  v_left_out jsonb;
begin
  v_left_out := mqtt_private.fn_write_row('device_images', case when not v_is_new then 'image_id' end,
    jsonb_build_object(
      'image_id', v_id, 'status', 'receiving', 'captured_at', case when v_needs_time then p_now else v_captured_at end,
      'time_unknown', v_needs_time or p_captured_at is null and coalesce(p_old.time_unknown, false),
      'upload_path', coalesce(p_old.upload_path, mqtt_private.fn_image_path(p_device, v_id, p_captured_at, p_now)))
    || case when v_is_new then
      jsonb_build_object('device_id', p_device.device_id, 'image_name', p_image -> 'image_name') else '{}' end,
    jsonb_build_object('last_error', null, 'missing_requests', 0, 'retry_count', 0, 'received_chunks', 0)
    || jsonb_strip_nulls(jsonb_build_object(
      'image_size', p_image -> 'image_size', 'max_chunk_size', p_image -> 'max_chunk_size',
      'total_chunks', p_image -> 'total_chunks', 'error_code', p_image -> 'error_code',
      'location', p_image -> 'location', 'site_id', case when p_old.upload_path is null then p_device.site_id end))
    || case when v_is_new or v_metadata <> '{}' then jsonb_build_object('metadata', v_metadata) else '{}' end);
  v_left_out := mqtt_private.fn_write_metadata_without_readings(v_id, v_metadata, v_left_out);
  select * into image from public.device_images where image_id = v_id;
  warning := mqtt_private.fn_describe_left_out('device_images', v_left_out);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_receive_image', 'service_role');

-- Records the readings that came with a picture, in one row, with the site, program and company of its device at that
-- moment. A reading that the table refuses is left out; the picture is received all the same. Returns what is left out,
-- and why; null: nothing.
create or replace function mqtt_private.fn_record_readings(
  p_device public.devices, p_image_id uuid, p_image jsonb, p_captured_at timestamptz, p_now timestamptz) returns text
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
  v_readings constant jsonb := jsonb_strip_nulls(jsonb_build_object(
    'temperature', p_image -> 'temperature', 'humidity', p_image -> 'humidity', 'pressure', p_image -> 'pressure',
    'gas_resistance', p_image -> 'gas_resistance'));
begin
  if p_image ->> 'total_chunks' is null and v_readings = '{}' then
    return null; -- its metadata did not come
  end if;
  if exists (select from public.device_telemetry where image_id = p_image_id) then
    return mqtt_private.fn_describe_left_out('device_telemetry', mqtt_private.fn_write_row(
      'device_telemetry', 'image_id', jsonb_build_object('image_id', p_image_id), v_readings));
  end if;
  return mqtt_private.fn_describe_left_out('device_telemetry', mqtt_private.fn_write_row('device_telemetry', null,
    jsonb_build_object(
      'device_id', p_device.device_id, 'image_id', p_image_id, 'captured_at', coalesce(p_captured_at, p_now)),
    v_readings || jsonb_strip_nulls(jsonb_build_object(
      'site_id', p_device.site_id, 'program_id', p_device.program_id, 'company_id', p_device.company_id))));
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_telemetry');
  if v_error is null then raise; end if;
  return 'its readings are not recorded: ' || v_error;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_readings', 'service_role');

-- Records one announcement of a device whose row and visit are locked.
create or replace function mqtt_private.fn_record_image(
  p_device_id uuid, p_image jsonb, p_worker text, p_lease interval, p_now timestamptz) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_device public.devices;
  v_image public.device_images;
  v_found record;
  v_received record;
  v_answer jsonb;
begin
  if coalesce(p_image ->> 'image_name', '') = '' then
    raise exception 'image_name is empty' using errcode = 'check_violation';
  end if;
  select * into v_device from public.devices where device_id = p_device_id;
  v_answer := jsonb_build_object(
    'ref', p_image -> 'ref', 'device_id', p_device_id, 'device_code', v_device.device_code,
    'topic_root', coalesce(v_device.mqtt_root, 'device'), 'image_id', null, 'storage_path', null,
    'next_wake_at', (mqtt_private.fn_next_wake_of_device(p_device_id, p_now)).next_wake_at);
  if not mqtt_private.fn_hold_or_begin_visit(p_device_id, p_worker, p_lease, p_now) then
    return v_answer || '{"result": "silent"}';
  end if;
  perform mqtt_private.fn_touch_devices_or_pass_over(array[p_device_id], jsonb_build_array(jsonb_build_object(
    'topic_id', p_image -> 'topic_id', 'topic_root', v_device.mqtt_root))); -- the root is its HELLO's

  v_found := mqtt_private.fn_find_announced_image(p_device_id, p_image);
  v_image := v_found.image;
  delete from public.device_images -- what its HELLO listed under this name has come
  where device_id = p_device_id and image_name = p_image ->> 'image_name' and status = 'pending'
    and listed_at is not null and image_id is distinct from v_image.image_id;
  if v_image.status = 'complete' then
    return v_answer || jsonb_build_object(
      'result', 'complete', 'image_id', v_image.image_id, 'storage_path', v_image.storage_path);
  end if;
  v_received := mqtt_private.fn_receive_image(v_device, v_image, p_image, v_found.captured_at, p_now);
  v_image := v_received.image;
  return v_answer || jsonb_build_object(
    'result', 'receiving', 'image_id', v_image.image_id, 'storage_path', v_image.upload_path,
    'captured_at', case when not v_image.time_unknown then v_image.captured_at end,
    'image_size', v_image.image_size, 'total_chunks', v_image.total_chunks,
    'warnings', array_remove(array[v_received.warning,
      mqtt_private.fn_record_readings(v_device, v_image.image_id, p_image, v_found.captured_at, p_now)], null));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_image', 'service_role');

-- The answer to an announcement of which nothing was written.
create or replace function mqtt_private.fn_refuse_image(
  p_image jsonb, p_result text, p_error text, p_now timestamptz) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'ref', p_image -> 'ref', 'result', p_result, 'device_id', null, 'device_code', null, 'topic_root', 'device',
    'image_id', null, 'storage_path', null, 'error', p_error,
    'next_wake_at', mqtt_private.fn_next_wake_for_topic_id(p_image ->> 'topic_id', p_now))
$$;
call mqtt_private.grant_execute('mqtt_private.fn_refuse_image', 'service_role');

-- Records the pictures that devices announced and the readings beside them, in the order given.
-- p_images: [{ref, topic_id, image_name, captured_at?, image_size?, max_chunk_size?, total_chunks?, error_code?,
-- location?, temperature?, humidity?, pressure?, gas_resistance?, metadata?}]; bytes, °C, %RH, hPa, kΩ. captured_at is
-- left out where the device's clock was not set. Unknown devices are registered as by fn_record_heartbeats. A picture
-- begins a visit where there is none, held by p_worker.
-- Returns, in order, [{ref, result, device_id, device_code, topic_root, image_id, storage_path, next_wake_at,
-- captured_at?, image_size?, total_chunks?, warnings?, error?}].
--   result       receiving (store it at storage_path, then fn_settle_images); complete (it is there already); silent
--                (another worker holds the visit; nothing is written); unknown_device; refused (the database refuses
--                the row; error says why)
--   warnings     what the database does not take of a picture that it receives, and why; texts
--   topic_root   where the device listens, as its HELLO said
--   captured_at, image_size, total_chunks   what its metadata said, whichever worker received it
create or replace function public.fn_record_images(
  p_worker text, p_images jsonb, p_register boolean default true, p_registrations_per_minute int default 60,
  p_lease_seconds double precision default 10
) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_image jsonb;
  v_device_id uuid;
  v_ids uuid[];
  v_errors jsonb;
  v_fault mqtt_private.fault;
  v_error text;
  v_now timestamptz;
  v_answers jsonb[] := '{}';
  v_topic_ids constant text[] := array(
    select i ->> 'topic_id' from jsonb_array_elements(p_images) with ordinality as a (i, place) order by place);
begin
  perform mqtt_private.fn_require_worker(p_worker);
  select r.errors into v_errors
  from mqtt_private.fn_register_unknown_devices(
    case when p_register then v_topic_ids else '{}' end, p_registrations_per_minute) r;
  v_ids := mqtt_private.fn_lock_devices_and_visits(v_topic_ids);
  v_now := clock_timestamp(); -- now that we have the locks: the wait must not shorten the leases

  for v_image, v_device_id in
    select i, v_ids[place] from jsonb_array_elements(p_images) with ordinality as a (i, place) order by place
  loop
    begin
      v_answers := v_answers || case
        when v_device_id is null then mqtt_private.fn_refuse_image(
          v_image, 'unknown_device', v_errors ->> (v_image ->> 'topic_id'), v_now)
        else mqtt_private.fn_record_image(
          v_device_id, v_image, p_worker, make_interval(secs => p_lease_seconds), v_now) end;
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_images');
      if v_error is null then raise; end if;
      v_answers := v_answers || mqtt_private.fn_refuse_image(v_image, 'refused', v_error, v_now);
    end;
  end loop;
  return to_jsonb(v_answers);
end
$$;
call mqtt_private.grant_execute('public.fn_record_images(text, jsonb, boolean, int, double precision)', 'service_role');

-- Settling -----------------------------------------------------------------------------------------------------

-- Where a picture can be seen, for the Node service's device_images.image_url. p_api_url: the project's; null: unknown.
create or replace function mqtt_private.fn_image_url(p_api_url text, p_path text) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_public boolean;
begin
  if to_regclass('storage.buckets') is not null then
    select public into v_public from storage.buckets where id = 'device-images';
  end if;
  return p_api_url || case when v_public then '/storage/v1/object/public/' else '/storage/v1/object/authenticated/' end
    || 'device-images/' || p_path;
exception when insufficient_privilege then
  return p_api_url || '/storage/v1/object/authenticated/device-images/' || p_path;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_image_url', 'service_role');

-- What a report says of how many chunks came and how often missing ones were asked for; retry_count is the Node
-- service's word for that.
create or replace function mqtt_private.fn_image_progress(p_image public.device_images, p_result jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_asked constant int := greatest((p_image).missing_requests, (p_result ->> 'missing_requests')::int);
begin
  return jsonb_strip_nulls(jsonb_build_object('received_chunks', p_result -> 'received_chunks'))
    || jsonb_build_object('missing_requests', v_asked, 'retry_count', v_asked);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_image_progress', 'service_role');

-- Writes an outcome to a picture's row. Returns what the table does not take of p_optional; raises what refuses more.
create or replace function mqtt_private.fn_write_image(p_image_id uuid, p_required jsonb, p_optional jsonb) returns text
language plpgsql volatile set search_path = public, extensions as $$
begin
  return mqtt_private.fn_describe_left_out('device_images', mqtt_private.fn_write_row('device_images', 'image_id',
    jsonb_build_object('image_id', p_image_id) || p_required, p_optional));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_write_image', 'service_role');

-- The picture is stored. One without a time whose bytes were stored before under its name is that picture: this row
-- goes, and the answer names the original's path. Returns {result, storage_path, warning?}.
create or replace function mqtt_private.fn_complete_image(
  p_image public.device_images, p_result jsonb, p_api_url text) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_original record;
begin
  if p_image.captured_at is null or p_image.time_unknown then
    select image_id, storage_path into v_original from public.device_images
    where device_id = p_image.device_id and image_name = p_image.image_name and status = 'complete'
      and sha256 = p_result ->> 'sha256'
    order by completed_at, image_id limit 1;
    if found then
      delete from public.device_images where image_id = p_image.image_id;
      perform mqtt_private.fn_check_deferred_constraints();
      insert into mqtt_private.duplicate_images (image_id, original_id)
      values (p_image.image_id, v_original.image_id);
      return jsonb_build_object('result', 'duplicate', 'storage_path', v_original.storage_path);
    end if;
  end if;
  return jsonb_build_object('result', 'complete', 'storage_path', p_image.upload_path,
    'warning', mqtt_private.fn_write_image(p_image.image_id,
      jsonb_build_object('status', 'complete', 'storage_path', p_image.upload_path, 'completed_at', now()),
      jsonb_build_object('received_at', now(), 'last_error', null)
      || mqtt_private.fn_image_progress(p_image, p_result)
      || jsonb_strip_nulls(jsonb_build_object(
        'image_size', p_result -> 'image_size', 'sha256', p_result -> 'sha256',
        'image_url', mqtt_private.fn_image_url(p_api_url, p_image.upload_path)))));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_complete_image', 'service_role');

-- The picture is given up for now, and an event in the device's history says so. Returns as fn_write_image.
create or replace function mqtt_private.fn_fail_image(p_image public.device_images, p_result jsonb) returns text
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_error constant text := coalesce(nullif(trim(p_result ->> 'error'), ''), 'no reason was given');
  v_warning text;
begin
  v_warning := mqtt_private.fn_write_image(p_image.image_id, '{"status": "failed"}',
    jsonb_build_object('last_error', v_error) || mqtt_private.fn_image_progress(p_image, p_result));
  perform mqtt_private.fn_log_event(p_image.device_id, 'image_failed', 'warning',
    format('picture %s failed: %s', p_image.image_name, v_error),
    jsonb_build_object('image_id', p_image.image_id, 'image_name', p_image.image_name, 'error', v_error,
      'missing', coalesce(p_result -> 'missing', '[]'), 'total_chunks', p_image.total_chunks));
  return v_warning;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_fail_image', 'service_role');

-- Applies one report on a picture, whose device is locked. Returns {result, storage_path, next_wake_at, warning?}.
create or replace function mqtt_private.fn_settle_image(
  p_result jsonb, p_worker text, p_api_url text, p_now timestamptz) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_image public.device_images;
  v_answer jsonb;
  v_id constant uuid := (p_result ->> 'image_id')::uuid;
  v_outcome constant text := p_result ->> 'outcome';
begin
  select * into v_image from public.device_images where image_id = v_id for update;
  if not found then
    select i.* into v_image
    from mqtt_private.duplicate_images x join public.device_images i on i.image_id = x.original_id
    where x.image_id = v_id;
    v_answer := jsonb_build_object(
      'result', case when found then 'duplicate' else 'unknown' end, 'storage_path', v_image.storage_path);
  elsif v_image.status = 'complete' then -- final
    v_answer := jsonb_build_object('result', 'complete', 'storage_path', v_image.storage_path);
  elsif v_outcome = 'complete' then
    v_answer := mqtt_private.fn_complete_image(v_image, p_result, p_api_url);
  elsif v_image.status = 'failed' or mqtt_private.fn_is_visit_held_by_other(v_image.device_id, p_worker, p_now) then
    v_answer := jsonb_build_object('result', case v_image.status when 'failed' then 'failed' else 'asked' end);
  elsif v_outcome = 'failed' then
    v_answer := jsonb_build_object('result', 'failed', 'warning', mqtt_private.fn_fail_image(v_image, p_result));
  else
    v_answer := jsonb_build_object('result', 'asked', 'warning', mqtt_private.fn_write_image(
      v_id, '{}', mqtt_private.fn_image_progress(v_image, p_result)));
  end if;
  if v_answer -> 'warning' = 'null' then
    v_answer := v_answer - 'warning';
  end if;
  return '{"storage_path": null, "next_wake_at": null}' || v_answer || case when v_image.device_id is null then '{}'
    else jsonb_build_object(
      'next_wake_at', (mqtt_private.fn_next_wake_of_device(v_image.device_id, p_now)).next_wake_at) end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_settle_image', 'service_role');

-- The same past what the project refuses: then the picture's row stays as it is, the result is refused, and error says
-- why.
create or replace function mqtt_private.fn_settle_image_or_pass_over(
  p_result jsonb, p_worker text, p_api_url text, p_now timestamptz) returns jsonb
language plpgsql volatile set search_path = '' as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  return mqtt_private.fn_settle_image(p_result, p_worker, p_api_url, p_now);
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_images');
  if v_error is null then raise; end if;
  return jsonb_build_object('result', 'refused', 'storage_path', null, 'next_wake_at', null, 'error', v_error);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_settle_image_or_pass_over', 'service_role');

-- Reports what became of pictures, in the order given. p_results: [{image_id, outcome: complete|failed|asked,
-- received_chunks?, missing_requests?, image_size?, sha256?, error?, missing?}]. complete: it is in Storage, at the
-- path that fn_record_images gave; final. failed, asked (missing chunks were asked for): written only while no other
-- worker holds the visit. p_api_url: the project's URL, for the column image_url where a table has it.
-- Returns, in order, [{image_id, result, storage_path, next_wake_at, warning?, error?}]. result: complete, failed,
-- asked: how the picture stands now; duplicate: the same bytes were stored before under this name, at storage_path, so
-- this row is gone; unknown; refused: the table refuses the change, error says why, and the row is as before. warning:
-- what the table does not take of the row beside that.
drop function if exists public.fn_settle_images(text, jsonb); -- an older one
create or replace function public.fn_settle_images(p_worker text, p_results jsonb, p_api_url text default null)
returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_result jsonb;
  v_now timestamptz;
  v_answers jsonb[] := '{}';
begin
  perform mqtt_private.fn_require_worker(p_worker);
  perform mqtt_private.fn_lock_devices(array(
    select device_id from public.device_images
    where image_id = any (array(select (r ->> 'image_id')::uuid from jsonb_array_elements(p_results) as r))));
  v_now := clock_timestamp();
  for v_result in select value from jsonb_array_elements(p_results) with ordinality order by ordinality loop
    v_answers := v_answers || (
      jsonb_build_object('image_id', v_result -> 'image_id')
      || mqtt_private.fn_settle_image_or_pass_over(v_result, p_worker, p_api_url, v_now));
  end loop;
  delete from mqtt_private.duplicate_images where image_id = any (array(
    select image_id from mqtt_private.duplicate_images
    where found_at < now() - interval '1 day' order by found_at limit 1000 for update skip locked));
  return to_jsonb(v_answers);
end
$$;
call mqtt_private.grant_execute('public.fn_settle_images(text, jsonb, text)', 'service_role');

-- Fails pictures of which nothing has come for an hour: their worker is gone, and no other took over. Rows of another
-- service, which have no upload_path, are left alone. The claim calls it, so it waits for nothing, and what the table
-- refuses stops no command. Chosen at random among the oldest 10,000: those that are refused each time leave room.
create or replace function mqtt_private.fn_fail_stale_images(p_now timestamptz) returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_image public.device_images;
  v_fault mqtt_private.fault;
  v_error text;
begin
  for v_image in
    select i.* from public.device_images i join public.devices d on d.device_id = i.device_id
    where i.status = 'receiving' and i.upload_path is not null and i.updated_at < p_now - interval '1 hour'
      and i.image_id = any (array(
        select image_id from (
          select image_id from public.device_images
          where status = 'receiving' and upload_path is not null and updated_at < p_now - interval '1 hour'
          order by updated_at limit 10000) oldest
        order by random() limit 100))
    for update of i skip locked
    for key share of d skip locked -- its history refers to it
  loop
    begin
      perform mqtt_private.fn_fail_image(v_image, '{"error": "the upload was not finished"}');
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_images');
      if v_error is null then raise; end if;
      raise warning 'image % was not finished, and its row does not say so: %', v_image.image_id, v_error;
    end;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_fail_stale_images', 'service_role');
