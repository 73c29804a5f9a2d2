-- Devices and their history.

-- One device, however its MAC is spelled: AA:BB:CC:DD:EE:FF, aabbccddeeff, AA-BB-CC-DD-EE-FF. An id that is not
-- twelve hex digits is a name and stays as it is.
create or replace function mqtt_private.fn_device_key(p_id text) returns text
language sql immutable strict parallel safe set search_path = ''
as $$
  select case
    when regexp_replace(p_id, '[:.\s-]', '', 'g') ~ '^[0-9A-Fa-f]{12}$'
      then upper(regexp_replace(p_id, '[:.\s-]', '', 'g') collate "C")
    else p_id
  end
$$;

-- Whoever writes a device computes its index entry, hence the grants.
revoke all on function mqtt_private.fn_device_key(text) from public, anon, authenticated;
grant execute on function mqtt_private.fn_device_key(text) to authenticated, service_role;

do $$
begin
  if to_regclass('public.devices') is null then
    create table public.devices (
      device_id uuid primary key default gen_random_uuid(),
      device_mac text not null check (device_mac <> '')
    );
    alter table public.devices enable row level security;
    revoke all on table public.devices from public, anon, authenticated, service_role;
  end if;
  perform mqtt_private.fn_require_key('public.devices', 'device_id');
end
$$;

alter table public.devices
  add column if not exists device_mac text,
  add column if not exists device_code text,
  add column if not exists device_name text,
  add column if not exists provisioning_status text not null default 'pending_mapping'
    check (provisioning_status in ('pending_mapping', 'mapped', 'active', 'inactive')),
  add column if not exists is_active boolean not null default false,
  add column if not exists company_id uuid references public.companies (company_id),
  add column if not exists program_id uuid references public.pilot_programs (program_id),
  add column if not exists site_id uuid references public.sites (site_id),
  -- goes before the site's; null: the site's
  add column if not exists wake_schedule_cron text,
  add column if not exists next_wake_at timestamptz,
  add column if not exists last_wake_at timestamptz,
  add column if not exists last_seen_at timestamptz,
  add column if not exists firmware_version text,
  add column if not exists battery_voltage numeric,  -- V
  add column if not exists wifi_rssi integer,        -- dBm
  -- the id and the topic root as the device last used them; null: device_mac, and device
  add column if not exists mqtt_id text,
  add column if not exists mqtt_root text check (mqtt_root in ('device', 'ESP32CAM')),
  add column if not exists mapped_at timestamptz,
  -- mapped, and its welcome command is not queued yet
  add column if not exists welcome_due boolean not null default false,
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

select mqtt_private.fn_allow_words(
  'public.devices', 'provisioning_status', array['pending_mapping', 'mapped', 'active', 'inactive']
);
select mqtt_private.fn_add_unique_index('devices_device_mac_key', 'public.devices (device_mac)');
select mqtt_private.fn_add_unique_index('devices_device_key_key', 'public.devices (mqtt_private.fn_device_key(device_mac))');
select mqtt_private.fn_add_unique_index('devices_device_code_key', 'public.devices (device_code)');

create index if not exists devices_company_id_idx on public.devices (company_id);
create index if not exists devices_program_id_idx on public.devices (program_id);
create index if not exists devices_site_id_idx on public.devices (site_id);
create index if not exists devices_welcome_due_idx on public.devices (device_id) where welcome_due;
create index if not exists devices_unclaimed_idx on public.devices (device_id) where company_id is null;

drop trigger if exists mqtt_touch_updated_at on public.devices;
create trigger mqtt_touch_updated_at before update on public.devices
  for each row execute function mqtt_private.fn_touch_updated_at();

-- History ------------------------------------------------------------------------------------------------------

-- What happened to a device, for a person to read. Rows are only ever added.
do $$
begin
  if to_regclass('public.device_history') is null then
    create table public.device_history (
      history_id uuid primary key default gen_random_uuid(),
      device_id uuid not null references public.devices (device_id) on delete cascade
    );
    alter table public.device_history enable row level security;
    revoke all on table public.device_history from public, anon, authenticated, service_role;
  end if;
end
$$;

alter table public.device_history
  add column if not exists history_id uuid not null default gen_random_uuid(),
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists event_type text not null default 'note',  -- e.g. mapped, unmapped, wake_schedule_invalid
  add column if not exists severity text not null default 'info' check (severity in ('info', 'warning', 'error')),
  add column if not exists description text not null default '',
  add column if not exists event_data jsonb not null default '{}',
  add column if not exists created_by_user_id uuid,
  add column if not exists created_at timestamptz not null default now();

create index if not exists device_history_device_id_idx on public.device_history (device_id, created_at desc);
