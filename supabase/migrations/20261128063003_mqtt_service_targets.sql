-- Targets: which devices of a company something is meant for, as one jsonb document; and the tags of devices.
--
-- A target has at least one of these parts, and a device must fit all that are there:
--   devices    ["<device_id>", …]           1 to 10,000 of them
--   site       "<site_id>"
--   program    "<program_id>"
--   company    "<company_id>"               all devices of the company
--   tags       ["greenhouse", "outdoor"]    a device must have all of them; 1 to 20
--   firmware   {">=": "1.2.0", "<": "1.10.0"}   the version that the device reports, compared as a version
--   battery    {"<": 3.5}                   V, as the device reports it
--   last_seen  {"within": "2 days"} or {"not_within": "7 days"}, an interval of Postgres
-- The comparisons are =, !=, <, <=, > and >=. A device that has not reported a value fits no condition on it, but
-- not_within, which a device that was never seen fits too.
--
-- A target is always looked up inside of one company, so it never reaches the devices of another.

-- Grants -------------------------------------------------------------------------------------------------------

-- Grants a table to service_role, and to people: reading, the columns that they may insert and update ('': none), and
-- deleting. As …_access.sql does: nothing for people where a table that was there before has no row-level security.
create or replace procedure mqtt_private.grant_table(p_table text, p_insert text, p_update text, p_delete boolean)
language plpgsql set search_path = '' as $$
begin
  execute format('grant select, insert, update, delete on table public.%I to service_role', p_table);
  if not (select relrowsecurity from pg_catalog.pg_class where oid = format('public.%I', p_table)::regclass) then
    raise warning 'public.% was there before without row-level security, and still is', p_table
      using hint = format('The policies for it are ready: alter table public.%I enable row level security; and apply '
        'the migrations again for the grants.', p_table);
    return;
  end if;
  execute format('grant select on table public.%I to authenticated', p_table);
  if p_insert <> '' then
    execute format('grant insert (%s) on table public.%I to authenticated', p_insert, p_table);
  end if;
  if p_update <> '' then
    execute format('grant update (%s) on table public.%I to authenticated', p_update, p_table);
  end if;
  if p_delete then
    execute format('grant delete on table public.%I to authenticated', p_table);
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.grant_table');

-- Tags ---------------------------------------------------------------------------------------------------------

-- Words that people give to devices; upper and lower case are different words.
call mqtt_private.create_table('public.device_tags', null, $$
  device_id uuid not null references public.devices (device_id) on delete cascade,
  tag text not null check (tag = btrim(tag) and length(tag) between 1 and 64 and tag !~ '[[:cntrl:]]'),
  primary key (device_id, tag)
$$);

alter table public.device_tags
  add column if not exists device_id uuid references public.devices (device_id) on delete cascade,
  add column if not exists tag text,
  add column if not exists created_at timestamptz not null default now();

-- a tag's devices, page by page
create index if not exists device_tags_tag_idx on public.device_tags (tag, device_id);
call mqtt_private.grant_table('device_tags', 'device_id, tag', '', true);

drop policy if exists mqtt_members_read on public.device_tags;
create policy mqtt_members_read on public.device_tags for select to authenticated
  using (exists (select from public.devices d where d.device_id = device_tags.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('viewer'))));

drop policy if exists mqtt_operators_tag on public.device_tags;
create policy mqtt_operators_tag on public.device_tags for insert to authenticated
  with check (exists (select from public.devices d where d.device_id = device_tags.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('operator'))));

drop policy if exists mqtt_operators_untag on public.device_tags;
create policy mqtt_operators_untag on public.device_tags for delete to authenticated
  using (exists (select from public.devices d where d.device_id = device_tags.device_id
    and d.company_id in (select mqtt_private.fn_my_companies('operator'))));

-- Versions -----------------------------------------------------------------------------------------------------

-- A version as something that compares like it (with collate "C"); null: a text that is no version. One to six numbers,
-- where missing ones are 0; then a pre-release as semver 2.0.0, section 11 orders it; a leading v and a build after +
-- do not count.
create or replace function mqtt_private.fn_version_key(p_version text) returns text[]
language sql immutable strict parallel safe set search_path = '' as $$
  select array(
      select lpad(coalesce(ltrim((string_to_array(parts[1], '.'))[n], '0'), ''), 100, '0')
      from generate_series(1, 6) n order by n)
    || case when parts[2] is null then array['~'] else array['-'] || array(
      select case when word ~ '^[0-9]+$' then '0' || lpad(ltrim(word, '0'), 100, '0') else '1' || word end
      from string_to_table(parts[2], '.') with ordinality as w (word, place) order by place) end
  from regexp_match(btrim(p_version),
    '^[vV]?([0-9]+(?:\.[0-9]+){0,5})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]*)?$') parts
  where parts is not null and length(p_version) <= 100
$$;
call mqtt_private.grant_execute('mqtt_private.fn_version_key', 'authenticated', 'service_role');

-- Whether a version fits all of {comparison: version}. One that is no version can only be equal, or not.
create or replace function mqtt_private.fn_version_fits(p_version text, p_conditions jsonb) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select coalesce(p_version is not null and bool_and(case c.comparison
    when '=' then coalesce(mine.key = other.key, p_version = c.version)
    when '!=' then coalesce(mine.key <> other.key, p_version <> c.version)
    when '<' then mine.key < other.key collate "C"
    when '<=' then mine.key <= other.key collate "C"
    when '>' then mine.key > other.key collate "C"
    when '>=' then mine.key >= other.key collate "C" end), false)
  from jsonb_each_text(p_conditions) as c (comparison, version),
    mqtt_private.fn_version_key(p_version) as mine (key), mqtt_private.fn_version_key(c.version) as other (key)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_version_fits', 'authenticated', 'service_role');

-- Checking -----------------------------------------------------------------------------------------------------

create or replace function mqtt_private.fn_raise_target_fault(p_problem text, p_hint text) returns void
language plpgsql stable parallel safe set search_path = '' as $$
begin
  perform mqtt_private.fn_raise_check_violation('target: ' || p_problem, p_hint);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_raise_target_fault', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_is_target_id(p_value jsonb) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select coalesce(jsonb_typeof(p_value) = 'string'
    and p_value #>> '{}' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', false)
$$;
call mqtt_private.grant_execute('mqtt_private.fn_is_target_id', 'authenticated', 'service_role');

-- Raises 23514 where a list is none, is empty or too long, or holds what it must not.
create or replace function mqtt_private.fn_check_target_list(p_key text, p_value jsonb, p_most int) returns void
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_wrong jsonb;
begin
  if jsonb_typeof(p_value) <> 'array' or jsonb_array_length(p_value) not between 1 and p_most then
    perform mqtt_private.fn_raise_target_fault(format('%s is not a list of 1 to %s', p_key, p_most),
      case p_key when 'tags' then 'Write e.g. {"tags": ["greenhouse"]}.' else 'Write e.g. {"devices": ["<device_id>"]}.' end);
  end if;
  select element into v_wrong from jsonb_array_elements(p_value) as e (element)
  where not case p_key when 'devices' then mqtt_private.fn_is_target_id(element)
    else jsonb_typeof(element) = 'string' and length(element #>> '{}') between 1 and 64 end
  limit 1;
  if found then
    perform mqtt_private.fn_raise_target_fault(format('%s holds %s', p_key, left(v_wrong::text, 100)),
      case p_key when 'tags' then 'A tag is a text of 1 to 64 characters.' else 'Write device_ids, which are UUIDs.' end);
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_target_list', 'authenticated', 'service_role');

-- Raises 23514 where a condition on what devices report cannot be read.
create or replace function mqtt_private.fn_check_target_condition(p_key text, p_value jsonb) returns void
language plpgsql stable parallel safe set search_path = '' as $$
declare
  c_allowed constant text[] := case p_key when 'last_seen' then '{within,not_within}' else '{=,!=,<,<=,>,>=}' end;
  c_hint constant text := case p_key
    when 'firmware' then 'Write e.g. {"firmware": {">=": "1.2.0", "<": "1.10.0"}}.'
    when 'battery' then 'Write volts, e.g. {"battery": {"<": 3.5}}.'
    else 'Write an interval, e.g. {"last_seen": {"within": "2 days"}} or {"last_seen": {"not_within": "12 hours"}}.' end;
  v_name text;
  v_value jsonb;
  v_good boolean;
begin
  if jsonb_typeof(p_value) <> 'object' or p_value = '{}' then
    perform mqtt_private.fn_raise_target_fault(
      format('%s is %s, where a comparison is needed', p_key, left(p_value::text, 100)), c_hint);
  end if;
  for v_name, v_value in select key, value from jsonb_each(p_value) loop
    if v_name <> all (c_allowed) then
      perform mqtt_private.fn_raise_target_fault(format('%s is compared by %s, not by "%s"',
        p_key, array_to_string(c_allowed, ', '), left(v_name, 40)), c_hint);
    end if;
    begin
      v_good := case p_key
        when 'battery' then jsonb_typeof(v_value) = 'number'
        when 'firmware' then jsonb_typeof(v_value) = 'string' and length(v_value #>> '{}') between 1 and 100
          and (v_name in ('=', '!=') or mqtt_private.fn_version_key(v_value #>> '{}') is not null)
        else jsonb_typeof(v_value) = 'string' and length(v_value #>> '{}') <= 100
          and (v_value #>> '{}')::interval between interval '1 second' and interval '100 years' end;
    exception when data_exception then
      v_good := false;
    end;
    if v_good is not true then
      perform mqtt_private.fn_raise_target_fault(format('%s %s %s is not %s', p_key, v_name, left(v_value::text, 100),
        case p_key when 'firmware' then 'a version' when 'battery' then 'a number' else 'a time span' end), c_hint);
    end if;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_target_condition', 'authenticated', 'service_role');

-- Raises 23514, with what is wrong and what is allowed, where a document is no target; see the head of this file.
create or replace function mqtt_private.fn_check_target(p_target jsonb) returns void
language plpgsql stable parallel safe set search_path = '' as $$
declare
  c_parts constant text := 'devices, site, program, company, tags, firmware, battery, last_seen';
  v_key text;
  v_value jsonb;
begin
  if p_target is null or jsonb_typeof(p_target) <> 'object' or p_target = '{}' then
    perform mqtt_private.fn_raise_target_fault('it names no devices', format(
      'Write an object with one or more of %s; for all devices {"company": "<company_id>"}.', c_parts));
  end if;
  for v_key, v_value in select key, value from jsonb_each(p_target) loop
    if v_key in ('site', 'program', 'company') then
      if not mqtt_private.fn_is_target_id(v_value) then
        perform mqtt_private.fn_raise_target_fault(format('%s is %s, not an id', v_key, left(v_value::text, 100)),
          format('Write one id: {"%s": "<%s_id>"}.', v_key, v_key));
      end if;
    elsif v_key = 'devices' then
      perform mqtt_private.fn_check_target_list(v_key, v_value, 10000);
    elsif v_key = 'tags' then
      perform mqtt_private.fn_check_target_list(v_key, v_value, 20);
    elsif v_key in ('firmware', 'battery', 'last_seen') then
      perform mqtt_private.fn_check_target_condition(v_key, v_value);
    else
      perform mqtt_private.fn_raise_target_fault(
        format('there is no part "%s"', left(v_key, 40)), format('Its parts are %s.', c_parts));
    end if;
  end loop;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_target', 'authenticated', 'service_role');

-- Matching -----------------------------------------------------------------------------------------------------

-- a company's, a program's, a site's devices, page by page
create index if not exists devices_company_page_idx on public.devices (company_id, device_id);
create index if not exists devices_program_page_idx on public.devices (program_id, device_id);
create index if not exists devices_site_page_idx on public.devices (site_id, device_id);

-- The company that a target speaks of: it names it, or its site, program or first device is the company's, or whoever
-- asks sees no other company. Raises 23514 where that leaves it open.
create or replace function mqtt_private.fn_company_of_target(p_target jsonb) returns uuid
language plpgsql stable set search_path = public, extensions as $$
declare
  v_company uuid := coalesce((p_target ->> 'company')::uuid,
    (select coalesce(s.company_id, p.company_id)
     from public.sites s left join public.pilot_programs p on p.program_id = s.program_id
     where s.site_id = (p_target ->> 'site')::uuid),
    (select company_id from public.pilot_programs where program_id = (p_target ->> 'program')::uuid),
    (select company_id from public.devices where device_id = (p_target -> 'devices' ->> 0)::uuid));
  v_seen uuid[];
begin
  if v_company is not null then return v_company; end if;
  v_seen := array(select company_id from public.companies limit 2);
  if cardinality(v_seen) <> 1 then
    perform mqtt_private.fn_raise_target_fault(
      'it does not say of which company', 'Add the company: {"company": "<company_id>", …}.');
  end if;
  return v_seen[1];
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_company_of_target', 'authenticated', 'service_role');

-- The next candidates of a target in the order of device_id: those that fit the part of it which narrows most. Each page
-- costs what it returns, whatever else the company has. p_after: the last of the page before, or null. p_limit null: all.
create or replace function mqtt_private.fn_list_candidates(
  p_target jsonb, p_company_id uuid, p_after uuid, p_limit int) returns uuid[]
language plpgsql stable set search_path = public, extensions as $$
declare
  v_after constant uuid := coalesce(p_after, '00000000-0000-0000-0000-000000000000');
begin
  if p_target ? 'devices' then
    return array(
      select distinct listed.id from (
        select value::uuid as id from jsonb_array_elements_text(p_target -> 'devices')) listed
      where listed.id > v_after order by 1 limit p_limit);
  elsif p_target ? 'site' then
    return array(
      select device_id from public.devices
      where site_id = (p_target ->> 'site')::uuid and device_id > v_after order by device_id limit p_limit);
  elsif p_target ? 'tags' then
    return array(
      select device_id from public.device_tags
      where tag = p_target -> 'tags' ->> 0 and device_id > v_after order by device_id limit p_limit);
  elsif p_target ? 'program' then
    return array(
      select device_id from public.devices
      where program_id = (p_target ->> 'program')::uuid and device_id > v_after order by device_id limit p_limit);
  end if;
  return array(
    select device_id from public.devices
    where company_id = p_company_id and device_id > v_after order by device_id limit p_limit);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_list_candidates', 'authenticated', 'service_role');

-- Which of these candidates are the company's and fit the whole target, by device_id, and which of them are active.
create or replace function mqtt_private.fn_match_target(
  p_target jsonb, p_company_id uuid, p_candidates uuid[], out ids uuid[], out active_ids uuid[])
language plpgsql stable set search_path = public, extensions as $$
begin
  with fitting as materialized (
    select d.device_id, d.is_active is true as active, d.firmware_version::text as version
    from public.devices d
    where d.device_id = any (p_candidates) and d.company_id = p_company_id
      and (not p_target ? 'company' or d.company_id = (p_target ->> 'company')::uuid)
      and (not p_target ? 'site' or d.site_id = (p_target ->> 'site')::uuid)
      and (not p_target ? 'program' or d.program_id = (p_target ->> 'program')::uuid)
      and (p_target #>> '{battery,=}' is null or d.battery_voltage = (p_target #>> '{battery,=}')::numeric)
      and (p_target #>> '{battery,!=}' is null or d.battery_voltage <> (p_target #>> '{battery,!=}')::numeric)
      and (p_target #>> '{battery,<}' is null or d.battery_voltage < (p_target #>> '{battery,<}')::numeric)
      and (p_target #>> '{battery,<=}' is null or d.battery_voltage <= (p_target #>> '{battery,<=}')::numeric)
      and (p_target #>> '{battery,>}' is null or d.battery_voltage > (p_target #>> '{battery,>}')::numeric)
      and (p_target #>> '{battery,>=}' is null or d.battery_voltage >= (p_target #>> '{battery,>=}')::numeric)
      and (p_target #>> '{last_seen,within}' is null
        or d.last_seen_at >= now() - (p_target #>> '{last_seen,within}')::interval)
      and (p_target #>> '{last_seen,not_within}' is null
        or d.last_seen_at is null or d.last_seen_at < now() - (p_target #>> '{last_seen,not_within}')::interval)
      and (not p_target ? 'tags' or not exists (
        select from jsonb_array_elements_text(p_target -> 'tags') as wanted (tag)
        where not exists (
          select from public.device_tags t where t.device_id = d.device_id and t.tag = wanted.tag)))
  ), versions as materialized ( -- a fleet has few: each is compared once
    select distinct version from fitting where p_target ? 'firmware'
  ), right_ones as materialized (
    select version from versions where mqtt_private.fn_version_fits(version, p_target -> 'firmware')
  )
  select coalesce(array_agg(device_id order by device_id), '{}'),
    coalesce(array_agg(device_id order by device_id) filter (where active), '{}')
  from fitting
  where not p_target ? 'firmware' or version in (select version from right_ones)
  into ids, active_ids;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_match_target', 'authenticated', 'service_role');

-- The devices of a company that fit a target, by device_id.
create or replace function mqtt_private.fn_find_target(
  p_target jsonb, p_company_id uuid, out ids uuid[], out active_ids uuid[])
language sql stable set search_path = public, extensions as $$
  select m.ids, m.active_ids
  from mqtt_private.fn_match_target(p_target, p_company_id,
    mqtt_private.fn_list_candidates(p_target, p_company_id, null, null)) m
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_target', 'authenticated', 'service_role');

-- Preview ------------------------------------------------------------------------------------------------------

-- How many devices a target means now, and which, as far as whoever asks may see them. p_company_id: where the target does
-- not say. Raises 23514 for what is no target.
-- Returns {company_id, matched, active, devices: [{device_id, device_code, device_name, is_active}]}, the first p_limit
-- by device_id; devices that are not active get no commands.
create or replace function public.fn_preview_target(
  p_target jsonb, p_limit int default 20, p_company_id uuid default null) returns jsonb
language plpgsql stable security invoker set search_path = public, extensions as $$
declare
  v_company uuid;
  v_found record;
begin
  perform mqtt_private.fn_check_target(p_target);
  v_company := coalesce(p_company_id, mqtt_private.fn_company_of_target(p_target));
  v_found := mqtt_private.fn_find_target(p_target, v_company);
  return jsonb_build_object(
    'company_id', v_company, 'matched', cardinality(v_found.ids), 'active', cardinality(v_found.active_ids),
    'devices', coalesce((
      select jsonb_agg(jsonb_build_object('device_id', device_id, 'device_code', device_code,
        'device_name', device_name, 'is_active', is_active is true) order by device_id)
      from public.devices
      where device_id = any (v_found.ids[1 : least(greatest(coalesce(p_limit, 20), 0), 1000)])), '[]'));
end
$$;
call mqtt_private.grant_execute('public.fn_preview_target(jsonb, int, uuid)', 'authenticated', 'service_role');

comment on function public.fn_preview_target(jsonb, int, uuid) is
  'How many devices of one company fit a target, how many of them are active, and which: the first p_limit.';
