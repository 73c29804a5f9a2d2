-- Who may do what. Members of a company see what is the company's; besides,
--   viewers    nothing more
--   operators  queue commands, cancel them, try failed ones again
--   admins     map devices, and see the pool of devices that nobody has claimed yet
-- anon may nothing. service_role, the worker's and your back end's role, passes by row-level security.
--
-- A table that was there before keeps its policies, its grants, and its row-level security as it is. Where that
-- is off, people get no grant from here, since they would see the rows of all companies; a warning says so.

-- Membership ---------------------------------------------------------------------------------------------------

-- The companies in which the signed-in user has at least this role.
-- Security definer: the policy of company_members asks it, and would otherwise ask itself.
create or replace function mqtt_private.fn_my_companies(p_role text) returns setof uuid
language sql stable security definer set search_path = ''
as $$
  select company_id from public.company_members
  where user_id = (select auth.uid())
    and role = any (case p_role
      when 'viewer' then array['viewer', 'operator', 'admin']
      when 'operator' then array['operator', 'admin']
      when 'admin' then array['admin']
    end)
$$;

-- The sites of those companies. A site that names no company is its program's.
-- Security definer: for the policies of sites itself, as above.
create or replace function mqtt_private.fn_my_sites(p_role text) returns setof uuid
language sql stable security definer set search_path = ''
as $$
  select s.site_id
  from public.sites s left join public.pilot_programs p on p.program_id = s.program_id
  where coalesce(s.company_id, p.company_id) in (select mqtt_private.fn_my_companies(p_role))
$$;

revoke all on function mqtt_private.fn_my_companies(text) from public, anon, authenticated;
revoke all on function mqtt_private.fn_my_sites(text) from public, anon, authenticated;
grant execute on function mqtt_private.fn_my_companies(text) to authenticated, service_role;
grant execute on function mqtt_private.fn_my_sites(text) to authenticated, service_role;

-- Grants -------------------------------------------------------------------------------------------------------

do $$
declare
  v_table text;
  v_protected boolean;
begin
  foreach v_table in array array[
    'companies', 'company_members', 'pilot_programs', 'sites', 'devices', 'device_history',
    'device_site_assignments', 'device_program_assignments', 'device_commands', 'device_images', 'device_telemetry'
  ] loop
    execute format('grant select, insert, update, delete on table public.%I to service_role', v_table);
    select relrowsecurity into v_protected from pg_catalog.pg_class where oid = format('public.%I', v_table)::regclass;
    if v_protected then
      execute format('grant select on table public.%I to authenticated', v_table);
    else
      raise warning 'public.% was there before without row-level security, and still is', v_table
        using hint = format('The policies for it are ready. When your own clients are: alter table public.%I '
          'enable row level security; and apply this migration again for the grants.', v_table);
    end if;
  end loop;
end
$$;

-- What people may write, column by column. The guards of device_commands judge the values; the rest of a command
-- is the worker's. command_id lets a client send the same insert again without queueing twice.
do $$
begin
  if (select relrowsecurity from pg_catalog.pg_class where oid = 'public.device_commands'::regclass) then
    grant insert (command_id, device_id, command_type, command_payload, status, priority, scheduled_for, expires_at,
                  created_by_user_id),
      update (status) on public.device_commands to authenticated;
  end if;
  if (select relrowsecurity from pg_catalog.pg_class where oid = 'public.device_site_assignments'::regclass) then
    grant insert (device_id, site_id, program_id, is_active, assigned_by_user_id, notes),
      update (site_id, program_id, is_active, unassigned_at, notes) on public.device_site_assignments to authenticated;
  end if;
  if (select relrowsecurity from pg_catalog.pg_class where oid = 'public.device_program_assignments'::regclass) then
    grant insert (device_id, program_id, is_active, assigned_by_user_id, notes),
      update (program_id, is_active, unassigned_at, notes) on public.device_program_assignments to authenticated;
  end if;
end
$$;

-- Default privileges of older projects may have given the sequence away.
do $$
begin
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
  using (
    company_id in (select mqtt_private.fn_my_companies('viewer'))
    or company_id is null and provisioning_status = 'pending_mapping'
      and exists (select mqtt_private.fn_my_companies('admin'))
  );

drop policy if exists mqtt_members_read on public.device_history;
create policy mqtt_members_read on public.device_history for select to authenticated
  using (exists (
    select from public.devices d where d.device_id = device_history.device_id
      and d.company_id in (select mqtt_private.fn_my_companies('viewer'))
  ));

drop policy if exists mqtt_members_read on public.device_commands;
create policy mqtt_members_read on public.device_commands for select to authenticated
  using (exists (
    select from public.devices d where d.device_id = device_commands.device_id
      and d.company_id in (select mqtt_private.fn_my_companies('viewer'))
  ));

drop policy if exists mqtt_members_read on public.device_images;
create policy mqtt_members_read on public.device_images for select to authenticated
  using (exists (
    select from public.devices d where d.device_id = device_images.device_id
      and d.company_id in (select mqtt_private.fn_my_companies('viewer'))
  ));

drop policy if exists mqtt_members_read on public.device_telemetry;
create policy mqtt_members_read on public.device_telemetry for select to authenticated
  using (exists (
    select from public.devices d where d.device_id = device_telemetry.device_id
      and d.company_id in (select mqtt_private.fn_my_companies('viewer'))
  ));

-- By the site, not by the device: while a device is being mapped it is not yet the company's.
drop policy if exists mqtt_members_read on public.device_site_assignments;
create policy mqtt_members_read on public.device_site_assignments for select to authenticated
  using (site_id in (select mqtt_private.fn_my_sites('viewer')));

drop policy if exists mqtt_members_read on public.device_program_assignments;
create policy mqtt_members_read on public.device_program_assignments for select to authenticated
  using (exists (
    select from public.pilot_programs p where p.program_id = device_program_assignments.program_id
      and p.company_id in (select mqtt_private.fn_my_companies('viewer'))
  ));

-- Commands -----------------------------------------------------------------------------------------------------

drop policy if exists mqtt_operators_queue on public.device_commands;
create policy mqtt_operators_queue on public.device_commands for insert to authenticated
  with check (exists (
    select from public.devices d where d.device_id = device_commands.device_id
      and d.company_id in (select mqtt_private.fn_my_companies('operator'))
  ));

drop policy if exists mqtt_operators_cancel on public.device_commands;
create policy mqtt_operators_cancel on public.device_commands for update to authenticated
  using (exists (
    select from public.devices d where d.device_id = device_commands.device_id
      and d.company_id in (select mqtt_private.fn_my_companies('operator'))
  ));

-- Mapping ------------------------------------------------------------------------------------------------------
-- To a site (or program) of one's company, a device of one's company or of the pool. Ending needs only the former.

drop policy if exists mqtt_admins_map on public.device_site_assignments;
create policy mqtt_admins_map on public.device_site_assignments for insert to authenticated
  with check (
    assigned_by_user_id = (select auth.uid())
    and site_id in (select mqtt_private.fn_my_sites('admin'))
    and exists (
      select from public.devices d where d.device_id = device_site_assignments.device_id
        and (d.company_id in (select mqtt_private.fn_my_companies('admin'))
          or d.company_id is null and d.provisioning_status = 'pending_mapping')
    )
  );

drop policy if exists mqtt_admins_remap on public.device_site_assignments;
create policy mqtt_admins_remap on public.device_site_assignments for update to authenticated
  using (site_id in (select mqtt_private.fn_my_sites('admin')))
  with check (
    site_id in (select mqtt_private.fn_my_sites('admin'))
    and (not is_active or exists (
      select from public.devices d where d.device_id = device_site_assignments.device_id
        and (d.company_id in (select mqtt_private.fn_my_companies('admin'))
          or d.company_id is null and d.provisioning_status = 'pending_mapping')
    ))
  );

drop policy if exists mqtt_admins_map on public.device_program_assignments;
create policy mqtt_admins_map on public.device_program_assignments for insert to authenticated
  with check (
    (assigned_by_user_id is null or assigned_by_user_id = (select auth.uid()))
    and exists (
      select from public.pilot_programs p where p.program_id = device_program_assignments.program_id
        and p.company_id in (select mqtt_private.fn_my_companies('admin'))
    )
    and exists (
      select from public.devices d where d.device_id = device_program_assignments.device_id
        and (d.company_id in (select mqtt_private.fn_my_companies('admin'))
          or d.company_id is null and d.provisioning_status = 'pending_mapping')
    )
  );

drop policy if exists mqtt_admins_remap on public.device_program_assignments;
create policy mqtt_admins_remap on public.device_program_assignments for update to authenticated
  using (exists (
    select from public.pilot_programs p where p.program_id = device_program_assignments.program_id
      and p.company_id in (select mqtt_private.fn_my_companies('admin'))
  ))
  with check (
    exists (
      select from public.pilot_programs p where p.program_id = device_program_assignments.program_id
        and p.company_id in (select mqtt_private.fn_my_companies('admin'))
    )
    and (not is_active or exists (
      select from public.devices d where d.device_id = device_program_assignments.device_id
        and (d.company_id in (select mqtt_private.fn_my_companies('admin'))
          or d.company_id is null and d.provisioning_status = 'pending_mapping')
    ))
  );
