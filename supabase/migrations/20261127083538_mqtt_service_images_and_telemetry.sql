-- Pictures and readings. Units as devices send them: °C, %RH, hPa, kΩ, V, dBm.
--
--   pending ──▶ receiving ──▶ complete      stored; final
--     (a HELLO      ▲ └─────▶ failed        last_error says why; the device keeps its copy and offers it again
--      lists it)    └───────────┘
--
-- The rows are written by the functions of …_pictures.sql; the bytes are in Storage.

call mqtt_private.create_table('public.device_images', 'image_id', $$
  image_id uuid primary key default gen_random_uuid(),
  device_id uuid not null references public.devices (device_id) on delete cascade,
  image_name text not null
$$);

alter table public.device_images
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists image_name text,
  add column if not exists captured_at timestamptz,       -- by the device's clock; null: it did not say
  -- captured_at is no time of the device: an older table demands one, and it had none to say
  add column if not exists time_unknown boolean not null default false,
  add column if not exists image_size integer,            -- bytes
  add column if not exists max_chunk_size integer,        -- bytes
  add column if not exists total_chunks integer,
  add column if not exists received_chunks integer not null default 0,
  add column if not exists missing_requests integer not null default 0,  -- how often missing chunks were asked for
  add column if not exists status text not null default 'receiving'
    check (status in ('pending', 'receiving', 'complete', 'failed')),
  add column if not exists upload_path text,              -- where it will be stored; fixed when first announced
  add column if not exists storage_path text,             -- where it is stored; null until then
  add column if not exists sha256 text,
  add column if not exists error_code integer,            -- the device's own
  add column if not exists last_error text,
  add column if not exists location text,
  add column if not exists site_id uuid references public.sites (site_id),  -- where the device was then
  add column if not exists metadata jsonb not null default '{}',
  add column if not exists listed_at timestamptz,         -- when a HELLO first listed it; null: none did
  add column if not exists received_at timestamptz,       -- all of it was there
  add column if not exists completed_at timestamptz,      -- it was stored
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

call mqtt_private.allow_values('public.device_images', 'status', '{pending,receiving,complete,failed}');

-- a picture by its name; several of one name can come without a time
create index if not exists device_images_name_idx on public.device_images (device_id, image_name, captured_at);
-- with a time, a picture has one row
call mqtt_private.add_unique_index(
  'device_images_captured_key',
  'public.device_images (device_id, image_name, captured_at) where captured_at is not null');
-- the pictures that a device has and has not sent
create index if not exists device_images_pending_idx
  on public.device_images (device_id, image_name) where status = 'pending';
-- the pictures that were stored or given up since a device woke
create index if not exists device_images_finished_idx
  on public.device_images (device_id, updated_at) where status in ('complete', 'failed');
-- the pictures of which nothing has come for long
create index if not exists device_images_receiving_idx on public.device_images (updated_at) where status = 'receiving';
-- a site's pictures
create index if not exists device_images_site_id_idx on public.device_images (site_id);

create or replace trigger mqtt_touch_updated_at before update on public.device_images
  for each row execute function mqtt_private.fn_touch_updated_at();

call mqtt_private.create_table('public.device_telemetry', null, $$
  telemetry_id uuid primary key default gen_random_uuid(),
  device_id uuid not null references public.devices (device_id) on delete cascade,
  -- the picture that the readings came with; readings of one picture are one row
  image_id uuid unique references public.device_images (image_id) on delete cascade
$$);

alter table public.device_telemetry
  add column if not exists telemetry_id uuid not null default gen_random_uuid(),
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists image_id uuid references public.device_images (image_id) on delete cascade,
  -- where the device belonged then
  add column if not exists site_id uuid references public.sites (site_id),
  add column if not exists program_id uuid,
  add column if not exists company_id uuid,
  add column if not exists captured_at timestamptz not null default now(),
  add column if not exists temperature double precision,     -- °C
  add column if not exists humidity double precision,        -- %RH
  add column if not exists pressure double precision,        -- hPa
  add column if not exists gas_resistance double precision,  -- kΩ
  add column if not exists battery_voltage double precision, -- V
  add column if not exists wifi_rssi integer,                -- dBm
  add column if not exists metadata jsonb not null default '{}',
  add column if not exists created_at timestamptz not null default now();

-- a picture's readings; our own table has this index already, from its unique column
create index if not exists device_telemetry_image_id_key on public.device_telemetry (image_id);
-- a device's readings, the latest first, and a site's
create index if not exists device_telemetry_device_id_idx on public.device_telemetry (device_id, captured_at desc);
create index if not exists device_telemetry_site_id_idx on public.device_telemetry (site_id);
