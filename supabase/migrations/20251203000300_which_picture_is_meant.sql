-- A device whose clock begins at the same plausible time at each boot gives many pictures one name and one time. What is
-- announced with another size than the picture that is stored under them is not that picture: to call it complete would
-- have the device delete it. It is received as one without a time, which only its bytes tell from others.
--
-- And a picture whose metadata did not come keeps the row that it has: a function that finds no row returns one of
-- nulls, which coalesce takes, so each report on such a picture had made a new row.

-- One announcement of a device whose row and visit are locked.
create or replace function mqtt_private.fn_record_image(
  p_device_id uuid, p_image jsonb, p_worker text, p_lease interval, p_now timestamptz) returns jsonb
language plpgsql volatile set search_path = ''
as $$
declare
  v_device public.devices;
  v_image public.device_images;
  v_stored public.device_images;
  v_answer jsonb;
  v_captured_at timestamptz := (p_image ->> 'captured_at')::timestamptz;
begin
  if coalesce(p_image ->> 'image_name', '') = '' then
    raise exception 'image_name is empty' using errcode = 'check_violation';
  end if;
  select * into v_device from public.devices where device_id = p_device_id;
  v_answer := jsonb_build_object(
    'ref', p_image -> 'ref', 'device_id', p_device_id, 'device_code', v_device.device_code,
    'topic_root', coalesce(v_device.mqtt_root, 'device'), 'image_id', null, 'storage_path', null,
    'next_wake_at', (mqtt_private.fn_next_wake_of_device(p_device_id, p_now)).next_wake_at);
  if not mqtt_private.fn_join_visit(p_device_id, p_worker, p_lease, p_now) then
    return v_answer || '{"result": "silent"}';
  end if;
  perform mqtt_private.fn_touch_devices(jsonb_build_array(jsonb_build_object(
    'topic_id', p_image -> 'topic_id', 'topic_root', v_device.mqtt_root))); -- the root is its HELLO's

  v_captured_at := case when isfinite(v_captured_at) then v_captured_at end;
  v_image := mqtt_private.fn_find_image(p_device_id, p_image ->> 'image_name', v_captured_at);
  if v_image.status = 'complete' and v_captured_at is not null
    and (p_image ->> 'image_size')::int <> v_image.image_size then -- another picture, of a clock that is not set
    v_captured_at := null;
    v_image := mqtt_private.fn_find_image(p_device_id, p_image ->> 'image_name', null);
  end if;
  if p_image ->> 'total_chunks' is null then -- chunks alone: what this visit has stored under that name is meant
    v_stored := mqtt_private.fn_find_stored_image(p_device_id, p_image ->> 'image_name');
    if v_stored.image_id is not null then
      v_image := v_stored;
    end if;
  end if;
  delete from public.device_images -- what its HELLO listed under this name has come
  where device_id = p_device_id and image_name = p_image ->> 'image_name' and status = 'pending'
    and listed_at is not null and image_id is distinct from v_image.image_id;
  if v_image.status = 'complete' then
    return v_answer || jsonb_build_object(
      'result', 'complete', 'image_id', v_image.image_id, 'storage_path', v_image.storage_path);
  end if;
  v_image := mqtt_private.fn_receive_image(v_device, v_image, p_image, v_captured_at, p_now);
  perform mqtt_private.fn_record_readings(v_device, v_image.image_id, p_image, v_captured_at, p_now);
  return v_answer || jsonb_build_object(
    'result', 'receiving', 'image_id', v_image.image_id, 'storage_path', v_image.upload_path,
    'captured_at', v_image.captured_at, 'image_size', v_image.image_size, 'total_chunks', v_image.total_chunks);
end
$$;
