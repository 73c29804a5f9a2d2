-- Which devices lack something of their lineage: company, program, site, schedule.

-- What each device lacks: the rows behind the two functions below. fixable: fn_initialize_device_after_mapping can
-- mend it. p_device_id null: all devices.
create or replace function mqtt_private.fn_device_lineage(p_device_id uuid)
returns table (
  device_id uuid, assignment_id uuid, assigned_site_id uuid, assigned_program_id uuid, issues text[], fixable boolean)
language sql stable set search_path = ''
as $$
  select d.device_id, a.assignment_id, a.site_id, target.program_id,
    case when a.assignment_id is null then array['no_active_assignment'] else array_remove(array[
      case when d.company_id is null then 'missing_company' end,
      case when d.program_id is null then 'missing_program' end,
      case when d.site_id is null then 'missing_site' end,
      case when d.is_active is not true or d.provisioning_status is distinct from 'active' then 'not_active' end,
      case when d.next_wake_at is null then 'missing_next_wake' end,
      case when d.site_id <> a.site_id then 'site_mismatch' end,
      case when d.program_id <> target.program_id then 'program_mismatch' end,
      case when d.company_id <> target.company_id then 'company_mismatch' end], null) end,
    target.program_id is not null and target.company_id is not null
      and coalesce(d.company_id = target.company_id, true)
  from public.devices d
  left join lateral (
    select x.assignment_id, x.site_id, x.program_id from public.device_site_assignments x
    where x.device_id = d.device_id and x.is_active order by x.assigned_at desc limit 1) a on true
  left join public.sites s on s.site_id = a.site_id
  left join public.pilot_programs p on p.program_id = coalesce(a.program_id, s.program_id)
  cross join lateral (
    select coalesce(a.program_id, s.program_id) as program_id,
      coalesce(s.company_id, p.company_id) as company_id) target
  where p_device_id is null or d.device_id = p_device_id
$$;

-- Devices that are, or wait to be, mapped and lack something; issue names the first thing. In the order of device_id,
-- for paging. A device that was made inactive on purpose is not listed.
drop function if exists public.fn_find_devices_with_incomplete_lineage(); -- an older one may return other columns
create function public.fn_find_devices_with_incomplete_lineage()
returns table (
  device_id uuid, device_code text, device_name text, device_mac text, provisioning_status text, is_active boolean,
  site_id uuid, program_id uuid, company_id uuid,
  assignment_id uuid, assigned_site_id uuid, assigned_program_id uuid, issue text, fixable boolean)
language sql stable security invoker set search_path = ''
as $$
  select d.device_id, d.device_code, d.device_name, d.device_mac, d.provisioning_status, d.is_active,
    d.site_id, d.program_id, d.company_id,
    l.assignment_id, l.assigned_site_id, l.assigned_program_id, l.issues[1], l.fixable
  from mqtt_private.fn_device_lineage(null) l join public.devices d on d.device_id = l.device_id
  where l.issues <> '{}' and d.provisioning_status <> 'inactive'
  order by d.device_id
$$;

-- Returns {valid, device_id, issues: [text]}: everything that keeps this device from being provisioned.
drop function if exists public.fn_validate_device_provisioning(uuid);
create function public.fn_validate_device_provisioning(p_device_id uuid) returns jsonb
language sql stable security invoker set search_path = ''
as $$
  select jsonb_build_object('device_id', p_device_id, 'valid', coalesce(l.issues = '{}', false),
    'issues', coalesce(to_jsonb(l.issues), '["unknown_device"]'))
  from (select p_device_id) given left join mqtt_private.fn_device_lineage(p_device_id) l on true
$$;

-- Grants -------------------------------------------------------------------------------------------------------

revoke all on function mqtt_private.fn_device_lineage(uuid) from public, anon, authenticated;
grant execute on function mqtt_private.fn_device_lineage(uuid) to service_role;

revoke all on function public.fn_find_devices_with_incomplete_lineage() from public, anon, authenticated;
grant execute on function public.fn_find_devices_with_incomplete_lineage() to service_role;

revoke all on function public.fn_validate_device_provisioning(uuid) from public, anon, authenticated;
grant execute on function public.fn_validate_device_provisioning(uuid) to service_role;
