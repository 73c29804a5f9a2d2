-- What the console asks: members see how their fleet does, which workers run, and their commands in the order of issue.
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

-- all commands, the latest first, page by page
create index if not exists device_commands_issued_at_idx on public.device_commands (issued_at desc, command_id desc);

-- The version of the newest of these files. Each later migration replaces this function with its own version.
create or replace function mqtt_private.fn_schema_version() returns text
language sql immutable parallel safe set search_path = '' as $$
  select '20261128101007'
$$;
call mqtt_private.grant_execute('mqtt_private.fn_schema_version', 'service_role');
