-- Configuration: what a device is to have (devices.desired_config), and what it has confirmed (reported_config).
--
--   desired_config   written by people: {key: value}. desired_config_version grows whenever it changes
--   reported_config  the values that the device has acknowledged; reported_config_version: how far it has come
--   config_due       a part of desired_config is to go out: …_wakes.sql queues it as one update_config when the device wakes
--
-- What differs is looked at key by key, a key's value as a whole. A key that desired_config does not name is the device's
-- own: it is not sent, and removing a key from desired_config sends nothing. To have a device drop a value, say so in its
-- firmware's terms, e.g. {"key": null}.
--
-- A device that was sent a value and has not answered may have it or not: until it answers, config_unconfirmed holds the
-- key, and the key counts as different.

-- The keys of p_desired that the device is not known to have as they are there, with their values; {}: none.
create or replace function mqtt_private.fn_config_difference(p_desired jsonb, p_reported jsonb, p_unconfirmed text[])
returns jsonb
language sql immutable parallel safe set search_path = '' as $$
  select coalesce(jsonb_object_agg(key, value), '{}')
  from jsonb_each(p_desired)
  where p_reported -> key is distinct from value or key = any (p_unconfirmed)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_config_difference', 'authenticated', 'service_role');

-- Raises 23514 where this can be no configuration.
create or replace function mqtt_private.fn_check_config(p_config jsonb) returns void
language plpgsql stable set search_path = '' as $$
begin
  if p_config is null then return; end if;
  if jsonb_typeof(p_config) <> 'object' then
    perform mqtt_private.fn_raise_check_violation(
      'desired_config is not an object', 'Write e.g. {"interval": 30}, or null for none.');
  elsif p_config ?| '{device_id,command_id}' then
    perform mqtt_private.fn_raise_check_violation('desired_config names device_id or command_id, which every message has',
      'Leave them out: a configuration cannot change them.');
  end if;
  perform mqtt_private.fn_check_command('update_config', p_config);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_config', 'authenticated', 'service_role');

-- Keeps versions and times, and config_due. Security invoker: current_user tells people, who write desired_config alone.
create or replace function mqtt_private.fn_guard_config() returns trigger
language plpgsql set search_path = public, extensions as $$
declare
  v_was public.devices;
  v_difference jsonb;
begin
  if tg_op = 'UPDATE' then
    v_was := old;
  end if;
  new.desired_config_version := coalesce(v_was.desired_config_version, 0);
  new.desired_config_at := v_was.desired_config_at;
  if current_user = 'authenticated' then
    new.reported_config := v_was.reported_config;
    new.reported_config_version := coalesce(v_was.reported_config_version, 0);
    new.reported_config_at := v_was.reported_config_at;
    new.config_unconfirmed := coalesce(v_was.config_unconfirmed, '{}');
    new.config_rejected_version := v_was.config_rejected_version;
    new.config_error := v_was.config_error;
  end if;
  if new.desired_config is distinct from v_was.desired_config then
    perform mqtt_private.fn_check_config(new.desired_config);
    new.desired_config_version := new.desired_config_version + 1;
    new.desired_config_at := now();
  end if;
  if new.reported_config is distinct from v_was.reported_config then
    new.reported_config_at := now();
  end if;
  v_difference := mqtt_private.fn_config_difference(
    new.desired_config, new.reported_config, new.config_unconfirmed);
  if v_difference = '{}' then
    new.reported_config_version := new.desired_config_version;
    new.config_error := null;
  end if;
  new.config_due := v_difference <> '{}'
    and new.config_rejected_version is distinct from new.desired_config_version;
  return new;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guard_config');

create or replace trigger mqtt_guard_config
  before insert or update of desired_config, desired_config_version, desired_config_at, reported_config,
    reported_config_version, reported_config_at, config_unconfirmed, config_rejected_version, config_error, config_due
  on public.devices for each row execute function mqtt_private.fn_guard_config();

-- Which devices are to get something, for dashboards.
create index if not exists devices_config_due_idx on public.devices (company_id) where config_due;

-- Operators write desired_config, and nothing else of a device. Where the table was there before, people may have been
-- granted all of its columns, which a policy of ours would open to them: there, they call fn_set_desired_config.
do $$
begin
  if mqtt_private.fn_was_adopted('public.devices') then
    raise notice 'public.devices was there before: people set a configuration by fn_set_desired_config alone';
    return;
  end if;
  grant update (desired_config) on table public.devices to authenticated;
  drop policy if exists mqtt_operators_configure on public.devices;
  create policy mqtt_operators_configure on public.devices for update to authenticated
    using (company_id in (select mqtt_private.fn_my_companies('operator')));
end
$$;

-- Sets the desired configuration of those of these devices that the caller may configure: a person as an operator or admin
-- of their company. Returns how many those are, and of how many it is another than before.
-- Security definer, since people need no other right on devices; the role that the API has set tells people.
create or replace function mqtt_private.fn_write_desired_config(
  p_device_ids uuid[], p_config jsonb, p_replace boolean, out matched int, out changed int)
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
declare
  v_is_person constant boolean := current_setting('role', true) = 'authenticated';
  v_ids constant uuid[] := array(
    select device_id from public.devices
    where device_id = any (p_device_ids)
      and (v_is_person is not true or company_id in (select mqtt_private.fn_my_companies('operator')))
    order by device_id for no key update);
begin
  matched := cardinality(v_ids);
  with wanted as materialized (
    select device_id, case when p_replace then p_config else coalesce(desired_config, '{}') || p_config end as config
    from public.devices where device_id = any (v_ids)
  )
  update public.devices d set desired_config = w.config
  from wanted w where d.device_id = w.device_id and d.desired_config is distinct from w.config;
  get diagnostics changed = row_count;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_write_desired_config', 'authenticated', 'service_role');

-- Sets the desired configuration of one device, or of all that fit a target. Keys of p_config are set, the others stay;
-- with p_replace, p_config is all there is (null: none). For operators and admins of the devices' company, and the secret
-- key; of a target, devices that are not theirs are passed over. p_company_id: where the target does not say.
-- Raises 23514 for what can be no configuration or no target, and for a device that is not theirs.
-- Returns {matched: how many devices, changed: of how many it is another than before}.
create or replace function public.fn_set_desired_config(
  p_config jsonb, p_device_id uuid default null, p_target jsonb default null, p_company_id uuid default null,
  p_replace boolean default false) returns jsonb
language plpgsql volatile security invoker set search_path = public, extensions as $$
declare
  v_ids uuid[] := array[p_device_id];
  v_written record;
begin
  if (p_device_id is null) = (p_target is null) then
    perform mqtt_private.fn_raise_check_violation('exactly one of p_device_id and p_target is needed',
      'Write e.g. {"p_config": {"interval": 30}, "p_target": {"tags": ["greenhouse"]}}.');
  elsif p_config is null and not p_replace then
    perform mqtt_private.fn_raise_check_violation('p_config is null', 'Write {"key": value}, or p_replace: true.');
  end if;
  perform mqtt_private.fn_check_config(p_config);
  if p_target is not null then
    perform mqtt_private.fn_check_target(p_target);
    v_ids := (mqtt_private.fn_find_target(
      p_target, coalesce(p_company_id, mqtt_private.fn_company_of_target(p_target)))).ids;
  end if;
  v_written := mqtt_private.fn_write_desired_config(v_ids, p_config, p_replace);
  if v_written.matched = 0 and p_device_id is not null then
    perform mqtt_private.fn_raise_check_violation(format('there is no device %s that you may configure', p_device_id),
      'Operators and admins of its company may.');
  end if;
  return jsonb_build_object('matched', v_written.matched, 'changed', v_written.changed);
end
$$;
call mqtt_private.grant_execute(
  'public.fn_set_desired_config(jsonb, uuid, jsonb, uuid, boolean)', 'authenticated', 'service_role');

comment on function public.fn_set_desired_config(jsonb, uuid, jsonb, uuid, boolean) is
  'Sets what one device, or all that fit a target, are to have as configuration; each gets what differs when it wakes.';

-- What becomes of a configuration that was queued ---------------------------------------------------------------

-- the configurations that a device was sent, the latest last
create index if not exists device_commands_config_idx on public.device_commands (device_id, config_version)
  where config_version is not null;

-- The keys of an update_config of ours that no later one carries which the device acknowledged (p_answered), or may have
-- got and has not answered (not p_answered).
create or replace function mqtt_private.fn_latest_keys(p_command public.device_commands, p_answered boolean) returns text[]
language plpgsql stable set search_path = public, extensions as $$
begin
  return array(
    select key from jsonb_object_keys(p_command.command_payload) as k (key)
    where not exists (
      select from public.device_commands later
      where later.device_id = p_command.device_id and later.config_version > p_command.config_version
        and later.attempt > 0 and later.command_payload ? k.key
        and case when p_answered then later.status::text = 'acknowledged'
          else later.status::text not in ('acknowledged', 'rejected') end));
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_latest_keys', 'service_role');

-- Takes what a device answered to an update_config of ours into its row, or notes what it was sent.
--   acknowledged  its values are reported, but for keys of which a later one is acknowledged already
--   rejected      the version is not sent again
--   else          once it was given to a worker, the device may have it: its keys are unconfirmed
-- A claim never waits here: it moves commands to expired or failed, and then a device that somebody holds is left.
-- Security definer: a person who cancels a command may write nothing else of a device.
create or replace function mqtt_private.fn_follow_config() returns trigger
language plpgsql volatile security definer set search_path = public, extensions, pg_temp as $$
declare
  v_keys constant text[] := array(select jsonb_object_keys(new.command_payload));
  v_taken text[];
  v_answered text[];
  v_fault mqtt_private.fault;
  v_error text;
begin
  if new.status is not distinct from old.status then return null; end if;
  if new.status::text in ('acknowledged', 'rejected') then
    v_taken := case new.status::text when 'acknowledged' then mqtt_private.fn_latest_keys(new, true) else '{}' end;
    v_answered := mqtt_private.fn_latest_keys(new, false);
    update public.devices
    set reported_config = case when v_taken = '{}' then reported_config else coalesce(reported_config, '{}')
          || (select jsonb_object_agg(key, value) from jsonb_each(new.command_payload) where key = any (v_taken)) end,
        reported_config_version = case new.status::text
          when 'acknowledged' then greatest(reported_config_version, new.config_version) else reported_config_version end,
        config_unconfirmed = array(
          select key from unnest(config_unconfirmed) as k (key) where key <> all (v_answered) order by 1),
        config_rejected_version = case new.status::text
          when 'rejected' then greatest(config_rejected_version, new.config_version) else config_rejected_version end,
        config_error = case
          when new.config_version < desired_config_version then config_error
          when new.status::text = 'rejected' then new.last_error end
    where device_id = new.device_id;
  elsif new.attempt > 0 and new.status::text <> 'pending' then
    update public.devices
    set config_unconfirmed = array(select unnest(config_unconfirmed) union select unnest(v_keys) order by 1)
    where device_id = (
      select device_id from public.devices
      where device_id = new.device_id and not config_unconfirmed @> v_keys
      for no key update skip locked);
  end if;
  return null;
exception when others then
  get stacked diagnostics v_fault.code = returned_sqlstate, v_fault.message = message_text,
    v_fault.context = pg_exception_context, v_fault.constraint_name = constraint_name,
    v_fault.column_name = column_name;
  v_error := mqtt_private.fn_explain_refusal(v_fault, 'devices');
  if v_error is null then raise; end if;
  raise warning 'what device % answered to its configuration is not noted: %', new.device_id, v_error;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_follow_config');

-- It names columns of ours alone: a project can still change the type of its own.
create or replace trigger mqtt_follow_config after update on public.device_commands
  for each row when (new.config_version is not null)
  execute function mqtt_private.fn_follow_config();
