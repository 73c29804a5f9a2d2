-- When a device wakes next: a cron schedule in an IANA time zone.
--
-- public.fn_calculate_next_wake(p_cron_expression text, p_from_timestamp timestamptz, p_timezone text default 'UTC')
--   returns the first run of the schedule strictly after p_from_timestamp.
--   Schedule null, empty or blank: p_from_timestamp + 12 hours. p_from_timestamp null: now(). p_timezone null: UTC.
--   Raises 22023 (invalid_parameter_value), with a message that names what is wrong, for an expression that is not
--   cron or can never fire (the language stands in 20251109000000_cron_schedules.sql), and for a time zone that
--   Postgres does not know.
--
-- Daylight saving, by the rule of Debian's cron:
--   * fixed times (neither minute nor hour begins with *): a time that the clock skips runs at the first instant
--     after the gap; a time that the clock shows twice runs the first time only.
--   * wildcard times (minute or hour begins with *): whatever the clock on the wall shows, when it shows it;
--     nothing in a gap, both passes of a repeated hour.
--
-- Time zone rules change with the server's tz database, so the function is stable, not immutable.

-- Time zones. Instants are timestamps in UTC here: their arithmetic does not depend on the session's zone. ------

-- The name of an IANA zone in a spelling that "at time zone" reads as that zone. Postgres looks for abbreviations
-- first, so four IANA names would lose their daylight saving; and it takes "UTC+2" for POSIX, two hours WEST.
create or replace function mqtt_private.fn_cron_zone(p_timezone text) returns text
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  v_zone text := coalesce(p_timezone, 'UTC');
begin
  if (v_zone ~ '[0-9,<>]' and v_zone !~* '^(Etc/GMT[+-]?[0-9]{1,2}|GMT[+-]?0|EST5EDT|CST6CDT|MST7MDT|PST8PDT)$')
    or (v_zone !~ '/' and upper(v_zone) not in ('UTC', 'UCT', 'GMT', 'ZULU', 'CET', 'MET', 'EET', 'WET', 'EST', 'MST', 'HST')
      and exists (select from pg_catalog.pg_timezone_abbrevs where abbrev = upper(v_zone)))
  then
    raise exception 'time zone "%" is not the name of a region', left(v_zone, 100)
      using errcode = 'invalid_parameter_value',
        hint = 'Write an IANA name, for example "Europe/Berlin", "America/New_York" or "UTC".';
  end if;
  return case upper(v_zone)  -- the tz database links these four like this (2024b)
    when 'CET' then 'Europe/Brussels'
    when 'MET' then 'Europe/Brussels'
    when 'EET' then 'Europe/Athens'
    when 'WET' then 'Europe/Lisbon'
    else v_zone
  end;
end
$$;

create or replace function mqtt_private.fn_zone_wall(p_utc timestamp, p_zone text) returns timestamp
language sql stable parallel safe set search_path = ''
as $$
  select p_utc at time zone 'UTC' at time zone p_zone
$$;

-- The instant in (p_from, p_to] at which the zone's offset changes, null where both ends have the same.
create or replace function mqtt_private.fn_zone_change(p_from timestamp, p_to timestamp, p_zone text) returns timestamp
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  v_from timestamp := date_trunc('second', p_from);  -- offsets change at whole seconds
  v_offset interval := mqtt_private.fn_zone_wall(p_from, p_zone) - p_from;
  v_before int := 0;  -- seconds after v_from
  v_after int := floor(extract(epoch from p_to - v_from));
  v_middle int;
begin
  if mqtt_private.fn_zone_wall(p_to, p_zone) - p_to = v_offset then
    return null;
  end if;
  while v_after - v_before > 1 loop
    v_middle := (v_before + v_after) / 2;
    if mqtt_private.fn_zone_wall(v_from + make_interval(secs => v_middle), p_zone)
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

-- The instant at which a wall clock first shows p_wall; for a time that it skips, the instant right after the gap.
create or replace function mqtt_private.fn_zone_instant(p_wall timestamp, p_zone text) returns timestamp
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  v_late timestamp := p_wall at time zone p_zone at time zone 'UTC';  -- Postgres takes the second showing
  v_day_before timestamp := v_late - interval '24 hours';
  v_early timestamp := p_wall - (mqtt_private.fn_zone_wall(v_day_before, p_zone) - v_day_before);
begin
  if mqtt_private.fn_zone_wall(v_early, p_zone) = p_wall then
    return least(v_early, v_late);
  elsif mqtt_private.fn_zone_wall(v_late, p_zone) = p_wall then
    return v_late;
  end if;
  return mqtt_private.fn_zone_change(v_day_before, v_late, p_zone);
end
$$;

-- The two rules for daylight saving ------------------------------------------------------------------------------

create or replace function mqtt_private.fn_cron_next_fixed(p_schedule mqtt_private.cron_schedule, p_utc timestamp, p_zone text) returns timestamp
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  v_wall timestamp := mqtt_private.fn_zone_wall(p_utc, p_zone);
  v_run timestamp := p_utc;
begin
  while v_run <= p_utc loop  -- more than once only in a repeated hour, whose times have run
    v_wall := mqtt_private.fn_cron_wall(p_schedule, date_trunc('minute', v_wall) + interval '1 minute');
    v_run := mqtt_private.fn_zone_instant(v_wall, p_zone);
  end loop;
  return v_run;
end
$$;

-- Goes along real time. As long as the zone's offset holds, the next time on the wall clock is the next run; where
-- the offset changes first, the search goes on from there. Only the two days after v_at can hold a time that the
-- calendar says is over (the clock goes back by a day at most), and only the last two days decide about the run.
create or replace function mqtt_private.fn_cron_next_wildcard(p_schedule mqtt_private.cron_schedule, p_utc timestamp, p_zone text) returns timestamp
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  c_window constant interval := interval '48 hours';
  v_at timestamp := p_utc;
  v_wall timestamp := mqtt_private.fn_zone_wall(p_utc, p_zone);
  v_start timestamp := date_trunc('minute', v_wall) + interval '1 minute';
  v_run timestamp;
  v_change timestamp;
begin
  loop
    v_run := v_at + (mqtt_private.fn_cron_wall(p_schedule, v_start) - v_wall);
    v_change := mqtt_private.fn_zone_change(v_at, least(v_run, v_at + c_window), p_zone);
    exit when v_change is null and v_run <= v_at + c_window;
    v_at := coalesce(v_change, v_run - c_window);
    v_wall := mqtt_private.fn_zone_wall(v_at, p_zone);
    v_start := v_wall;
  end loop;
  return v_run;
end
$$;

-- An adopted database may have an older function of this name: another overload would answer some of the calls.
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
  p_cron_expression text,
  p_from_timestamp timestamptz,
  p_timezone text default 'UTC'
) returns timestamptz
language plpgsql stable parallel safe security invoker set search_path = ''
as $$
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
  v_zone := mqtt_private.fn_cron_zone(p_timezone);
  v_schedule := mqtt_private.fn_cron_parse(p_cron_expression);
  return case
    when v_schedule.wildcard then mqtt_private.fn_cron_next_wildcard(v_schedule, v_utc, v_zone)
    else mqtt_private.fn_cron_next_fixed(v_schedule, v_utc, v_zone)
  end at time zone 'UTC';
end
$$;

comment on function public.fn_calculate_next_wake(text, timestamptz, text) is
  'First run strictly after p_from_timestamp of a five-field cron schedule in an IANA time zone. No schedule: 12 hours later. Raises 22023 for nonsense.';

-- Dashboards preview schedules, so signed-in users may call it; it reads no table.

grant usage on schema mqtt_private to authenticated, service_role;
do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_cron_zone(text)',
    'mqtt_private.fn_zone_wall(timestamp, text)',
    'mqtt_private.fn_zone_change(timestamp, timestamp, text)',
    'mqtt_private.fn_zone_instant(timestamp, text)',
    'mqtt_private.fn_cron_next_fixed(mqtt_private.cron_schedule, timestamp, text)',
    'mqtt_private.fn_cron_next_wildcard(mqtt_private.cron_schedule, timestamp, text)',
    'public.fn_calculate_next_wake(text, timestamptz, text)'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to authenticated, service_role', v_function);
  end loop;
end
$$;
