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

-- Commands that name a release ---------------------------------------------------------------------------------

-- See …_command_rules.sql. New: a payload that names a release needs no address.
create or replace function mqtt_private.fn_check_firmware(p_payload jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_url text := p_payload ->> 'firmware_url';
begin
  if p_payload ? 'release_id' then
    if not mqtt_private.fn_is_target_id(p_payload -> 'release_id') or p_payload ? 'firmware_url' then
      perform mqtt_private.fn_raise_check_violation('release_id is not the id of a release, or firmware_url is there too',
        'Write {"release_id": "<release_id>"} alone, or a firmware_url.');
    end if;
    return;
  end if;
  if jsonb_typeof(p_payload -> 'firmware_url') is distinct from 'string'
    or length(v_url) > 2048 or v_url !~ '^[hH][tT][tT][pP][sS]://[^/?#[:space:][:cntrl:]]+[^[:space:][:cntrl:]]*$'
  then
    perform mqtt_private.fn_raise_check_violation(
      'update_firmware needs firmware_url: an https URL of at most 2048 characters',
      'Write e.g. {"firmware_url": "https://files.example.com/firmware.bin"}, or name a release in release_id.');
  end if;
  if p_payload ->> 'sha256' is not null and p_payload ->> 'sha256' !~ '^[0-9A-Fa-f]{64}$' then
    perform mqtt_private.fn_raise_check_violation(
      'sha256 is not the SHA-256 of a firmware', 'Write 64 hexadecimal digits, or leave sha256 out.');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_firmware', 'authenticated', 'service_role');

-- A command for a release: it must be one of the device's company, and for its hardware. Its version, sha256 and size
-- come into the payload. Fires before mqtt_guard_command_insert, which checks the payload: triggers go by their names.
create or replace function mqtt_private.fn_find_release() returns trigger
language plpgsql set search_path = public, extensions as $$
declare
  v_release public.firmware_releases;
  v_device record;
begin
  if new.release_id is null then
    if new.command_type::text <> 'update_firmware' or not mqtt_private.fn_is_target_id(new.command_payload -> 'release_id')
    then
      return new;
    end if;
    new.release_id := (new.command_payload ->> 'release_id')::uuid;
  end if;
  new.command_payload := coalesce(new.command_payload, '{}');
  if new.command_type::text <> 'update_firmware' or new.command_payload ? 'firmware_url'
    or new.command_payload ->> 'release_id' <> new.release_id::text
  then
    perform mqtt_private.fn_raise_check_violation(
      'release_id goes with update_firmware alone, and with neither a firmware_url nor another release_id in the payload',
      'Leave command_payload out: the release says what is sent.');
  end if;
  select * into v_release from public.firmware_releases where release_id = new.release_id;
  select company_id, hardware_version::text as hardware into v_device
  from public.devices where device_id = new.device_id;
  if v_release.release_id is null or v_release.company_id is distinct from v_device.company_id then
    perform mqtt_private.fn_raise_check_violation(
      format('the company of the device has no firmware release %s', new.release_id),
      'mqtt-service firmware list shows its releases.');
  elsif v_release.hardware <> coalesce(v_device.hardware, '') then
    perform mqtt_private.fn_raise_check_violation(
      format('release %s is for the hardware %s, and the device''s is %s', v_release.version, v_release.hardware,
        coalesce(nullif(v_device.hardware, ''), 'not known')),
      'Name a release for its hardware, or correct devices.hardware_version.');
  end if;
  new.command_payload := new.command_payload || jsonb_build_object('release_id', v_release.release_id,
    'version', v_release.version, 'sha256', v_release.sha256, 'size', v_release.size_bytes);
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_release');

-- Not by command_type: a project could no longer change that column's type.
create or replace trigger mqtt_find_release before insert on public.device_commands
  for each row when (new.release_id is not null or new.command_payload ? 'release_id')
  execute function mqtt_private.fn_find_release();

create or replace trigger mqtt_find_other_release before update of release_id on public.device_commands
  for each row when (new.release_id is not null and new.release_id is distinct from old.release_id)
  execute function mqtt_private.fn_find_release();

-- These columns keep their values whatever a person writes, as the worker's other columns do.
create or replace function mqtt_private.fn_guard_verification() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.verified_at := case tg_op when 'UPDATE' then old.verified_at end;
  new.config_version := case tg_op when 'UPDATE' then old.config_version end;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_verification');

create or replace trigger mqtt_guard_verification
  before insert or update of verified_at, config_version on public.device_commands
  for each row when (current_user = 'authenticated')
  execute function mqtt_private.fn_guard_verification();

-- A release that is removed takes what waits for it along: those commands fail for good, and say why. What was sent stays;
-- its payload still tells what it was.
-- Security definer: who may remove a release need not be able to fail commands.
create or replace function mqtt_private.fn_end_release() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
begin
  update public.device_commands
  set status = 'failed', due_at = null, lease_worker = null, lease_until = null,
      last_error = format('firmware release %s was removed', old.version)
  where release_id = old.release_id and due_at is not null;
  return old;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_end_release');

create or replace trigger mqtt_end_release before delete on public.firmware_releases
  for each row execute function mqtt_private.fn_end_release();

-- Sending ------------------------------------------------------------------------------------------------------

-- See …_claims_at_any_size.sql. New: firmware_path, the file of the command's release, for the worker to have an address
-- of it signed; one whose release is gone, or is another company's by now, fails for good.
create or replace function mqtt_private.fn_hand_out_commands(
  p_ids uuid[], p_claim mqtt_private.claim, out handed jsonb)
language plpgsql volatile set search_path = public, extensions as $$
begin
  with leased as materialized (
    select c.command_id, c.device_id, c.command_type, coalesce(c.command_payload, '{}') as command_payload,
      c.attempt, c.retry_count, c.priority,
      case when isfinite(greatest(c.issued_at, c.scheduled_for))
        then extract(epoch from p_claim.now - greatest(c.issued_at, c.scheduled_for)) end as waited_seconds,
      c.issued_at, c.issue_number, d.device_code, d.device_name, d.device_mac,
      coalesce(d.mqtt_root, 'device') as topic_root, coalesce(d.mqtt_id, d.device_mac) as topic_id,
      wake.next_wake_at, f.path as firmware_path, life.is_over,
      case when life.is_over then 'expired: it could not be delivered in time'
        else coalesce(mqtt_private.fn_problem_of_payload(c.command_payload), wake.fault, case
          when f.release_id is not null and f.company_id is distinct from d.company_id
            then format('firmware release %s is not of the company that the device now belongs to', f.version)
          when c.release_id is null and c.command_type = 'update_firmware' and c.command_payload ? 'release_id'
            then format('firmware release %s was removed', coalesce(c.command_payload ->> 'version', '')) end)
        end as fault,
      extract(epoch from case when not life.is_over then life.deadline - p_claim.now end) as seconds_to_expiry
    from public.device_commands c
    join public.devices d on d.device_id = c.device_id
    left join public.sites s on s.site_id = d.site_id
    left join public.firmware_releases f on f.release_id = c.release_id
    left join lateral ( -- called for these alone: as a join's condition, the type is looked at after the call
      select w.next_wake_at, w.fault
      from mqtt_private.fn_next_wake_of_command(c.command_payload, p_claim.now, s.timezone) w
      where c.command_type = 'set_wake_schedule' offset 0) wake on true
    cross join lateral (
      select least(coalesce(c.expires_at, greatest(c.issued_at, c.scheduled_for) + p_claim.time_to_live),
        p_claim.now + interval '100 years') as deadline) ends
    cross join lateral (select ends.deadline, ends.deadline <= p_claim.now as is_over) life
    where c.command_id = any (p_ids)
  ), failed as (
    update public.device_commands c
    set status = case when l.is_over then 'expired' else 'failed' end,
        retry_count = c.retry_count + case when l.is_over then 0 else 1 end,
        last_error = l.fault, due_at = null, lease_worker = null, lease_until = null
    from leased l where l.fault is not null and c.command_id = l.command_id
    returning c.command_id, c.device_id, l.device_code, c.command_type, c.retry_count, true as final,
      c.last_error as error
  )
  select coalesce((select jsonb_agg(to_jsonb(l) - array['priority', 'issue_number', 'is_over', 'fault']
      order by priority desc, issued_at, issue_number) from leased l where fault is null), '[]')
    || coalesce((select jsonb_agg(to_jsonb(failed)) from failed), '[]')
  into handed;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_hand_out_commands', 'service_role');
