-- When a device wakes next: cron schedules in IANA time zones.
--
-- public.fn_calculate_next_wake(p_cron_expression text, p_from_timestamp timestamptz, p_timezone text default 'UTC')
--   returns the first run of the schedule strictly after p_from_timestamp.
--   Schedule null, empty or blank: p_from_timestamp + 12 hours. p_from_timestamp null: now(). p_timezone null: UTC.
--   Raises 22023 (invalid_parameter_value), with a message that names what is wrong, for an expression that is not
--   cron or can never fire, and for a time zone that Postgres does not know.
--
-- The language is Vixie cron's as Debian ships it (crontab(5)):
--   minute hour day-of-month month day-of-week, or @hourly @daily @midnight @weekly @monthly @yearly @annually
--   a field is a list of *, n, n-m, each of the ranges with /step; n/step means from n to the field's end
--   JAN-DEC and SUN-SAT in any case; Sunday is 0 and 7
--   day-of-month and day-of-week both restricted: either is enough. A field that begins with * is not
--   restricted in this sense (*/2 too): then both must match.
--
-- Daylight saving, by the rule of Debian's cron:
--   * fixed times (neither minute nor hour begins with *): a time that the clock skips runs at the first instant
--     after the gap; a time that the clock shows twice runs the first time only.
--   * wildcard times (minute or hour begins with *): whatever the clock on the wall shows, when it shows it;
--     nothing in a gap, both passes of a repeated hour.
--
-- Dashboards preview schedules, so signed-in users may call fn_calculate_next_wake and what it calls.

-- Parsing ------------------------------------------------------------------------------------------------------

do $$
begin
  if to_regtype('mqtt_private.cron_schedule') is null then
    create type mqtt_private.cron_schedule as (
      minutes int[],       -- 0-59, ascending, as the other four
      hours int[],         -- 0-23
      month_days int[],    -- 1-31
      months int[],        -- 1-12
      weekdays int[],      -- 0-6, Sunday is 0
      either_day boolean,  -- day of month OR day of week is enough
      wildcard boolean     -- minute or hour begins with *
    );
  end if;
end
$$;

create or replace function mqtt_private.fn_raise_cron_fault(p_expression text, p_problem text) returns void
language plpgsql stable parallel safe set search_path = '' as $$
begin
  raise exception 'cron "%": %',
    case when length(p_expression) > 100 then left(p_expression, 97) || '...' else p_expression end, p_problem
    using errcode = 'invalid_parameter_value', hint = 'Write minute, hour, day of month, month and day of week, '
      'for example "0 8,16 * * *" or "*/30 6-20 * * MON-FRI".';
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_raise_cron_fault', 'authenticated', 'service_role');

-- One number or name of field p_field (1 minute .. 5 day of week).
create or replace function mqtt_private.fn_parse_cron_number(p_expression text, p_field int, p_text text) returns int
language plpgsql stable parallel safe set search_path = '' as $$
declare
  c_names constant text[] := array['minute', 'hour', 'day of month', 'month', 'day of week'];
  c_first constant int[] := array[0, 0, 1, 1, 0];
  c_last constant int[] := array[59, 23, 31, 12, 7];
  c_kinds constant text[] := '{a number,a number,a number,a number or JAN to DEC,a number or SUN to SAT}';
  v_named int;
begin
  v_named := case p_field
    when 4 then array_position('{JAN,FEB,MAR,APR,MAY,JUN,JUL,AUG,SEP,OCT,NOV,DEC}', upper(p_text))
    when 5 then array_position('{SUN,MON,TUE,WED,THU,FRI,SAT}', upper(p_text)) - 1
  end;
  if v_named is not null then
    return v_named;
  elsif p_text !~ '^[0-9]+$' then
    perform mqtt_private.fn_raise_cron_fault(p_expression, format('%s "%s" is not %s',
      c_names[p_field], left(p_text, 40), c_kinds[p_field]));
  elsif p_text::numeric not between c_first[p_field] and c_last[p_field] then
    perform mqtt_private.fn_raise_cron_fault(p_expression, format('%s %s is not between %s and %s',
      c_names[p_field], left(p_text, 40), c_first[p_field], c_last[p_field]));
  end if;
  return p_text::int;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_parse_cron_number', 'authenticated', 'service_role');

-- The values that one whole field allows, ascending.
create or replace function mqtt_private.fn_parse_cron_field(p_expression text, p_field int, p_text text) returns int[]
language plpgsql stable parallel safe set search_path = '' as $$
declare
  c_names constant text[] := array['minute', 'hour', 'day of month', 'month', 'day of week'];
  c_first constant int[] := array[0, 0, 1, 1, 0];
  c_last constant int[] := array[59, 23, 31, 12, 6];  -- a step does not reach Sunday's second number, 7
  c_samples constant text[] := array[
    '0, 10-50 or */15', '8, 6-20 or */6', '1, 10-20 or 1,15', '3, 6-8 or JAN', '1, MON-FRI or 0,6'];
  v_item text;
  v_parts text[];
  v_step numeric;
  v_low int;
  v_high int;
  v_values int[] := '{}';
begin
  foreach v_item in array string_to_array(p_text, ',') loop
    v_parts := regexp_match(v_item, '^(?:(\*)|([^-/*]+)(?:-([^-/*]+))?)(?:/([0-9]+))?$');
    if v_parts is null then
      perform mqtt_private.fn_raise_cron_fault(p_expression, format(
        '%s "%s" is not a number, a range, a step or a list of them; write for example %s',
        c_names[p_field], left(p_text, 40), c_samples[p_field]));
    end if;
    v_step := v_parts[4];
    if v_step = 0 then
      perform mqtt_private.fn_raise_cron_fault(p_expression, format(
        '%s "%s" has step 0; a step is 1 or more, for example */5', c_names[p_field], left(v_item, 40)));
    end if;
    v_low := case when v_parts[1] is not null then c_first[p_field]
      else mqtt_private.fn_parse_cron_number(p_expression, p_field, v_parts[2]) end;
    v_high := case
      when v_parts[3] is not null then mqtt_private.fn_parse_cron_number(p_expression, p_field, v_parts[3])
      when v_parts[1] is not null or v_step is not null then greatest(v_low, c_last[p_field])
      else v_low end;
    if v_high < v_low then
      perform mqtt_private.fn_raise_cron_fault(p_expression, format('%s %s runs backwards; write %s%s-%s',
        c_names[p_field], v_item,
        case when v_low <= c_last[p_field] then format('%s-%s,', v_parts[2], c_last[p_field]) else '' end,
        c_first[p_field], v_parts[3]));
    end if;
    v_values := v_values || array(select generate_series(v_low, v_high, least(coalesce(v_step, 1), 60)::int));
  end loop;
  return array(
    select distinct case when p_field = 5 then v_value % 7 else v_value end as allowed
    from unnest(v_values) as v_value
    order by allowed
  );
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_parse_cron_field', 'authenticated', 'service_role');

-- Reads a whole expression; see the head of this file.
create or replace function mqtt_private.fn_parse_cron(p_expression text) returns mqtt_private.cron_schedule
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_text text := regexp_replace(p_expression, '^\s+|\s+$', '', 'g');
  v_fields text[];
  v_schedule mqtt_private.cron_schedule;
begin
  v_fields := regexp_split_to_array(case lower(v_text)
    when '@hourly' then '0 * * * *'
    when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *'
    when '@weekly' then '0 0 * * 0'
    when '@monthly' then '0 0 1 * *'
    when '@yearly' then '0 0 1 1 *' when '@annually' then '0 0 1 1 *'
    else v_text
  end, '\s+');
  if v_text like '@%' and cardinality(v_fields) <> 5 then
    perform mqtt_private.fn_raise_cron_fault(p_expression,
      'not one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually');
  elsif cardinality(v_fields) <> 5 then
    perform mqtt_private.fn_raise_cron_fault(p_expression, format('%s field%s where five are needed',
      cardinality(v_fields), case when cardinality(v_fields) = 1 then '' else 's' end));
  end if;
  v_schedule.minutes := mqtt_private.fn_parse_cron_field(p_expression, 1, v_fields[1]);
  v_schedule.hours := mqtt_private.fn_parse_cron_field(p_expression, 2, v_fields[2]);
  v_schedule.month_days := mqtt_private.fn_parse_cron_field(p_expression, 3, v_fields[3]);
  v_schedule.months := mqtt_private.fn_parse_cron_field(p_expression, 4, v_fields[4]);
  v_schedule.weekdays := mqtt_private.fn_parse_cron_field(p_expression, 5, v_fields[5]);
  v_schedule.either_day := v_fields[3] not like '*%' and v_fields[5] not like '*%';
  v_schedule.wildcard := v_fields[1] like '*%' or v_fields[2] like '*%';
  if not v_schedule.either_day and not exists (
    select from unnest(v_schedule.months) as v_month
    where v_schedule.month_days[1] <= (array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[v_month]
  ) then
    perform mqtt_private.fn_raise_cron_fault(p_expression, format('can never fire: month %s never has a day %s',
      v_fields[4], v_schedule.month_days[1]));
  end if;
  return v_schedule;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_parse_cron', 'authenticated', 'service_role');

-- The calendar, without time zones -----------------------------------------------------------------------------

-- The first day of the schedule on or after p_day. Walks months, and days within the months that are allowed.
create or replace function mqtt_private.fn_next_cron_day(p_schedule mqtt_private.cron_schedule, p_day date) returns date
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_month date := date_trunc('month', p_day::timestamp)::date;
  v_next date;
  v_skip int := p_day - v_month;  -- days of the first month that are over
  v_weekday int;                  -- of the month's first day
  v_on_date boolean;
  v_on_weekday boolean;
begin
  for v_count in 0 .. 41 * 12 loop  -- 29 February on a given weekday: 40 years at most, over 2100
    v_next := (v_month + interval '1 month')::date;
    if extract(month from v_month) = any (p_schedule.months) then
      v_weekday := extract(dow from v_month);
      for v_index in v_skip .. v_next - v_month - 1 loop
        v_on_date := v_index + 1 = any (p_schedule.month_days);
        v_on_weekday := (v_weekday + v_index) % 7 = any (p_schedule.weekdays);
        if (v_on_date and v_on_weekday) or (p_schedule.either_day and (v_on_date or v_on_weekday)) then
          return v_month + v_index;
        end if;
      end loop;
    end if;
    v_month := v_next;
    v_skip := 0;
  end loop;
  raise exception 'no day of this schedule from % on', p_day;  -- fn_parse_cron refuses such schedules
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_cron_day', 'authenticated', 'service_role');

-- The first time of the schedule at or after p_wall, on the wall clock.
create or replace function mqtt_private.fn_next_cron_time(p_schedule mqtt_private.cron_schedule, p_wall timestamp)
returns timestamp
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_start timestamp := date_trunc('minute', p_wall);
  v_day date;
  v_hour int;
  v_minute int;
begin
  if v_start < p_wall then
    v_start := v_start + interval '1 minute';
  end if;
  v_day := mqtt_private.fn_next_cron_day(p_schedule, v_start::date);
  if v_day = v_start::date then
    foreach v_hour in array p_schedule.hours loop
      continue when v_hour < extract(hour from v_start);
      foreach v_minute in array p_schedule.minutes loop
        if v_hour > extract(hour from v_start) or v_minute >= extract(minute from v_start) then
          return v_day + make_time(v_hour, v_minute, 0);
        end if;
      end loop;
    end loop;
    v_day := mqtt_private.fn_next_cron_day(p_schedule, v_day + 1);
  end if;
  return v_day + make_time(p_schedule.hours[1], p_schedule.minutes[1], 0);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_cron_time', 'authenticated', 'service_role');

-- Time zones ---------------------------------------------------------------------------------------------------
-- Instants are timestamps in UTC here: their arithmetic does not depend on the session's zone. The rules of time zones
-- change with the server's tz database, so nothing here is immutable.

-- The name of an IANA zone in a spelling that "at time zone" reads as that zone. Postgres looks for abbreviations
-- first, so four IANA names would lose their daylight saving; and it takes "UTC+2" for POSIX, two hours WEST.
create or replace function mqtt_private.fn_resolve_time_zone(p_timezone text) returns text
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_zone text := coalesce(p_timezone, 'UTC');
begin
  if (v_zone ~ '[0-9,<>]' and v_zone !~* '^(Etc/GMT[+-]?[0-9]{1,2}|GMT[+-]?0|EST5EDT|CST6CDT|MST7MDT|PST8PDT)$')
    or (v_zone !~ '/'
      and upper(v_zone) not in ('UTC', 'UCT', 'GMT', 'ZULU', 'CET', 'MET', 'EET', 'WET', 'EST', 'MST', 'HST')
      and exists (select from pg_catalog.pg_timezone_abbrevs where abbrev = upper(v_zone)))
  then
    raise exception 'time zone "%" is not the name of a region', left(v_zone, 100)
      using errcode = 'invalid_parameter_value',
        hint = 'Write an IANA name, for example "Europe/Berlin", "America/New_York" or "UTC".';
  end if;
  return case upper(v_zone)  -- the tz database links these four like this (2024b)
    when 'CET' then 'Europe/Brussels' when 'MET' then 'Europe/Brussels'
    when 'EET' then 'Europe/Athens' when 'WET' then 'Europe/Lisbon'
    else v_zone end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_resolve_time_zone', 'authenticated', 'service_role');

-- What the wall clock shows at this instant.
create or replace function mqtt_private.fn_wall_clock(p_utc timestamp, p_zone text) returns timestamp
language sql stable parallel safe set search_path = '' as $$ select p_utc at time zone 'UTC' at time zone p_zone $$;
call mqtt_private.grant_execute('mqtt_private.fn_wall_clock', 'authenticated', 'service_role');

-- The instant in (p_from, p_to] at which the zone's offset changes; null where both ends have the same.
create or replace function mqtt_private.fn_find_offset_change(p_from timestamp, p_to timestamp, p_zone text)
returns timestamp
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_from timestamp := date_trunc('second', p_from);  -- offsets change at whole seconds
  v_offset interval := mqtt_private.fn_wall_clock(p_from, p_zone) - p_from;
  v_before int := 0;  -- seconds after v_from
  v_after int := floor(extract(epoch from p_to - v_from));
  v_middle int;
begin
  if mqtt_private.fn_wall_clock(p_to, p_zone) - p_to = v_offset then return null; end if;
  while v_after - v_before > 1 loop
    v_middle := (v_before + v_after) / 2;
    if mqtt_private.fn_wall_clock(v_from + make_interval(secs => v_middle), p_zone)
      - (v_from + make_interval(secs => v_middle)) = v_offset
    then
      v_before := v_middle;
    else
      v_after := v_middle;
    end if;
  end loop;
  return v_from + make_interval(secs => v_after);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_offset_change', 'authenticated', 'service_role');

-- The instant at which a wall clock first shows p_wall; for a time that it skips, the instant right after the gap.
create or replace function mqtt_private.fn_find_instant(p_wall timestamp, p_zone text) returns timestamp
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_late timestamp := p_wall at time zone p_zone at time zone 'UTC';  -- Postgres takes the second showing
  v_day_before timestamp := v_late - interval '24 hours';
  v_early timestamp := p_wall - (mqtt_private.fn_wall_clock(v_day_before, p_zone) - v_day_before);
begin
  if mqtt_private.fn_wall_clock(v_early, p_zone) = p_wall then
    return least(v_early, v_late);
  elsif mqtt_private.fn_wall_clock(v_late, p_zone) = p_wall then
    return v_late;
  end if;
  return mqtt_private.fn_find_offset_change(v_day_before, v_late, p_zone);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_find_instant', 'authenticated', 'service_role');

-- The two rules for daylight saving ----------------------------------------------------------------------------

create or replace function mqtt_private.fn_next_fixed_run(
  p_schedule mqtt_private.cron_schedule, p_utc timestamp, p_zone text) returns timestamp
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_wall timestamp := mqtt_private.fn_wall_clock(p_utc, p_zone);
  v_run timestamp := p_utc;
begin
  while v_run <= p_utc loop  -- more than once only in a repeated hour, whose times have run
    v_wall := mqtt_private.fn_next_cron_time(p_schedule, date_trunc('minute', v_wall) + interval '1 minute');
    v_run := mqtt_private.fn_find_instant(v_wall, p_zone);
  end loop;
  return v_run;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_fixed_run', 'authenticated', 'service_role');

-- Follows real time. As long as the zone's offset holds, the next time on the wall clock is the next run; where the
-- offset changes first, the search goes on from there. Only the two days after v_at can hold a time that the calendar
-- says is over (the clock goes back by a day at most), and only the last two days decide about the run.
create or replace function mqtt_private.fn_next_wildcard_run(
  p_schedule mqtt_private.cron_schedule, p_utc timestamp, p_zone text) returns timestamp
language plpgsql stable parallel safe set search_path = '' as $$
declare
  c_window constant interval := interval '48 hours';
  v_at timestamp := p_utc;
  v_wall timestamp := mqtt_private.fn_wall_clock(p_utc, p_zone);
  v_start timestamp := date_trunc('minute', v_wall) + interval '1 minute';
  v_run timestamp;
  v_change timestamp;
begin
  loop
    v_run := v_at + (mqtt_private.fn_next_cron_time(p_schedule, v_start) - v_wall);
    v_change := mqtt_private.fn_find_offset_change(v_at, least(v_run, v_at + c_window), p_zone);
    exit when v_change is null and v_run <= v_at + c_window;
    v_at := coalesce(v_change, v_run - c_window);
    v_wall := mqtt_private.fn_wall_clock(v_at, p_zone);
    v_start := v_wall;
  end loop;
  return v_run;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_wildcard_run', 'authenticated', 'service_role');

-- The next run of a schedule -----------------------------------------------------------------------------------

-- An adopted project may have a function of this name with other parameters, which would answer some of the calls.
do $$
declare
  v_old regprocedure;
begin
  for v_old in
    select p.oid from pg_catalog.pg_proc as p
    where p.pronamespace = 'public'::regnamespace and p.proname = 'fn_calculate_next_wake'
      and (p.proargnames is distinct from array['p_cron_expression', 'p_from_timestamp', 'p_timezone']
        or oidvectortypes(p.proargtypes) <> 'text, timestamp with time zone, text'
        or p.prorettype <> 'timestamptz'::regtype or p.proretset)
  loop
    raise notice 'replacing the older %', v_old;
    execute format('drop routine %s', v_old);
  end loop;
end
$$;

create or replace function public.fn_calculate_next_wake(
  p_cron_expression text, p_from_timestamp timestamptz, p_timezone text default 'UTC') returns timestamptz
language plpgsql stable parallel safe security invoker set search_path = '' as $$
declare
  v_from timestamptz := coalesce(p_from_timestamp, now());
  v_utc timestamp := v_from at time zone 'UTC';
  v_zone text;
  v_schedule mqtt_private.cron_schedule;
begin
  if not isfinite(v_from) then
    raise exception 'p_from_timestamp is %: there is no next run from there', v_from
      using errcode = 'invalid_parameter_value', hint = 'Pass a finite instant, for example now().';
  elsif coalesce(p_cron_expression, '') !~ '\S' then
    return (v_utc + interval '12 hours') at time zone 'UTC';
  end if;
  v_zone := mqtt_private.fn_resolve_time_zone(p_timezone);
  v_schedule := mqtt_private.fn_parse_cron(p_cron_expression);
  return case
    when v_schedule.wildcard then mqtt_private.fn_next_wildcard_run(v_schedule, v_utc, v_zone)
    else mqtt_private.fn_next_fixed_run(v_schedule, v_utc, v_zone)
  end at time zone 'UTC';
end
$$;
call mqtt_private.grant_execute(
  'public.fn_calculate_next_wake(text, timestamptz, text)', 'authenticated', 'service_role');

comment on function public.fn_calculate_next_wake(text, timestamptz, text) is
  'First run strictly after p_from_timestamp of a five-field cron schedule in an IANA time zone. '
  'No schedule: 12 hours later. Raises 22023 for nonsense.';

-- The next wake of a device ------------------------------------------------------------------------------------

-- A device's own schedule takes precedence over its site's; where neither has one, it is 8 and 16 o'clock. A schedule
-- that does not parse gives 12 hours from now, and fault says why.
create or replace function mqtt_private.fn_next_wake_of_device(
  p_device_id uuid, p_now timestamptz, out cron text, out timezone text, out next_wake_at timestamptz, out fault text)
language plpgsql stable set search_path = public, extensions as $$
begin
  select coalesce(nullif(trim(d.wake_schedule_cron), ''), nullif(trim(s.wake_schedule_cron), ''), '0 8,16 * * *'),
    coalesce(nullif(trim(s.timezone), ''), 'UTC')
  into cron, timezone
  from public.devices d left join public.sites s on s.site_id = d.site_id
  where d.device_id = p_device_id;
  next_wake_at := public.fn_calculate_next_wake(cron, p_now, timezone);
exception when others then
  next_wake_at := p_now + interval '12 hours';
  fault := sqlerrm;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_wake_of_device', 'service_role');

-- When a device with this id on MQTT is to come back, whether or not it is known.
create or replace function mqtt_private.fn_next_wake_for_topic_id(p_topic_id text, p_now timestamptz)
returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
  v_device_id constant uuid := mqtt_private.fn_find_device(p_topic_id);
begin
  return case when v_device_id is null then public.fn_calculate_next_wake('0 8,16 * * *', p_now, 'UTC')
    else (mqtt_private.fn_next_wake_of_device(v_device_id, p_now)).next_wake_at end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_wake_for_topic_id', 'service_role');

-- When a device that gets this set_wake_schedule now wakes next; fault says why that cannot be worked out.
create or replace function mqtt_private.fn_next_wake_of_command(
  p_payload jsonb, p_now timestamptz, p_timezone text, out next_wake_at timestamptz, out fault text)
language plpgsql stable set search_path = '' as $$
declare
  v_cron constant text := coalesce(nullif(trim(p_payload ->> 'wake_schedule_cron'), ''), p_payload ->> 'cron');
begin
  if nullif(trim(v_cron), '') is not null then
    next_wake_at := public.fn_calculate_next_wake(v_cron, p_now, coalesce(p_timezone, 'UTC'));
  else
    next_wake_at := (p_payload ->> 'next_wake_time')::timestamptz;
  end if;
  if next_wake_at is null or not isfinite(next_wake_at) then
    fault := 'set_wake_schedule names no time: write next_wake_time or wake_schedule_cron into command_payload';
  end if;
exception when others then
  fault := 'set_wake_schedule cannot be worked out: ' || sqlerrm;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_next_wake_of_command', 'service_role');
