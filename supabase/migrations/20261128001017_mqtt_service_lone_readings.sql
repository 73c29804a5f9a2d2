-- Readings that devices send without a picture: each is one row of device_telemetry, without an image_id.
--
-- Every worker receives them, and the broker delivers them again. Which are the same is told as for answers, with the
-- same records (…_acknowledgements.sql): by ref, delivery, and the words as the sessions bring them in order. Words that
-- hold the time of their measurement are used once, whichever session brings them.
-- A session counts as ten seconds older than it is: a busy database looks at a message some time after the worker reckoned
-- how old its session is, and what both sessions of two new workers have heard would be two rows.

-- The record under which a message with readings was recorded before; a row of nulls: it is new.
create or replace function mqtt_private.fn_find_recorded_readings(
  p_reading jsonb, p_worker text, p_device_id uuid, p_digest text) returns mqtt_private.acknowledgements
language plpgsql volatile set search_path = '' as $$
declare
  v_original mqtt_private.acknowledgements;
begin
  v_original := mqtt_private.fn_find_redelivered_acknowledgement(p_reading);
  if v_original.ref is null and p_reading ->> 'captured_at' is not null then
    select * into v_original from mqtt_private.acknowledgements
    where device_id = p_device_id and digest = p_digest and duplicate_of is null order by received_at limit 1;
  end if;
  if v_original.ref is null then
    v_original := mqtt_private.fn_find_duplicate_acknowledgement(
      p_reading || jsonb_build_object('session_seconds', (p_reading ->> 'session_seconds')::double precision + 10),
      p_worker, p_device_id, p_digest, '-infinity');
  end if;
  return v_original;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_recorded_readings', 'service_role');

-- Records one message of a device whose row is locked, once. Returns {ref, result, device_id, device_code, warnings}.
create or replace function mqtt_private.fn_record_lone_reading(p_reading jsonb, p_device_id uuid, p_worker text)
returns jsonb
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_device public.devices;
  v_original mqtt_private.acknowledgements;
  v_result jsonb;
  v_left_out jsonb;
  v_ref constant text := p_reading ->> 'ref';
  v_received_at constant timestamptz := clock_timestamp()
    - make_interval(secs => coalesce((p_reading ->> 'received_seconds_ago')::double precision, 0));
  v_digest constant text := md5('readings' || mqtt_private.fn_device_key(p_reading ->> 'topic_id')
    || coalesce(p_reading -> 'metadata', '{}')::text);
begin
  select result into v_result from mqtt_private.acknowledgements where ref = v_ref;
  if found then return v_result; end if;
  select * into v_device from public.devices where device_id = p_device_id;
  v_result := jsonb_build_object('ref', v_ref, 'result', 'duplicate', 'device_id', p_device_id,
    'device_code', v_device.device_code, 'warnings', '[]'::jsonb);
  v_original := mqtt_private.fn_find_recorded_readings(p_reading, p_worker, p_device_id, v_digest);
  if v_original.ref is null then
    v_left_out := mqtt_private.fn_write_row('device_telemetry', null,
      jsonb_build_object('device_id', p_device_id,
        'captured_at', coalesce((p_reading ->> 'captured_at')::timestamptz, v_received_at)),
      jsonb_strip_nulls(jsonb_build_object(
        'temperature', p_reading -> 'temperature', 'humidity', p_reading -> 'humidity',
        'pressure', p_reading -> 'pressure', 'gas_resistance', p_reading -> 'gas_resistance',
        'site_id', v_device.site_id, 'program_id', v_device.program_id, 'company_id', v_device.company_id)));
    v_result := v_result || jsonb_build_object('result', 'recorded', 'warnings',
      array_remove(array[mqtt_private.fn_describe_left_out('device_telemetry', v_left_out)], null));
  end if;
  insert into mqtt_private.acknowledgements
    (ref, worker, device_id, digest, delivery, duplicate_of, result, received_at)
  values (v_ref, p_worker, p_device_id, v_digest, p_reading ->> 'delivery',
    coalesce(v_original.duplicate_of, v_original.ref), v_result, v_received_at);
  return v_result;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_record_lone_reading', 'service_role');

-- Records readings without a picture, in the order given. p_readings: [{ref, topic_id, captured_at?, temperature?,
-- humidity?, pressure?, gas_resistance?, metadata, delivery?, redelivered?, received_seconds_ago?, session_seconds?}];
-- °C, %RH, hPa, kΩ; metadata: the message; the last four as for fn_acknowledge_commands. Unknown devices are registered
-- as by fn_record_heartbeats. No visit begins: who sends readings waits for no answer.
-- Returns, in order, [{ref, result, device_id, device_code, warnings?, error?}]. result: recorded; duplicate (recorded
-- before); unknown_device; refused (the table refuses the row; error says why).
create or replace function public.fn_record_lone_readings(
  p_worker text, p_readings jsonb, p_register boolean default true, p_registrations_per_minute int default 60
) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s'
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  v_reading jsonb;
  v_device_id uuid;
  v_ids uuid[];
  v_errors jsonb;
  v_fault mqtt_private.fault;
  v_error text;
  v_answers jsonb[] := '{}';
  v_topic_ids constant text[] := array(
    select r ->> 'topic_id' from jsonb_array_elements(p_readings) with ordinality as a (r, place) order by place);
begin
  perform mqtt_private.fn_require_worker(p_worker);
  select r.errors into v_errors
  from mqtt_private.fn_register_unknown_devices(
    case when p_register then v_topic_ids else '{}' end, p_registrations_per_minute) r;
  v_ids := mqtt_private.fn_find_and_lock_devices(v_topic_ids);
  for v_reading, v_device_id in
    select r, v_ids[place] from jsonb_array_elements(p_readings) with ordinality as a (r, place) order by place
  loop
    begin
      v_answers := v_answers || case
        when v_device_id is null then jsonb_build_object('ref', v_reading -> 'ref', 'result', 'unknown_device',
          'device_id', null, 'device_code', null, 'error', v_errors ->> (v_reading ->> 'topic_id'))
        else mqtt_private.fn_record_lone_reading(v_reading, v_device_id, p_worker) end;
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_telemetry');
      if v_error is null then raise; end if;
      v_answers := v_answers || jsonb_build_object('ref', v_reading -> 'ref', 'result', 'refused',
        'device_id', v_device_id, 'device_code', null, 'error', v_error);
    end;
  end loop;
  delete from mqtt_private.acknowledgements where ref = any (array(
    select ref from mqtt_private.acknowledgements
    where received_at < now() - interval '70 minutes' order by received_at limit 1000
    for update skip locked));
  return to_jsonb(v_answers);
end
$$;
call mqtt_private.grant_execute('public.fn_record_lone_readings(text, jsonb, boolean, int)', 'service_role');
