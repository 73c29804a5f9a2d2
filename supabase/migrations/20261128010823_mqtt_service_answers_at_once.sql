-- Answers that name their commands, many in one statement.
--
-- Most devices answer with the command_id. Such an answer means that command, whatever else was sent; so where a device's
-- answers of a call each name another command of it, and nobody has brought them before, their order says nothing, and
-- one statement writes them all. Every other answer is used alone, as …_acknowledgements.sql says; and so are all where
-- the project's table refuses one of them.

-- Whether a text is the id of a command.
create or replace function mqtt_private.fn_is_uuid(p_text text) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select p_text ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_uuid', 'service_role');

-- Uses the answers of this call that can be used together. Returns {place: result}, places counted from 1; what is
-- missing is to be used alone. The devices' rows are locked. p_device_ids: the answers' devices.
-- A device's answers are used together or not at all, so that what it says keeps its order.
create or replace function mqtt_private.fn_acknowledge_together(
  p_acks jsonb, p_device_ids uuid[], p_worker text, p_max_retries int, p_delay interval, out results jsonb)
language plpgsql volatile set search_path = public, extensions
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
begin
  -- A cancel or a settle may be under way: decide on what the rows say once they are ours.
  perform from public.device_commands
  where command_id = any (array(
      select (ack ->> 'command_id')::uuid from jsonb_array_elements(p_acks) as a (ack)
      where mqtt_private.fn_is_uuid(ack ->> 'command_id')))
    and device_id = any (p_device_ids)
  order by command_id for no key update;

  with answers as materialized (
    select a.place, a.device_id, a.ref, a.outcome, a.response, a.delivery,
      left(nullif(trim(a.message), ''), 1000) as message,
      case when mqtt_private.fn_is_uuid(a.command_id) then a.command_id::uuid end as command_id,
      a.redelivered is not true as is_first_delivery,
      case when p_worker is not null and a.shared is not true
        then md5(mqtt_private.fn_device_key(a.topic_id) || a.response::text) end as digest,
      clock_timestamp() - make_interval(secs => coalesce(a.received_seconds_ago, 0)) as received_at
    from rows from (unnest(p_device_ids), jsonb_to_recordset(p_acks) as (
      ref text, topic_id text, command_id text, outcome text, message text, response jsonb, shared boolean,
      delivery text, redelivered boolean, received_seconds_ago double precision
    )) with ordinality as a (device_id, ref, topic_id, command_id, outcome, message, response, shared, delivery,
      redelivered, received_seconds_ago, place)
  ), judged as materialized (
    select a.*, d.device_code,
      mqtt_private.fn_effect_of_acknowledgement(a.outcome, c.status::text, c.attempt) as effect,
      coalesce(a.is_first_delivery and a.ref is not null and a.response is not null and c.device_id = a.device_id
        and row_number() over (partition by a.command_id order by a.place) = 1
        and not exists (select from mqtt_private.acknowledgements r where r.ref = a.ref)
        and not exists (
          select from mqtt_private.acknowledgements r where r.device_id = a.device_id and r.digest = a.digest),
        false) as is_alone
    from answers a
    left join lateral (
      select device_id, status, attempt from public.device_commands where command_id = a.command_id offset 0) c on true
    left join lateral (
      select device_code from public.devices where device_id = a.device_id offset 0) d on true
  ), together as materialized (
    select * from (
      select j.*, bool_and(is_alone and effect in ('acknowledged', 'failed', 'rejected'))
        over (partition by device_id) as is_plain
      from judged j) j
    where is_plain
  ), changed as (
    update public.device_commands c
    set status = t.effect, response = t.response, lease_worker = null, lease_until = null,
        delivered_at = coalesce(c.delivered_at, now()),
        acknowledged_at = case t.effect when 'acknowledged' then now() else c.acknowledged_at end,
        retry_count = c.retry_count + case t.effect when 'failed' then 1 else 0 end,
        last_error = case t.effect
          when 'failed' then 'the device reports failure' || coalesce(': ' || t.message, '')
          when 'rejected' then 'the device refuses' || coalesce(': ' || t.message, '') end,
        due_at = case when t.effect = 'failed' and c.retry_count + 1 < p_max_retries then now() + p_delay end
    from together t
    where c.command_id = t.command_id
    returning t.place, t.ref, t.device_id, t.digest, t.delivery, t.received_at, jsonb_build_object(
      'ref', t.ref, 'result', t.effect, 'command_id', c.command_id, 'command_type', c.command_type,
      'device_id', t.device_id, 'device_code', t.device_code, 'status', c.status, 'retry_count', c.retry_count,
      'seconds_since_sent', greatest(extract(epoch from now() - c.delivered_at), 0)) as result
  ), recorded as (
    insert into mqtt_private.acknowledgements (ref, worker, device_id, digest, delivery, result, received_at)
    select ref, coalesce(p_worker, ''), device_id, digest, delivery, result, received_at from changed
  )
  select coalesce(jsonb_object_agg(place, result), '{}') from changed into results;
  perform mqtt_private.fn_check_deferred_constraints();
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acknowledge_together', 'service_role');

-- The same; none where the project's table refuses one of them, or they cannot be read together.
create or replace function mqtt_private.fn_acknowledge_together_or_none(
  p_acks jsonb, p_device_ids uuid[], p_worker text, p_max_retries int, p_delay interval) returns jsonb
language plpgsql volatile set search_path = '' as $$
declare
  v_fault mqtt_private.fault;
begin
  return mqtt_private.fn_acknowledge_together(p_acks, p_device_ids, p_worker, p_max_retries, p_delay);
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  if mqtt_private.fn_explain_fault(v_fault, 'device_commands') is null then raise; end if;
  return '{}';
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_acknowledge_together_or_none', 'service_role');

-- See …_acknowledgements.sql.
create or replace function public.fn_acknowledge_commands(
  p_acks jsonb, p_max_retries int default 3, p_retry_delay_seconds double precision default 30,
  p_worker text default null
) returns jsonb
language plpgsql volatile security invoker set search_path = '' set lock_timeout = '2s' as $$
declare
  v_ack jsonb;
  v_device_id uuid;
  v_ids uuid[];
  v_fault mqtt_private.fault;
  v_error text;
  v_result jsonb;
  v_results jsonb[] := '{}';
  v_delay constant interval := make_interval(secs => p_retry_delay_seconds);
  v_together jsonb;
  v_place bigint;
begin
  v_ids := mqtt_private.fn_find_and_lock_devices(array(
    select ack ->> 'topic_id' from jsonb_array_elements(p_acks) with ordinality as a (ack, place) order by place));
  perform mqtt_private.fn_touch_devices_or_pass_over(v_ids, p_acks);
  v_together := mqtt_private.fn_acknowledge_together_or_none(p_acks, v_ids, p_worker, p_max_retries, v_delay);
  for v_ack, v_device_id, v_place in
    select ack, v_ids[place], place from jsonb_array_elements(p_acks) with ordinality as a (ack, place) order by place
  loop
    v_result := v_together -> v_place::text;
    if v_result is not null then
      v_results := v_results || v_result;
      continue;
    end if;
    begin
      v_result := mqtt_private.fn_acknowledge_once(v_ack, v_device_id, p_worker, p_max_retries, v_delay);
      perform mqtt_private.fn_check_deferred_constraints();
    exception when others then
      get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
        v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
        v_fault.column_name = column_name;
      v_error := mqtt_private.fn_explain_fault(v_fault, 'device_commands');
      if v_error is null then raise; end if;
      v_result := jsonb_build_object(
        'ref', v_ack -> 'ref', 'result', 'refused', 'device_id', v_device_id, 'error', v_error);
    end;
    v_results := v_results || v_result;
  end loop;
  delete from mqtt_private.acknowledgements where ref = any (array(
    select ref from mqtt_private.acknowledgements
    where received_at < now() - interval '70 minutes' order by received_at limit 1000
    for update skip locked));
  return to_jsonb(v_results);
end
$$;
call mqtt_private.grant_execute('public.fn_acknowledge_commands(jsonb, int, double precision, text)', 'service_role');
