-- Pictures and readings. Units as devices send them: °C, %RH, hPa, kΩ, V, dBm.

do $$
begin
  if to_regclass('public.device_images') is null then
    create table public.device_images (
      image_id uuid primary key default gen_random_uuid(),
      device_id uuid not null references public.devices (device_id) on delete cascade,
      image_name text not null,
      captured_at timestamptz,  -- by the device's clock; null: it did not say
      constraint device_images_device_image_key unique nulls not distinct (device_id, image_name, captured_at)
    );
    alter table public.device_images enable row level security;
    revoke all on table public.device_images from public, anon, authenticated, service_role;
  end if;
  perform mqtt_private.fn_require_key('public.device_images', 'image_id');
end
$$;

-- One row per picture that a device announced: receiving until it is stored in full, or failed with last_error.
alter table public.device_images
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists image_name text,
  add column if not exists captured_at timestamptz,
  add column if not exists image_size integer,            -- bytes
  add column if not exists max_chunk_size integer,        -- bytes
  add column if not exists total_chunks integer,
  add column if not exists received_chunks integer not null default 0,
  add column if not exists missing_requests integer not null default 0,  -- how often missing chunks were asked for
  add column if not exists status text not null default 'receiving'
    check (status in ('receiving', 'complete', 'failed')),
  add column if not exists storage_path text,             -- in the bucket of pictures; null until stored
  add column if not exists sha256 text,
  add column if not exists error_code integer,            -- the device's own
  add column if not exists last_error text,
  add column if not exists location text,
  add column if not exists site_id uuid references public.sites (site_id),  -- where the device was then
  add column if not exists metadata jsonb not null default '{}',
  add column if not exists completed_at timestamptz,
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

select mqtt_private.fn_allow_words('public.device_images', 'status', array['receiving', 'complete', 'failed']);
-- A table that was there before may repeat names, and goes on doing so: there it is no more than an index.
create index if not exists device_images_device_image_key on public.device_images (device_id, image_name, captured_at);
create index if not exists device_images_site_id_idx on public.device_images (site_id);

drop trigger if exists mqtt_touch_updated_at on public.device_images;
create trigger mqtt_touch_updated_at before update on public.device_images
  for each row execute function mqtt_private.fn_touch_updated_at();

do $$
begin
  if to_regclass('public.device_telemetry') is null then
    create table public.device_telemetry (
      telemetry_id uuid primary key default gen_random_uuid(),
      device_id uuid not null references public.devices (device_id) on delete cascade,
      -- the picture that the readings came with; readings of one picture are one row
      image_id uuid unique references public.device_images (image_id) on delete cascade
    );
    alter table public.device_telemetry enable row level security;
    revoke all on table public.device_telemetry from public, anon, authenticated, service_role;
  end if;
end
$$;

alter table public.device_telemetry
  add column if not exists telemetry_id uuid not null default gen_random_uuid(),
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists image_id uuid references public.device_images (image_id) on delete cascade,
  add column if not exists site_id uuid references public.sites (site_id),
  add column if not exists captured_at timestamptz not null default now(),
  add column if not exists temperature double precision,     -- °C
  add column if not exists humidity double precision,        -- %RH
  add column if not exists pressure double precision,        -- hPa
  add column if not exists gas_resistance double precision,  -- kΩ
  add column if not exists battery_voltage double precision, -- V
  add column if not exists wifi_rssi integer,                -- dBm
  add column if not exists metadata jsonb not null default '{}',
  add column if not exists created_at timestamptz not null default now();

create index if not exists device_telemetry_image_id_key on public.device_telemetry (image_id);
create index if not exists device_telemetry_device_id_idx on public.device_telemetry (device_id, captured_at desc);
create index if not exists device_telemetry_site_id_idx on public.device_telemetry (site_id);
