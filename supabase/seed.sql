-- Two companies to try things with: Alder Farms (A) and Birch Clinics (B). For a project of your own to play in,
-- never for one with real users. Can be run again: rows that are there stay as they are.

insert into auth.users (instance_id, id, aud, role, email, email_confirmed_at, raw_app_meta_data, raw_user_meta_data)
values
  ('00000000-0000-0000-0000-000000000000', 'a0000000-0000-4000-8000-0000000000e1', 'authenticated', 'authenticated',
   'viewer.a@example.test', now(), '{"provider": "email", "providers": ["email"]}', '{}'),
  ('00000000-0000-0000-0000-000000000000', 'a0000000-0000-4000-8000-0000000000e2', 'authenticated', 'authenticated',
   'operator.a@example.test', now(), '{"provider": "email", "providers": ["email"]}', '{}'),
  ('00000000-0000-0000-0000-000000000000', 'a0000000-0000-4000-8000-0000000000e3', 'authenticated', 'authenticated',
   'admin.a@example.test', now(), '{"provider": "email", "providers": ["email"]}', '{}'),
  ('00000000-0000-0000-0000-000000000000', 'b0000000-0000-4000-8000-0000000000e1', 'authenticated', 'authenticated',
   'viewer.b@example.test', now(), '{"provider": "email", "providers": ["email"]}', '{}'),
  ('00000000-0000-0000-0000-000000000000', 'b0000000-0000-4000-8000-0000000000e2', 'authenticated', 'authenticated',
   'operator.b@example.test', now(), '{"provider": "email", "providers": ["email"]}', '{}'),
  ('00000000-0000-0000-0000-000000000000', 'b0000000-0000-4000-8000-0000000000e3', 'authenticated', 'authenticated',
   'admin.b@example.test', now(), '{"provider": "email", "providers": ["email"]}', '{}')
on conflict (id) do nothing;

insert into public.companies (company_id, name)
values
  ('a0000000-0000-4000-8000-000000000001', 'Alder Farms'),
  ('b0000000-0000-4000-8000-000000000001', 'Birch Clinics')
on conflict (company_id) do nothing;

insert into public.company_members (company_id, user_id, role)
values
  ('a0000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-0000000000e1', 'viewer'),
  ('a0000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-0000000000e2', 'operator'),
  ('a0000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-0000000000e3', 'admin'),
  ('b0000000-0000-4000-8000-000000000001', 'b0000000-0000-4000-8000-0000000000e1', 'viewer'),
  ('b0000000-0000-4000-8000-000000000001', 'b0000000-0000-4000-8000-0000000000e2', 'operator'),
  ('b0000000-0000-4000-8000-000000000001', 'b0000000-0000-4000-8000-0000000000e3', 'admin')
on conflict (company_id, user_id) do nothing;

insert into public.pilot_programs (program_id, company_id, name)
values
  ('a0000000-0000-4000-8000-000000000011', 'a0000000-0000-4000-8000-000000000001', 'Alder Pilot'),
  ('b0000000-0000-4000-8000-000000000011', 'b0000000-0000-4000-8000-000000000001', 'Birch Pilot')
on conflict (program_id) do nothing;

insert into public.sites (site_id, company_id, program_id, name, timezone, wake_schedule_cron)
values
  ('a0000000-0000-4000-8000-000000000021', 'a0000000-0000-4000-8000-000000000001',
   'a0000000-0000-4000-8000-000000000011', 'Alder North', 'Europe/Berlin', '0 8,16 * * *'),
  ('a0000000-0000-4000-8000-000000000022', 'a0000000-0000-4000-8000-000000000001',
   'a0000000-0000-4000-8000-000000000011', 'Alder South', 'Australia/Lord_Howe', '*/30 6-20 * * *'),
  ('b0000000-0000-4000-8000-000000000021', 'b0000000-0000-4000-8000-000000000001',
   'b0000000-0000-4000-8000-000000000011', 'Birch Ward 4', 'America/New_York', '0 */6 * * 1-5')
on conflict (site_id) do nothing;

insert into public.devices (device_id, device_mac, device_code)
values
  ('a0000000-0000-4000-8000-000000000031', 'AA:BB:CC:DD:EE:FF', 'DEVICE-ESP32S3-001'),
  ('a0000000-0000-4000-8000-000000000032', 'AA:BB:CC:DD:EE:02', 'DEVICE-ESP32S3-002'),
  ('b0000000-0000-4000-8000-000000000031', 'BB:BB:CC:DD:EE:01', 'DEVICE-ESP32S3-003')
on conflict (device_id) do nothing;

-- Mapping makes them active, as it does anywhere. These two count as welcomed.
do $$
declare
  v_mapped uuid[];
begin
  with mapped as (
    insert into public.device_site_assignments (assignment_id, device_id, site_id)
    values
      ('a0000000-0000-4000-8000-000000000041', 'a0000000-0000-4000-8000-000000000031',
       'a0000000-0000-4000-8000-000000000021'),
      ('b0000000-0000-4000-8000-000000000041', 'b0000000-0000-4000-8000-000000000031',
       'b0000000-0000-4000-8000-000000000021')
    on conflict (assignment_id) do nothing
    returning device_id
  )
  select array_agg(device_id) into v_mapped from mapped;
  update public.devices set welcome_due = false where device_id = any (v_mapped);
end
$$;
