-- Who may do what. Members of a company see what belongs to the company; besides,
--   viewers    nothing more
--   operators  queue commands, cancel them, try failed ones again
--   admins     map devices, and see the pool of devices that no company has claimed yet
-- anon may do nothing. service_role, the role of the worker and of your back end, is not held back by row-level
-- security.
--
-- A table that was there before keeps its policies, its grants, and its row-level security as it is. Where that
-- is off, people get no grant from here, since they would see the rows of all companies; a warning says so.

-- Membership ---------------------------------------------------------------------------------------------------

-- The companies in which the signed-in user has at least this role.
-- Security definer: the policy of company_members calls it, and would otherwise call itself.
create or replace function mqtt_private.fn_my_companies(p_role text) returns setof uuid
language sql stable security definer set search_path = '' as $$
  select company_id from public.company_members
  where user_id = (select auth.uid())
    and role::text = any (case p_role
      when 'viewer' then array['viewer', 'operator', 'admin']
      when 'operator' then array['operator', 'admin']
      when 'admin' then array['admin']
    end)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_my_companies', 'authenticated', 'service_role');

-- The programs of those companies.
create or replace function mqtt_private.fn_my_programs(p_role text) returns setof uuid
language sql stable set search_path = public, extensions as $$
  select program_id from public.pilot_programs
  where company_id in (select mqtt_private.fn_my_companies(p_role))
$$;
call mqtt_private.grant_execute('mqtt_private.fn_my_programs', 'authenticated', 'service_role');

-- The sites of those companies. A site that names no company is its program's.
-- Security definer: the policy of sites calls it.
create or replace function mqtt_private.fn_my_sites(p_role text) returns setof uuid
language sql stable security definer set search_path = '' as $$
  select s.site_id
  from public.sites s left join public.pilot_programs p on p.program_id = s.program_id
  where coalesce(s.company_id, p.company_id) in (select mqtt_private.fn_my_companies(p_role))
$$;
call mqtt_private.grant_execute('mqtt_private.fn_my_sites', 'authenticated', 'service_role');

-- Whether the signed-in user may map this device: as an admin of its company, or of any where it is in the pool.
create or replace function mqtt_private.fn_may_map(p_device_id uuid) returns boolean
language sql stable set search_path = public, extensions as $$
  select exists (
    select from public.devices
    where device_id = p_device_id and (company_id in (select mqtt_private.fn_my_companies('admin'))
      or company_id is null and provisioning_status::text = 'pending_mapping'))
$$;
call mqtt_private.grant_execute('mqtt_private.fn_may_map', 'authenticated', 'service_role');

-- Grants -------------------------------------------------------------------------------------------------------

-- service_role reads and writes every table; people read, and write these columns. Triggers check what is written into
-- device_commands (…_command_rules.sql); its other columns are the worker's. A client that chooses command_id can send
-- an insert again without queueing twice.
do $$
declare
  v_table text;
  v_insert text;
  v_update text;
begin
  for v_table, v_insert, v_update in values
    ('companies', null, null),
    ('company_members', null, null),
    ('pilot_programs', null, null),
    ('sites', null, null),
    ('devices', null, null),
    ('device_history', null, null),
    ('device_images', null, null),
    ('device_telemetry', null, null),
    ('device_command_types', null, null),
    ('device_commands', 'command_id, device_id, command_type, command_payload, status, priority, scheduled_for, '
      'expires_at, created_by_user_id', 'status'),
    ('device_site_assignments', 'device_id, site_id, program_id, is_active, assigned_by_user_id, notes',
      'site_id, program_id, is_active, unassigned_at, notes'),
    ('device_program_assignments', 'device_id, program_id, is_active, assigned_by_user_id, notes',
      'program_id, is_active, unassigned_at, notes')
  loop
    execute format('grant select, insert, update, delete on table public.%I to service_role', v_table);
    if not (select relrowsecurity from pg_catalog.pg_class where oid = format('public.%I', v_table)::regclass) then
      raise warning 'public.% was there before without row-level security, and still is', v_table
        using hint = format('The policies for it are ready. When your own clients are: alter table public.%I '
          'enable row level security; and apply 20261127083619_mqtt_service_access.sql again for the grants.', v_table);
      continue;
    end if;
    execute format('grant select on table public.%I to authenticated', v_table);
    if v_insert is not null then
      execute format('grant insert (%s), update (%s) on table public.%I to authenticated', v_insert, v_update, v_table);
    end if;
  end loop;

  -- default privileges of older projects may have given the sequence away
  if to_regclass('public.device_commands_issue_number_seq') is not null then
    revoke all on sequence public.device_commands_issue_number_seq from public, anon, authenticated;
  end if;
end
$$;

-- Reading ------------------------------------------------------------------------------------------------------

drop policy if exists mqtt_members_read on public.companies;
create policy mqtt_members_read on public.companies for select to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('viewer')));

drop policy if exists mqtt_members_read on public.company_members;
create policy mqtt_members_read on public.company_members for select to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('viewer')));

drop policy if exists mqtt_members_read on public.pilot_programs;
create policy mqtt_members_read on public.pilot_programs for select to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('viewer')));

drop policy if exists mqtt_members_read on public.sites;
create policy mqtt_members_read on public.sites for select to authenticated
  using (site_id in (select mqtt_private.fn_my_sites('viewer')));

drop policy if exists mqtt_members_read on public.devices;
create policy mqtt_members_read on public.devices for select to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('viewer'))
    or company_id is null and provisioning_status::text = 'pending_mapping' and exists (
      select mqtt_private.fn_my_companies('admin')));

drop policy if exists mqtt_members_read on public.device_history;
create policy mqtt_members_read on public.device_history for select to authenticated
  using (exists (select from public.devices d where d.device_id = device_history.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('viewer'))));

drop policy if exists mqtt_members_read on public.device_commands;
create policy mqtt_members_read on public.device_commands for select to authenticated
  using (exists (select from public.devices d where d.device_id = device_commands.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('viewer'))));

drop policy if exists mqtt_members_read on public.device_command_types;
create policy mqtt_members_read on public.device_command_types for select to authenticated
  using (exists (select mqtt_private.fn_my_companies('viewer')));

drop policy if exists mqtt_members_read on public.device_images;
create policy mqtt_members_read on public.device_images for select to authenticated
  using (exists (select from public.devices d where d.device_id = device_images.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('viewer'))));

drop policy if exists mqtt_members_read on public.device_telemetry;
create policy mqtt_members_read on public.device_telemetry for select to authenticated
  using (exists (select from public.devices d where d.device_id = device_telemetry.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('viewer'))));

-- By the site, not by the device: while a device is being mapped, it does not belong to the company yet.
drop policy if exists mqtt_members_read on public.device_site_assignments;
create policy mqtt_members_read on public.device_site_assignments for select to authenticated
  using (site_id in (select mqtt_private.fn_my_sites('viewer')));

drop policy if exists mqtt_members_read on public.device_program_assignments;
create policy mqtt_members_read on public.device_program_assignments for select to authenticated
  using (program_id in (select mqtt_private.fn_my_programs('viewer')));

-- Commands -----------------------------------------------------------------------------------------------------

drop policy if exists mqtt_operators_queue on public.device_commands;
create policy mqtt_operators_queue on public.device_commands for insert to authenticated
  with check (exists (select from public.devices d where d.device_id = device_commands.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('operator'))));

drop policy if exists mqtt_operators_cancel on public.device_commands;
create policy mqtt_operators_cancel on public.device_commands for update to authenticated
  using (exists (select from public.devices d where d.device_id = device_commands.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('operator'))));

-- Mapping ------------------------------------------------------------------------------------------------------
-- To end a mapping, the site (or program) must be one's company's; the device need not.

drop policy if exists mqtt_admins_map on public.device_site_assignments;
create policy mqtt_admins_map on public.device_site_assignments for insert to authenticated
  with check (
    assigned_by_user_id = (select auth.uid())
    and site_id in (select mqtt_private.fn_my_sites('admin'))
    and mqtt_private.fn_may_map(device_id)
  );

drop policy if exists mqtt_admins_remap on public.device_site_assignments;
create policy mqtt_admins_remap on public.device_site_assignments for update to authenticated
  using (site_id in (select mqtt_private.fn_my_sites('admin')))
  with check (
    site_id in (select mqtt_private.fn_my_sites('admin'))
    and (not is_active or mqtt_private.fn_may_map(device_id))
  );

drop policy if exists mqtt_admins_map on public.device_program_assignments;
create policy mqtt_admins_map on public.device_program_assignments for insert to authenticated
  with check (
    (assigned_by_user_id is null or assigned_by_user_id = (select auth.uid()))
    and program_id in (select mqtt_private.fn_my_programs('admin'))
    and mqtt_private.fn_may_map(device_id)
  );

drop policy if exists mqtt_admins_remap on public.device_program_assignments;
create policy mqtt_admins_remap on public.device_program_assignments for update to authenticated
  using (program_id in (select mqtt_private.fn_my_programs('admin')))
  with check (
    program_id in (select mqtt_private.fn_my_programs('admin'))
    and (not is_active or mqtt_private.fn_may_map(device_id))
  );
