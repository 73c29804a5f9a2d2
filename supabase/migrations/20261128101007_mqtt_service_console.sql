-- What the console asks: how the members' fleet does, which workers run, their commands in the order of issue, and one
-- command for many devices.
--
-- Everything runs with the rights of whoever asks, so row-level security decides: a member of a company sees the
-- company's devices, visits and commands. Workers belong to no company: each member sees that they run.

-- Members read these columns of what only workers wrote and read.
grant select (device_id, lease_worker, lease_until, began_at, ended_at) on mqtt_private.visits to authenticated;
drop policy if exists mqtt_members_read on mqtt_private.visits;
create policy mqtt_members_read on mqtt_private.visits for select to authenticated
  using (exists (select from public.devices d where d.device_id = visits.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('viewer'))));

grant select (client_id, worker, since, version, seen_at) on mqtt_private.worker_instances to authenticated;
drop policy if exists mqtt_members_read on mqtt_private.worker_instances;
create policy mqtt_members_read on mqtt_private.worker_instances for select to authenticated
  using (exists (select mqtt_private.fn_my_companies('viewer')));

call mqtt_private.create_view('mqtt_workers',
  'The newest process of each worker''s MQTT client id: its version, since when it runs, and when it said so last.', $$
  select client_id, worker, version, since, seen_at from mqtt_private.worker_instances
$$);

-- See …_fleet_overview.sql. New: members call it too, and it counts what they may see.
call mqtt_private.grant_execute('public.fn_fleet_overview(double precision, int)', 'authenticated', 'service_role');

-- How many commands issued since p_since have each status: {"sent": 3, …}; none: no key.
create or replace function public.fn_count_commands(p_since timestamptz) returns jsonb
language sql stable security invoker set search_path = public, extensions as $$
  select coalesce(jsonb_object_agg(status, commands), '{}')
  from (
    select status::text as status, count(*) as commands from public.device_commands
    where issued_at >= p_since group by 1) counted
$$;
call mqtt_private.grant_execute('public.fn_count_commands(timestamptz)', 'authenticated', 'service_role');

comment on function public.fn_count_commands(timestamptz) is
  'How many of the commands issued since then have each status, of those that the caller may see.';

-- Queues one command for each active device of a target (…_targets.sql), at most 10,000, as whoever calls it.
-- p_request: any new id; the same call sent again with it queues nothing twice, since each command's id follows from it.
-- p_company_id: where the target does not say. Raises 23514 for what is no target, or can never work, and for too many.
-- Returns {queued, not_active}.
create or replace function public.fn_queue_for_target(
  p_request uuid, p_target jsonb, p_command_type text, p_command_payload jsonb default '{}', p_priority int default 0,
  p_scheduled_for timestamptz default null, p_expires_at timestamptz default null, p_company_id uuid default null)
returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions as $$
declare
  v_limit constant int := 10000;
  v_found record;
begin
  if p_request is null then
    raise exception 'p_request is null' using errcode = 'invalid_parameter_value', hint = 'Give a new id, gen_random_uuid().';
  end if;
  perform mqtt_private.fn_check_target(p_target);
  v_found := mqtt_private.fn_find_target(p_target, coalesce(p_company_id, mqtt_private.fn_company_of_target(p_target)));
  if cardinality(v_found.active_ids) > v_limit then
    perform mqtt_private.fn_raise_check_violation(
      format('the target has %s active devices, more than %s', cardinality(v_found.active_ids), v_limit),
      'Narrow it, or use a schedule, which queues them little by little.');
  end if;
  insert into public.device_commands
    (command_id, device_id, command_type, command_payload, priority, scheduled_for, expires_at)
  select md5(p_request::text || d.device_id::text)::uuid, d.device_id, p_command_type, p_command_payload,
    p_priority::smallint, p_scheduled_for, p_expires_at
  from public.devices d where d.device_id = any (v_found.active_ids)
  order by d.device_id
  on conflict (command_id) do nothing;
  return jsonb_build_object('queued', cardinality(v_found.active_ids),
    'not_active', cardinality(v_found.ids) - cardinality(v_found.active_ids));
end
$$;
call mqtt_private.grant_execute(
  'public.fn_queue_for_target(uuid, jsonb, text, jsonb, int, timestamptz, timestamptz, uuid)',
  'authenticated', 'service_role');

comment on function public.fn_queue_for_target(uuid, jsonb, text, jsonb, int, timestamptz, timestamptz, uuid) is
  'Queues a command for each active device of a target; the same p_request again queues nothing twice.';
