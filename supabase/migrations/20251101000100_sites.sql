-- Pilot programs and sites. A site belongs to one program and one company, and says when its devices wake.

do $$
begin
  if to_regclass('public.pilot_programs') is null then
    create table public.pilot_programs (program_id uuid primary key default gen_random_uuid());
    alter table public.pilot_programs enable row level security;
    revoke all on table public.pilot_programs from public, anon, authenticated, service_role;
  end if;
  perform mqtt_private.fn_require_key('public.pilot_programs', 'program_id');
end
$$;

alter table public.pilot_programs
  add column if not exists company_id uuid references public.companies (company_id),
  add column if not exists name text not null default '',
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

create index if not exists pilot_programs_company_id_idx on public.pilot_programs (company_id);

do $$
begin
  if to_regclass('public.sites') is null then
    create table public.sites (site_id uuid primary key default gen_random_uuid());
    alter table public.sites enable row level security;
    revoke all on table public.sites from public, anon, authenticated, service_role;
  end if;
  perform mqtt_private.fn_require_key('public.sites', 'site_id');
end
$$;

alter table public.sites
  add column if not exists company_id uuid references public.companies (company_id),
  add column if not exists program_id uuid references public.pilot_programs (program_id),
  add column if not exists name text not null default '',
  -- an IANA name; the schedule is read in this zone
  add column if not exists timezone text not null default 'UTC',
  -- five-field cron; null: the default schedule
  add column if not exists wake_schedule_cron text,
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

create index if not exists sites_company_id_idx on public.sites (company_id);
create index if not exists sites_program_id_idx on public.sites (program_id);

drop trigger if exists mqtt_touch_updated_at on public.pilot_programs;
create trigger mqtt_touch_updated_at before update on public.pilot_programs
  for each row execute function mqtt_private.fn_touch_updated_at();

drop trigger if exists mqtt_touch_updated_at on public.sites;
create trigger mqtt_touch_updated_at before update on public.sites
  for each row execute function mqtt_private.fn_touch_updated_at();
