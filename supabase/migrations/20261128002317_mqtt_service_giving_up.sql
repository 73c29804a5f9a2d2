-- Pictures that can never succeed are given up for good: what failed for the same reason in a number of visits.
--
--   keep         the device keeps it, and is not asked for it by name again; sent by itself, it is taken
--   discard      the device is told ACK_OK, and deletes it
--   quarantine   the same, once its bytes are in Storage, at <company>/rejected/<device>/<image>.jpg
--
-- The worker says of which kind a failure is, after how many visits a picture is given up, and how. A failure without a
-- kind, which the next visit may not have, is not counted, nor are those of a worker of an older version.
--
-- The row stays failed. What the device was told to delete is done with: without a time of its own, the next picture of
-- that name is another one.
--
-- Locks, in this order: devices, visits, pictures, their failures.

alter table public.device_images
  add column if not exists given_up text check (given_up in ('keep', 'discard', 'quarantine')),  -- null: it is not
  add column if not exists given_up_at timestamptz,
  add column if not exists rejected_path text;  -- where its bytes are stored, if they are in quarantine

-- In how many visits a picture failed for the same reason; a row goes with its picture, or when that is complete.
call mqtt_private.create_table('mqtt_private.image_failures', null, $$
  image_id uuid primary key references public.device_images (image_id) on delete cascade,
  kind text not null,
  missing text not null,        -- a hash of the chunks that did not come: others missing each time is the network's fault
  image_size integer,           -- as announced: another size is another picture
  visits int not null,
  visit_began_at timestamptz    -- the latest of them
$$);
grant select, insert, update, delete on table mqtt_private.image_failures to service_role;

-- The category of an event as the Node service had it, for its dashboards.
create or replace function mqtt_private.fn_category_of_event(p_event text) returns text
language sql immutable parallel safe set search_path = '' as $$
  select case p_event
    when 'mapped' then 'Assignment'
    when 'unmapped' then 'Unassignment'
    when 'self_registered' then 'ProvisioningStep'
    when 'wake_schedule_invalid' then 'ConfigurationChange'
    when 'image_failed' then 'ErrorEvent'
    when 'image_given_up' then 'ErrorEvent'
  end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_category_of_event', 'service_role');

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
        and coalesce(given_up, 'keep') = 'keep'
        and (captured_at is null or time_unknown or status = 'pending' and listed_at is null)
      order by status = 'pending', updated_at desc limit 1;
    end if;
    return v_image;
  end if;

  select * into v_image from public.device_images
  where device_id = p_device_id and image_name = p_name and status <> 'pending' order by updated_at desc limit 1;
  if v_image.image_id is null or v_image.status = 'complete' or v_image.given_up in ('discard', 'quarantine') then
    -- the next picture of this name
    select * into v_image from public.device_images
    where device_id = p_device_id and image_name = p_name and status = 'pending' order by created_at limit 1;
  end if;
  return v_image;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_image', 'service_role');

-- Those of these pictures of a device that are given up and that it keeps, in this order.
create or replace function mqtt_private.fn_find_given_up_names(p_device_id uuid, p_names text[]) returns text[]
language plpgsql stable set search_path = public, extensions as $$
begin
  return array(
    select name from unnest(p_names) with ordinality as n (name, place)
    where (
      select i.status = 'failed' and i.given_up = 'keep' from public.device_images i
      where i.device_id = p_device_id and i.image_name = name and i.status <> 'pending'
      order by i.updated_at desc limit 1)
    order by place);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_given_up_names', 'service_role');

-- Giving up ----------------------------------------------------------------------------------------------------

-- Counts a failure, once a visit, and returns in how many visits the picture failed for this reason by now.
create or replace function mqtt_private.fn_count_failure(p_image public.device_images, p_result jsonb) returns int
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_visits int;
begin
  insert into mqtt_private.image_failures as f (image_id, kind, missing, image_size, visits, visit_began_at)
  values (p_image.image_id, p_result ->> 'kind', md5(coalesce(p_result ->> 'missing', '[]')), p_image.image_size, 1,
    (select began_at from mqtt_private.visits where device_id = p_image.device_id))
  on conflict (image_id) do update
  set kind = excluded.kind, missing = excluded.missing, image_size = excluded.image_size,
      visit_began_at = excluded.visit_began_at,
      visits = case
        when (f.kind, f.missing, f.image_size)
          is distinct from (excluded.kind, excluded.missing, excluded.image_size) then 1
        when f.visit_began_at is not distinct from excluded.visit_began_at then f.visits
        else f.visits + 1 end
  returning visits into v_visits;
  return v_visits;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_count_failure', 'service_role');

-- Writes that a picture is given up, and an event in the device's history. Returns as fn_write_image.
create or replace function mqtt_private.fn_write_given_up(
  p_image public.device_images, p_error text, p_kind text, p_given_up text, p_visits int, p_rejected_path text)
returns text
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_error constant text := format('%s; given up after %s visits: %s', p_error, p_visits, case p_given_up
    when 'keep' then 'the device keeps it, and is not asked for it again'
    when 'discard' then 'the device was told to delete it'
    else 'the device was told to delete it, and what came of it is in ' || p_rejected_path end);
begin
  if p_image.given_up is distinct from p_given_up then
    perform mqtt_private.fn_log_event(p_image.device_id, 'image_given_up', 'warning',
      format('picture %s failed: %s', p_image.image_name, v_error),
      jsonb_build_object('image_id', p_image.image_id, 'image_name', p_image.image_name, 'error', p_error,
        'kind', p_kind, 'visits', p_visits, 'given_up', p_given_up, 'rejected_path', p_rejected_path));
  end if;
  return mqtt_private.fn_write_image(p_image.image_id, '{}', jsonb_build_object(
    'given_up', p_given_up, 'given_up_at', coalesce(p_image.given_up_at, now()), 'last_error', v_error)
    || jsonb_strip_nulls(jsonb_build_object('rejected_path', p_rejected_path)));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_write_given_up', 'service_role');

-- Gives up a picture that has just failed, if it is time: once a visit, however often it is reported. Returns {} if it is
-- not, else {given_up, failed_visits, rejected_path?, warning?}. For quarantine nothing is written until the bytes are
-- reported to be at rejected_path.
create or replace function mqtt_private.fn_give_up_image(p_image public.device_images, p_result jsonb) returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_is_stored constant boolean := p_result ->> 'outcome' = 'quarantined';
  v_given_up constant text := case when v_is_stored then 'quarantine' else p_result ->> 'give_up' end;
  v_path constant text := format('%s/rejected/%s/%s.jpg',
    coalesce(split_part(p_image.upload_path, '/', 1), 'unassigned'), p_image.device_id, p_image.image_id);
  v_visits int;
  v_answer jsonb;
begin
  if p_result ->> 'kind' is null or p_result ->> 'outcome' not in ('failed', 'quarantined') then
    return '{}';
  end if;
  if v_is_stored then
    v_visits := (select visits from mqtt_private.image_failures where image_id = p_image.image_id);
  else
    v_visits := mqtt_private.fn_count_failure(p_image, p_result);
    if v_visits < coalesce((p_result ->> 'give_up_after')::int, 2147483647) then
      if p_image.given_up = 'keep' then -- for another reason, or when it was another picture
        perform mqtt_private.fn_write_image(p_image.image_id, '{}', '{"given_up": null, "given_up_at": null}');
      end if;
      return '{}';
    end if;
  end if;
  v_answer := jsonb_build_object('given_up', v_given_up, 'failed_visits', v_visits,
    'rejected_path', case v_given_up when 'quarantine' then v_path end);
  if v_given_up <> 'quarantine' or v_is_stored then
    v_answer := v_answer || jsonb_build_object('warning', mqtt_private.fn_write_given_up(p_image,
      coalesce(nullif(trim(p_result ->> 'error'), ''), 'no reason was given'), p_result ->> 'kind', v_given_up, v_visits,
      v_answer ->> 'rejected_path'));
  end if;
  return jsonb_strip_nulls(v_answer);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_give_up_image', 'service_role');

-- The picture is complete after all.
create or replace function mqtt_private.fn_forget_failures(p_image public.device_images) returns void
language plpgsql volatile set search_path = public, extensions as $$
begin
  delete from mqtt_private.image_failures where image_id = p_image.image_id;
  if p_image.given_up is not null then
    perform mqtt_private.fn_write_image(p_image.image_id, '{}', '{"given_up": null, "given_up_at": null}');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_forget_failures', 'service_role');

-- Applies one report on a picture, whose device is locked. p_result: as for fn_settle_images, and {kind?, give_up?,
-- give_up_after?}: the kind of a failure, and after how many visits with it the picture is given up, and how. The outcome
-- quarantined: it failed, and what came of it is at the rejected_path that the answer to that named. Returns {result,
-- storage_path, next_wake_at, warning?, given_up?, failed_visits?, rejected_path?}.
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
    if v_answer ->> 'result' = 'complete' then
      perform mqtt_private.fn_forget_failures(v_image);
    end if;
  elsif mqtt_private.fn_is_visit_held_by_other(v_image.device_id, p_worker, p_now) then
    v_answer := jsonb_build_object('result', case v_image.status when 'failed' then 'failed' else 'asked' end);
  elsif v_image.status = 'failed' then -- given up in a later report than the first, or in one that is sent again
    v_answer := '{"result": "failed"}'::jsonb || mqtt_private.fn_give_up_image(v_image, p_result);
  elsif v_outcome = 'failed' then
    v_answer := jsonb_build_object('result', 'failed', 'warning', mqtt_private.fn_fail_image(v_image, p_result));
    v_answer := v_answer || mqtt_private.fn_give_up_image(v_image, p_result);
  elsif v_outcome = 'quarantined' then -- received anew meanwhile
    v_answer := '{"result": "asked"}';
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

-- Records one HELLO of a device whose visit is locked. p_is_held: another transaction holds the device's row, so that
-- nothing is written but the visit; else the device's row is locked too. The answer's given_up_names, if there are any, are
-- pictures that it lists and is not asked for.
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
    'warnings', coalesce(array_remove(v_warnings, null), '{}'))
    || case when v_given_up = '{}' then '{}' else jsonb_build_object('given_up_names', v_given_up) end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_heartbeat', 'service_role');
