-- Devices, what happened to them, and the sites and programs they belong to.

-- Devices ------------------------------------------------------------------------------------------------------

-- One device, however its MAC is spelled: AA:BB:CC:DD:EE:FF, aabbccddeeff, AA-BB-CC-DD-EE-FF. An id that is not
-- twelve hex digits is a name and stays as it is.
create or replace function mqtt_private.fn_device_key(p_id text) returns text
language sql immutable strict parallel safe set search_path = '' as $$
  select case
    when regexp_replace(p_id, '[:.\s-]', '', 'g') ~ '^[0-9A-Fa-f]{12}$'
      then upper(regexp_replace(p_id, '[:.\s-]', '', 'g') collate "C")
    else p_id
  end
$$;
-- an index calls it, so everybody who writes a device does
call mqtt_private.grant_execute('mqtt_private.fn_device_key', 'authenticated', 'service_role');

call mqtt_private.create_table('public.devices', 'device_id', $$
  device_id uuid primary key default gen_random_uuid(),
  device_mac text not null check (device_mac <> '')
$$);

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
  add column if not exists wake_schedule_cron text,         -- takes precedence over the site's
  add column if not exists next_wake_at timestamptz,
  add column if not exists last_wake_at timestamptz,
  add column if not exists last_seen_at timestamptz,
  add column if not exists firmware_version text,
  add column if not exists battery_voltage numeric,         -- V
  add column if not exists wifi_rssi integer,               -- dBm
  add column if not exists reported_location text,          -- as the device says; site_id is where it is
  -- the id and the topic root as the device last used them; null: device_mac, and device
  add column if not exists mqtt_id text,
  add column if not exists mqtt_root text check (mqtt_root in ('device', 'ESP32CAM')),
  add column if not exists mapped_at timestamptz,
  add column if not exists welcome_due boolean not null default false,  -- mapped, and its welcome is not queued yet
  add column if not exists self_registered_at timestamptz,  -- null: a person or a back end wrote the row
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now();

call mqtt_private.allow_values('public.devices', 'provisioning_status', '{pending_mapping,mapped,active,inactive}');

-- a device is there once, however its MAC is spelled (fn_find_device looks here), and has a code of its own
call mqtt_private.add_unique_index('devices_device_mac_key', 'public.devices (device_mac)');
call mqtt_private.add_unique_index('devices_device_key_key', 'public.devices (mqtt_private.fn_device_key(device_mac))');
call mqtt_private.add_unique_index('devices_device_code_key', 'public.devices (device_code)');
-- the devices of a company, a program, a site
create index if not exists devices_company_id_idx on public.devices (company_id);
create index if not exists devices_program_id_idx on public.devices (program_id);
create index if not exists devices_site_id_idx on public.devices (site_id);
-- the pool of devices that no company has claimed yet
create index if not exists devices_unclaimed_idx on public.devices (device_id) where company_id is null;
-- the devices whose welcome is not queued yet
create index if not exists devices_welcome_due_idx on public.devices (device_id) where welcome_due;
-- how many registered themselves within the last minute
create index if not exists devices_self_registered_at_idx on public.devices (self_registered_at)
  where self_registered_at is not null;
-- the largest number of DEVICE-ESP32S3-001 and so on: the next code is one more
create index if not exists devices_code_number_idx
  on public.devices ((substring(device_code::text from '^DEVICE-ESP32S3-([0-9]{1,18})$')::bigint));

create or replace trigger mqtt_touch_updated_at before update on public.devices
  for each row execute function mqtt_private.fn_touch_updated_at();

-- The device that uses this id on MQTT, however the id spells its MAC. An adopted table may hold a device twice: then
-- the one that is spelled alike, is active, or is older.
create or replace function mqtt_private.fn_find_device(p_topic_id text) returns uuid
language plpgsql stable set search_path = public, extensions as $$
begin
  return (
    select device_id from public.devices
    where mqtt_private.fn_device_key(device_mac) = mqtt_private.fn_device_key(p_topic_id)
    order by device_mac = p_topic_id desc, is_active is true desc, created_at, device_id
    limit 1);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_device', 'service_role');

-- History ------------------------------------------------------------------------------------------------------

-- What happened to a device, for a person to read. Rows are only ever added.
call mqtt_private.create_table('public.device_history', null, $$
  history_id uuid primary key default gen_random_uuid(),
  device_id uuid not null references public.devices (device_id) on delete cascade
$$);

alter table public.device_history
  add column if not exists history_id uuid not null default gen_random_uuid(),
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists event_type text not null default 'note',  -- e.g. mapped, unmapped, wake_schedule_invalid
  add column if not exists severity text not null default 'info' check (severity in ('info', 'warning', 'error')),
  add column if not exists description text not null default '',
  add column if not exists event_data jsonb not null default '{}',
  add column if not exists created_by_user_id uuid,
  add column if not exists created_at timestamptz not null default now();

-- a device's events, the latest first
create index if not exists device_history_device_id_idx on public.device_history (device_id, created_at desc);

-- An older table may have its own words for these, and may have them in an enum.
do $$
begin
  call mqtt_private.allow_values('public.device_history', 'severity', '{info,warning,error}');
  call mqtt_private.allow_values('public.device_history', 'event_type',
    '{mapped,unmapped,self_registered,wake_schedule_invalid,image_failed}');
exception when datatype_mismatch then
  raise warning 'events that the worker writes may be missing in device_history: %', sqlerrm;
end
$$;

-- The category of an event as the Node service had it, for its dashboards.
create or replace function mqtt_private.fn_category_of_event(p_event text) returns text
language sql immutable parallel safe set search_path = '' as $$
  select case p_event
    when 'mapped' then 'Assignment'
    when 'unmapped' then 'Unassignment'
    when 'self_registered' then 'ProvisioningStep'
    when 'wake_schedule_invalid' then 'ConfigurationChange'
    when 'image_failed' then 'ErrorEvent'
  end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_category_of_event', 'service_role');

-- Adds an event; also to the columns of the Node service, where they are there. History stands beside what happens:
-- what refuses it gives a warning, and stops nothing.
create or replace function mqtt_private.fn_log_event(
  p_device_id uuid, p_event text, p_severity text, p_text text, p_data jsonb) returns void
language plpgsql volatile set search_path = public, extensions as $$
declare
  v_left_out jsonb;
  v_fault mqtt_private.fault;
  v_error text;
begin
  v_left_out := mqtt_private.fn_write_row('device_history', null,
    jsonb_build_object('device_id', p_device_id, 'event_type', p_event),
    jsonb_strip_nulls(jsonb_build_object(
      'severity', p_severity, 'description', p_text, 'event_data', p_data, 'created_by_user_id', auth.uid(),
      'event_category', mqtt_private.fn_category_of_event(p_event), 'event_timestamp', now(), 'user_id', auth.uid(),
      'site_id', coalesce(p_data ->> 'site_id',
        (select site_id::text from public.devices where device_id = p_device_id)),
      'program_id', coalesce(p_data ->> 'program_id',
        (select program_id::text from public.devices where device_id = p_device_id)))));
  if v_left_out <> '{}' then
    raise warning 'the event "%" of device % is incomplete: %', p_event, p_device_id,
      mqtt_private.fn_describe_left_out('device_history', v_left_out);
  end if;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'device_history');
  if v_error is null then raise; end if;
  raise warning 'device_history does not take "%" of device %: %', p_event, p_device_id, v_error;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_log_event', 'service_role');

-- Assignments --------------------------------------------------------------------------------------------------
-- Which device belongs to which site and to which program. An active row is a mapping; ending it keeps the row.

call mqtt_private.create_table('public.device_site_assignments', null, $$
  assignment_id uuid primary key default gen_random_uuid(),
  device_id uuid not null references public.devices (device_id) on delete cascade,
  site_id uuid not null references public.sites (site_id)
$$);

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

-- an adopted table may have another primary key
do $$
begin
  if not exists (
    select from pg_catalog.pg_constraint
    where conrelid = 'public.device_site_assignments'::regclass and contype = 'p'
      and pg_catalog.pg_get_constraintdef(oid) = 'PRIMARY KEY (assignment_id)'
  ) then
    call mqtt_private.add_unique_index(
      'device_site_assignments_assignment_id_key', 'public.device_site_assignments (assignment_id)');
  end if;
end
$$;
-- the device's mapping: its latest active row
create index if not exists device_site_assignments_device_id_idx
  on public.device_site_assignments (device_id, is_active, assigned_at desc);
-- who is or was at a site, or in a program
create index if not exists device_site_assignments_site_id_idx on public.device_site_assignments (site_id);
create index if not exists device_site_assignments_program_id_idx on public.device_site_assignments (program_id);

create or replace trigger mqtt_touch_updated_at before update on public.device_site_assignments
  for each row execute function mqtt_private.fn_touch_updated_at();

call mqtt_private.create_table('public.device_program_assignments', null, $$
  assignment_id uuid primary key default gen_random_uuid(),
  device_id uuid not null references public.devices (device_id) on delete cascade,
  program_id uuid not null references public.pilot_programs (program_id)
$$);

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

-- the device's program, and who is or was in a program
create index if not exists device_program_assignments_device_id_idx
  on public.device_program_assignments (device_id, is_active);
create index if not exists device_program_assignments_program_id_idx on public.device_program_assignments (program_id);

create or replace trigger mqtt_touch_updated_at before update on public.device_program_assignments
  for each row execute function mqtt_private.fn_touch_updated_at();
