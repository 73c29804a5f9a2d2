-- Which device belongs to which site and to which program. An active row is a mapping; ending it keeps the row.

do $$
begin
  if to_regclass('public.device_site_assignments') is null then
    create table public.device_site_assignments (
      assignment_id uuid primary key default gen_random_uuid(),
      device_id uuid not null references public.devices (device_id) on delete cascade,
      site_id uuid not null references public.sites (site_id)
    );
    alter table public.device_site_assignments enable row level security;
    revoke all on table public.device_site_assignments from public, anon, authenticated, service_role;
  end if;
end
$$;

alter table public.device_site_assignments
  add column if not exists assignment_id uuid not null default gen_random_uuid(),
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists site_id uuid references public.sites (site_id),
  add column if not exists program_id uuid references public.pilot_programs (program_id),
  add column if not exists is_active boolean not null default true,
  add column if not exists assigned_at timestamptz not null default now(),
  add column if not exists assigned_by_user_id uuid,
  add column if not exists unassigned_at timestamptz,
  add column if not exists unassigned_by_user_id uuid,
  add column if not exists notes text,
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

select mqtt_private.fn_add_unique_index(
  'device_site_assignments_assignment_id_key', 'public.device_site_assignments (assignment_id)'
) where not exists (
  select from pg_catalog.pg_constraint
  where conrelid = 'public.device_site_assignments'::regclass and contype = 'p'
    and pg_catalog.pg_get_constraintdef(oid) = 'PRIMARY KEY (assignment_id)'
);
create index if not exists device_site_assignments_device_id_idx
  on public.device_site_assignments (device_id, is_active, assigned_at desc);
create index if not exists device_site_assignments_site_id_idx on public.device_site_assignments (site_id);
create index if not exists device_site_assignments_program_id_idx on public.device_site_assignments (program_id);

drop trigger if exists mqtt_touch_updated_at on public.device_site_assignments;
create trigger mqtt_touch_updated_at before update on public.device_site_assignments
  for each row execute function mqtt_private.fn_touch_updated_at();

do $$
begin
  if to_regclass('public.device_program_assignments') is null then
    create table public.device_program_assignments (
      assignment_id uuid primary key default gen_random_uuid(),
      device_id uuid not null references public.devices (device_id) on delete cascade,
      program_id uuid not null references public.pilot_programs (program_id)
    );
    alter table public.device_program_assignments enable row level security;
    revoke all on table public.device_program_assignments from public, anon, authenticated, service_role;
  end if;
end
$$;

alter table public.device_program_assignments
  add column if not exists assignment_id uuid not null default gen_random_uuid(),
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists program_id uuid references public.pilot_programs (program_id),
  add column if not exists is_active boolean not null default true,
  add column if not exists assigned_at timestamptz not null default now(),
  add column if not exists assigned_by_user_id uuid,
  add column if not exists unassigned_at timestamptz,
  add column if not exists unassigned_by_user_id uuid,
  add column if not exists notes text,
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

create index if not exists device_program_assignments_device_id_idx
  on public.device_program_assignments (device_id, is_active);
create index if not exists device_program_assignments_program_id_idx on public.device_program_assignments (program_id);

drop trigger if exists mqtt_touch_updated_at on public.device_program_assignments;
create trigger mqtt_touch_updated_at before update on public.device_program_assignments
  for each row execute function mqtt_private.fn_touch_updated_at();
