-- What all of the worker's calls share.
--
-- The functions of this file and the next ones are for the worker alone (service_role). Each of its calls takes many
-- rows and returns one jsonb, so that an API's row limit never cuts an answer. Each may be sent again when its response
-- was lost. Durations are seconds. p_worker names one process, "<MQTT client id>:<process>", for as long as it lives.
--
-- Locks. A call that writes rows of several devices locks, in this order and each by device_id: devices, visits, then
-- commands or pictures. So no two calls deadlock. A claim waits for no row at all.
-- Somebody's transaction that holds one device's row would keep a whole call waiting, so the calls that lock devices or
-- visits set lock_timeout: after 2 seconds the worker gets 55P03, nothing has changed, and it can send smaller parts.
--
-- Several calls set enable_seqscan = off, jit = off and plan_cache_mode = force_generic_plan: one plan for an empty
-- table and for millions of finished rows, since the planner cannot know how few rows wait.

-- Raises 22023 where a worker does not say who it is.
create or replace function mqtt_private.fn_require_worker(p_worker text) returns void
language plpgsql immutable set search_path = '' as $$
begin
  if coalesce(p_worker, '') = '' then
    raise exception 'p_worker is empty'
      using errcode = 'invalid_parameter_value', hint = 'Name the worker that calls.';
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_require_worker', 'service_role');

-- Devices ------------------------------------------------------------------------------------------------------

create or replace function mqtt_private.fn_lock_devices(p_device_ids uuid[]) returns void
language sql volatile set search_path = public, extensions as $$
  select from public.devices where device_id = any (p_device_ids) order by device_id for no key update
$$;
call mqtt_private.grant_execute('mqtt_private.fn_lock_devices', 'service_role');

-- Finds the devices that use these ids on MQTT and locks them. Returns them in the order given; null where there is
-- none. A device that appears later is not looked up again: it would be locked out of order.
create or replace function mqtt_private.fn_find_and_lock_devices(p_topic_ids text[]) returns uuid[]
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_ids constant uuid[] := array(
    select mqtt_private.fn_find_device(topic_id) from unnest(p_topic_ids) with ordinality as t (topic_id, place)
    order by place);
begin
  -- In a statement of its own: a lock that is one step of a larger statement may be left out by its plan.
  perform mqtt_private.fn_lock_devices(v_ids);
  return array( -- one can have been deleted meanwhile
    select d.device_id from unnest(v_ids) with ordinality as found (device_id, place)
    left join public.devices d on d.device_id = found.device_id order by place);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_and_lock_devices', 'service_role');

-- Records, at most once a minute, that these devices are alive, and on which topics. p_messages: what each sent,
-- [{topic_root, topic_id}]; of several messages of a device the last counts. The devices' rows are locked.
create or replace function mqtt_private.fn_touch_devices(p_device_ids uuid[], p_messages jsonb) returns void
language sql volatile set search_path = public, extensions as $$
  with latest as materialized (
    select distinct on (device_id) device_id, message ->> 'topic_root' as topic_root, message ->> 'topic_id' as topic_id
    from rows from (unnest(p_device_ids), jsonb_array_elements(p_messages))
      with ordinality as m (device_id, message, place)
    order by device_id, place desc
  )
  update public.devices d
  set mqtt_id = l.topic_id, last_seen_at = now(),
      mqtt_root = case when l.topic_root in ('device', 'ESP32CAM') then l.topic_root else d.mqtt_root end
  from latest l
  where d.device_id = l.device_id
    and (d.mqtt_id is distinct from l.topic_id or d.mqtt_root is distinct from l.topic_root
      or d.last_seen_at is null or d.last_seen_at < now() - interval '1 minute')
$$;
call mqtt_private.grant_execute('mqtt_private.fn_touch_devices', 'service_role');

-- The same, past what the project refuses: then the other devices are still recorded, and a warning says why.
create or replace function mqtt_private.fn_touch_devices_or_pass_over(p_device_ids uuid[], p_messages jsonb)
returns void
language plpgsql volatile set search_path = '' as $$
declare
  v_fault mqtt_private.fault;
  v_error text;
begin
  perform mqtt_private.fn_touch_devices(p_device_ids, p_messages);
  perform mqtt_private.fn_check_deferred_constraints();
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'devices');
  if v_error is null then raise; end if;
  if cardinality(p_device_ids) = 1 then
    raise warning 'device % is not recorded as alive: %', p_device_ids[1], v_error;
    return;
  end if;
  for v_place in 1 .. cardinality(p_device_ids) loop
    perform mqtt_private.fn_touch_devices_or_pass_over(
      p_device_ids[v_place : v_place], jsonb_build_array(p_messages -> v_place - 1));
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_touch_devices_or_pass_over', 'service_role');

-- Worker processes ---------------------------------------------------------------------------------------------

-- The newest process of each MQTT client id. On a rolling deploy the new process takes the broker's session from the
-- old one, and not every broker tells the old one why it was disconnected. So the old one asks here before it connects
-- again: the two would otherwise take the session from each other for ever.
call mqtt_private.create_table('mqtt_private.worker_instances', null, $$
  client_id text primary key,
  worker text not null,
  since timestamptz not null default now()  -- when that process started
$$);
grant select, insert, update, delete on table mqtt_private.worker_instances to service_role;

-- Announces that p_worker, which started p_started_ago seconds ago, uses p_client_id. Returns {worker: the newest
-- process that does}. The newest is the one that started last, not the one that called last: one may reach the database
-- only long after its start.
create or replace function public.fn_announce_worker(
  p_client_id text, p_worker text, p_started_ago double precision) returns jsonb
language plpgsql volatile security invoker set search_path = '' as $$
declare
  v_worker text;
begin
  if coalesce(p_client_id, '') = '' or coalesce(p_worker, '') = '' or p_started_ago is null then
    raise exception 'p_client_id, p_worker or p_started_ago is empty'
      using errcode = 'invalid_parameter_value',
        hint = 'Name the client id and the process, and say for how many seconds it has run.';
  end if;
  insert into mqtt_private.worker_instances as i (client_id, worker, since)
  values (p_client_id, p_worker, clock_timestamp() - make_interval(secs => p_started_ago))
  on conflict (client_id) do update
    set worker = case when excluded.since > i.since then excluded.worker else i.worker end,
        since = case when excluded.since > i.since and excluded.worker <> i.worker then excluded.since else i.since end
  returning worker into v_worker;
  -- where each deploy brings a new client id, rows would stay for ever
  delete from mqtt_private.worker_instances
  where client_id <> p_client_id and since < now() - interval '30 days';
  return jsonb_build_object('worker', v_worker);
end
$$;
call mqtt_private.grant_execute('public.fn_announce_worker(text, text, double precision)', 'service_role');
