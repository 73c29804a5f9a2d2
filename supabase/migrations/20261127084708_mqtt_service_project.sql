-- What a worker asks about the project when it starts: what will refuse its rows, or contradict them.

-- The columns of p_table that the worker fills when it adds a row.
create or replace function mqtt_private.fn_columns_written(p_table text) returns text[]
language sql immutable parallel safe set search_path = '' as $$
  select case p_table
    when 'devices' then '{device_mac,device_code,provisioning_status,is_active,mqtt_id,last_seen_at,self_registered_at}'
    when 'device_commands' then '{device_id,command_type,command_payload,idempotency_key,status,issued_at,retry_count}'
    when 'device_history' then '{device_id,event_type,severity,description,event_data,event_category,event_timestamp}'
    when 'device_images' then '{image_id,device_id,image_name,status,captured_at,time_unknown,upload_path,metadata,
      missing_requests,retry_count,received_chunks}'
    when 'device_telemetry' then '{device_id,captured_at}'
    when 'device_site_assignments' then '{device_id,site_id,program_id}'
    when 'device_program_assignments' then '{device_id,program_id}'
  end::text[]
$$;
call mqtt_private.grant_execute('mqtt_private.fn_columns_written', 'service_role');

-- A default that can be proposed for a column of this type, as SQL; null: there is none that means nothing.
create or replace function mqtt_private.fn_propose_default(p_type regtype) returns text
language sql stable set search_path = '' as $$
  select case
    when typtype = 'e' then (
      select quote_literal(enumlabel::text) from pg_catalog.pg_enum where enumtypid = p_type order by enumsortorder limit 1)
    when typtype = 'd' then mqtt_private.fn_propose_default(typbasetype)
    when typname in ('json', 'jsonb', '_text') then quote_literal('{}')
    when typcategory = 'S' then quote_literal('')
    when typcategory = 'N' then '0'
    when typcategory = 'B' then 'false'
    when typcategory = 'D' and typname not in ('time', 'timetz') then 'now()'
  end
  from pg_catalog.pg_type where oid = p_type
$$;
call mqtt_private.grant_execute('mqtt_private.fn_propose_default', 'service_role');

-- The words of device_history.event_category that the worker writes and that the project's enum does not have.
create or replace function mqtt_private.fn_missing_categories() returns text[]
language sql stable set search_path = public, extensions as $$
  select array(
    select word from unnest('{mapped,unmapped,self_registered,wake_schedule_invalid,image_failed}'::text[]) as e (event)
    cross join lateral mqtt_private.fn_category_of_event(event) as c (word)
    where mqtt_private.fn_nearest_word(t.oid, word) is null order by word)
  from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid and t.typtype = 'e'
  where a.attrelid = 'public.device_history'::regclass and a.attname = 'event_category'
$$;
call mqtt_private.grant_execute('mqtt_private.fn_missing_categories', 'service_role');

-- Returns {demanded_columns: [{table, column, data_type, remedy}], missing_categories, temperatures_look_like}.
--   demanded_columns        NOT NULL, without a default, and not written by the worker: new rows will be refused
--   missing_categories      words that events are to have in device_history.event_category, and that its enum lacks
--   temperatures_look_like  celsius or fahrenheit, by the median of the latest 20 readings of 20 devices; null: fewer
--                           than 20 in all, or the median is one that either can have (40 to 50)
create or replace function public.fn_inspect_project() returns jsonb
language plpgsql stable security invoker set search_path = public, extensions as $$
declare
  v_columns jsonb;
  v_median double precision;
begin
  select coalesce(jsonb_agg(jsonb_build_object(
    'table', t.name, 'column', a.attname, 'data_type', pg_catalog.format_type(a.atttypid, a.atttypmod),
    'remedy', coalesce(
      format('alter table public.%I alter column %I set default ', t.name, a.attname)
        || mqtt_private.fn_propose_default(a.atttypid) || ';',
      format('alter table public.%I alter column %I drop not null;', t.name, a.attname)))
    order by t.name, a.attnum), '[]') into v_columns
  from unnest(array['devices', 'device_commands', 'device_history', 'device_images', 'device_telemetry',
    'device_site_assignments', 'device_program_assignments']) as t (name)
  join pg_catalog.pg_attribute a on a.attrelid = format('public.%I', t.name)::regclass
  left join pg_catalog.pg_type d on d.oid = a.atttypid
  where a.attnum > 0 and not a.attisdropped and a.attnotnull and not a.atthasdef and a.attidentity = ''
    and d.typdefault is null and a.attname <> all (mqtt_private.fn_columns_written(t.name));
  select percentile_cont(0.5) within group (order by temperature::double precision) into v_median
  from (select device_id from public.devices order by last_seen_at desc nulls last limit 20) seen
  cross join lateral (
    select temperature from public.device_telemetry t
    where t.device_id = seen.device_id and temperature is not null order by captured_at desc limit 20) latest
  having count(*) >= 20;
  return jsonb_build_object('demanded_columns', v_columns,
    'missing_categories', coalesce(mqtt_private.fn_missing_categories(), '{}'),
    'temperatures_look_like', case when v_median > 50 then 'fahrenheit' when v_median < 40 then 'celsius' end);
end
$$;
call mqtt_private.grant_execute('public.fn_inspect_project()', 'service_role');
