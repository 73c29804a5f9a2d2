-- Firmware releases: files in the private bucket firmware, and what update_firmware commands need to know of them.
--
-- A command names a release in release_id (or in its payload, {"release_id": "<release_id>"}: a schedule has no other
-- place), and then needs no address: the worker has Storage sign one when it sends the command. When the command is
-- inserted, version, sha256 and size of the release are written into its payload, so that it says what was sent, whatever
-- becomes of the release.
--
-- Whether it worked is what the device says when it wakes: verified_at (…_wakes.sql).

-- Releases -----------------------------------------------------------------------------------------------------

call mqtt_private.create_table('public.firmware_releases', 'release_id', $$
  release_id uuid primary key default gen_random_uuid(),
  company_id uuid not null references public.companies (company_id) on delete cascade,
  version text not null,
  sha256 text not null,
  size_bytes bigint not null,
  path text not null
$$);

alter table public.firmware_releases
  add column if not exists company_id uuid references public.companies (company_id) on delete cascade,
  add column if not exists version text
    check (length(version) between 1 and 100 and version !~ '[[:space:][:cntrl:]]'),
  add column if not exists hardware text          -- devices.hardware_version that it is for; null: any
    check (hardware = btrim(hardware) and length(hardware) between 1 and 100 and hardware !~ '[[:cntrl:]]'),
  add column if not exists sha256 text,           -- 64 hex digits, lower case
  add column if not exists size_bytes bigint,
  add column if not exists path text,             -- in the bucket firmware; its first folder is company_id
  add column if not exists notes text check (length(notes) <= 10000),
  add column if not exists created_by_user_id uuid,
  add column if not exists created_at timestamptz not null default now();

-- a version is there once, however it is written: 1.4, 1.4.0 and v1.4.0 are one
call mqtt_private.add_unique_index('firmware_releases_version_key',
  'public.firmware_releases (company_id, coalesce(mqtt_private.fn_version_key(version), array[version]), '
  'coalesce(hardware, ''''))');

-- Commands -----------------------------------------------------------------------------------------------------

alter table public.device_commands
  add column if not exists release_id uuid references public.firmware_releases (release_id) on delete set null,
  add column if not exists verified_at timestamptz,      -- the device woke with the version of the release
  add column if not exists config_version bigint;        -- of devices.desired_config, which this update_config carries

-- what is left of a release: its removal, and how far it has come
create index if not exists device_commands_release_id_idx on public.device_commands (release_id)
  where release_id is not null;

-- Devices ------------------------------------------------------------------------------------------------------

alter table public.devices
  add column if not exists hardware_version text,        -- which releases fit it; null: not known
  -- what the device is to have, and what it has confirmed (…_configuration.sql)
  add column if not exists desired_config jsonb,
  add column if not exists desired_config_version bigint not null default 0,
  add column if not exists desired_config_at timestamptz,
  add column if not exists reported_config jsonb,
  add column if not exists reported_config_version bigint not null default 0,
  add column if not exists reported_config_at timestamptz,
  add column if not exists config_unconfirmed text[] not null default '{}',  -- keys that it was sent and has not answered
  add column if not exists config_rejected_version bigint,                   -- the version that it refused
  add column if not exists config_error text,                                -- and why
  add column if not exists config_due boolean not null default false;        -- a part of desired_config goes out when it wakes

-- Access -------------------------------------------------------------------------------------------------------

call mqtt_private.grant_table('firmware_releases',
  'release_id, company_id, version, hardware, sha256, size_bytes, path, notes', 'notes', true);

drop policy if exists mqtt_members_read on public.firmware_releases;
create policy mqtt_members_read on public.firmware_releases for select to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('viewer')));

drop policy if exists mqtt_admins_publish on public.firmware_releases;
create policy mqtt_admins_publish on public.firmware_releases for insert to authenticated
  with check (company_id in (select mqtt_private.fn_my_companies('admin')));

drop policy if exists mqtt_admins_note on public.firmware_releases;
create policy mqtt_admins_note on public.firmware_releases for update to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('admin')));

drop policy if exists mqtt_admins_remove on public.firmware_releases;
create policy mqtt_admins_remove on public.firmware_releases for delete to authenticated
  using (company_id in (select mqtt_private.fn_my_companies('admin')));

-- Who may insert a command may name a release in it.
do $$
begin
  if (select relrowsecurity from pg_catalog.pg_class where oid = 'public.device_commands'::regclass) then
    grant insert (release_id) on table public.device_commands to authenticated;
  end if;
end
$$;

-- The files. Members of the company that is the first folder read them, its admins write. As for pictures, a bucket that
-- was there before keeps its settings.
do $$
begin
  if to_regclass('storage.buckets') is null or to_regclass('storage.objects') is null then
    raise notice 'there is no schema storage: firmware cannot be kept here'
      using hint = 'Apply 20261128092011_mqtt_service_firmware.sql again when Storage is there.';
    return;
  end if;

  insert into storage.buckets (id, name, public, file_size_limit)
  values ('firmware', 'firmware', false, 67108864)
  on conflict (id) do nothing;

  if (select public from storage.buckets where id = 'firmware') then
    raise warning 'the bucket firmware was there before and is public, and still is'
      using hint = 'Anybody who knows a file''s address can read it. To close it: '
        'update storage.buckets set public = false where id = ''firmware'';';
  end if;

  drop policy if exists mqtt_members_read_firmware on storage.objects;
  create policy mqtt_members_read_firmware on storage.objects for select to authenticated
    using (
      bucket_id = 'firmware'
      and split_part(name, '/', 1) in (select c::text from mqtt_private.fn_my_companies('viewer') as c)
    );

  drop policy if exists mqtt_admins_add_firmware on storage.objects;
  create policy mqtt_admins_add_firmware on storage.objects for insert to authenticated
    with check (
      bucket_id = 'firmware'
      and split_part(name, '/', 1) in (select c::text from mqtt_private.fn_my_companies('admin') as c)
    );

  drop policy if exists mqtt_admins_change_firmware on storage.objects;
  create policy mqtt_admins_change_firmware on storage.objects for update to authenticated
    using (
      bucket_id = 'firmware'
      and split_part(name, '/', 1) in (select c::text from mqtt_private.fn_my_companies('admin') as c)
    );

  drop policy if exists mqtt_admins_remove_firmware on storage.objects;
  create policy mqtt_admins_remove_firmware on storage.objects for delete to authenticated
    using (
      bucket_id = 'firmware'
      and split_part(name, '/', 1) in (select c::text from mqtt_private.fn_my_companies('admin') as c)
    );
end
$$;

-- Guards -------------------------------------------------------------------------------------------------------

-- Checks a new release. What devices were told of one stays true: afterwards, only its notes change. Security invoker:
-- current_user tells people from the secret key.
create or replace function mqtt_private.fn_guard_release() returns trigger
language plpgsql set search_path = '' as $$
begin
  if tg_op = 'UPDATE' then
    if (new.release_id, new.company_id, new.version, new.hardware, new.sha256, new.size_bytes, new.path) is distinct from
      (old.release_id, old.company_id, old.version, old.hardware, old.sha256, old.size_bytes, old.path)
    then
      perform mqtt_private.fn_raise_check_violation(format('release %s is published, and stays as it is', old.version),
        'Publish another version, or remove this one first. Only its notes can be changed.');
    end if;
    return new;
  end if;
  if new.version is null or new.sha256 !~ '^[0-9a-f]{64}$' or new.size_bytes < 1 then
    perform mqtt_private.fn_raise_check_violation('a release needs a version, the sha256 of its file (64 hex digits in '
      'lower case) and its size_bytes', 'mqtt-service firmware publish FILE --version 1.4.0 writes them.');
  elsif split_part(new.path, '/', 1) is distinct from new.company_id::text or split_part(new.path, '/', 2) = '' then
    perform mqtt_private.fn_raise_check_violation(format('path %s does not begin with the company''s id', new.path),
      'Write <company_id>/<name>: who may read the file is told by its first folder.');
  end if;
  if current_user = 'authenticated' or new.created_by_user_id is null then
    new.created_by_user_id := auth.uid();
  end if;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_release');

create or replace trigger mqtt_guard_release before insert or update on public.firmware_releases
  for each row execute function mqtt_private.fn_guard_release();
