-- Companies, their members, their pilot programs and their sites.
--
-- A site belongs to one program and one company, and says when its devices wake.

call mqtt_private.create_table(
  'public.companies', 'company_id', 'company_id uuid primary key default gen_random_uuid()');

alter table public.companies
  add column if not exists name text not null default '',
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

create or replace trigger mqtt_touch_updated_at before update on public.companies
  for each row execute function mqtt_private.fn_touch_updated_at();

-- Who belongs to a company. An admin may do what an operator may, an operator what a viewer may.
call mqtt_private.create_table('public.company_members', null, $$
  company_id uuid not null references public.companies (company_id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  primary key (company_id, user_id)
$$);

alter table public.company_members
  add column if not exists role text not null default 'viewer' check (role in ('viewer', 'operator', 'admin')),
  add column if not exists created_at timestamptz not null default now();

-- the companies of the signed-in user: every policy asks for them
create index if not exists company_members_user_id_idx on public.company_members (user_id);

call mqtt_private.create_table(
  'public.pilot_programs', 'program_id', 'program_id uuid primary key default gen_random_uuid()');

alter table public.pilot_programs
  add column if not exists company_id uuid references public.companies (company_id),
  add column if not exists name text not null default '',
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

-- a company's programs
create index if not exists pilot_programs_company_id_idx on public.pilot_programs (company_id);

create or replace trigger mqtt_touch_updated_at before update on public.pilot_programs
  for each row execute function mqtt_private.fn_touch_updated_at();

call mqtt_private.create_table('public.sites', 'site_id', 'site_id uuid primary key default gen_random_uuid()');

alter table public.sites
  add column if not exists company_id uuid references public.companies (company_id),
  add column if not exists program_id uuid references public.pilot_programs (program_id),
  add column if not exists name text not null default '',
  add column if not exists timezone text not null default 'UTC', -- an IANA name; the schedule is read in this zone
  add column if not exists wake_schedule_cron text,              -- five-field cron; null: the default schedule
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

-- a company's sites, and a program's
create index if not exists sites_company_id_idx on public.sites (company_id);
create index if not exists sites_program_id_idx on public.sites (program_id);

create or replace trigger mqtt_touch_updated_at before update on public.sites
  for each row execute function mqtt_private.fn_touch_updated_at();
