-- Reading a cron schedule, and walking its calendar. Time zones come in the migration after this one.
--
-- mqtt_private.fn_cron_parse(text) reads an expression once, into mqtt_private.cron_schedule, and raises 22023
-- (invalid_parameter_value) with the field, the fault and what to write for anything that is not cron or can never fire.
-- mqtt_private.fn_cron_wall(schedule, timestamp) is the first time of a schedule at or after a time on the wall clock.
--
-- The language is Vixie cron's as Debian ships it (crontab(5)):
--   minute hour day-of-month month day-of-week, or @hourly @daily @midnight @weekly @monthly @yearly @annually
--   a field is a list of *, n, n-m, each of the ranges with /step; n/step means from n to the field's end
--   JAN-DEC and SUN-SAT in any case; Sunday is 0 and 7
--   day-of-month and day-of-week both restricted: either is enough. A field that begins with * is not
--   restricted in this sense (*/2 too): then both must match.
--
-- The helpers run as whoever calls public.fn_calculate_next_wake, so its callers may execute them; their schema is
-- not exposed by the API.

create schema if not exists mqtt_private;
revoke all on schema mqtt_private from public;

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

-- Parsing ------------------------------------------------------------------------------------------------------

create or replace function mqtt_private.fn_cron_fault(p_expression text, p_problem text) returns void
language plpgsql stable parallel safe set search_path = ''
as $$
begin
  raise exception 'cron "%": %',
    case when length(p_expression) > 100 then left(p_expression, 97) || '...' else p_expression end, p_problem
    using errcode = 'invalid_parameter_value',
      hint = 'Write minute, hour, day of month, month and day of week, for example "0 8,16 * * *" or "*/30 6-20 * * MON-FRI".';
end
$$;

-- One number or name of field p_field (1 minute .. 5 day of week).
create or replace function mqtt_private.fn_cron_number(p_expression text, p_field int, p_text text) returns int
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  c_names constant text[] := array['minute', 'hour', 'day of month', 'month', 'day of week'];
  c_first constant int[] := array[0, 0, 1, 1, 0];
  c_last constant int[] := array[59, 23, 31, 12, 7];
  c_words constant text[] := array['a number', 'a number', 'a number', 'a number or JAN to DEC', 'a number or SUN to SAT'];
  v_named int;
begin
  v_named := case p_field
    when 4 then array_position(array['JAN','FEB','MAR','APR','MAY','JUN','JUL','AUG','SEP','OCT','NOV','DEC'], upper(p_text))
    when 5 then array_position(array['SUN','MON','TUE','WED','THU','FRI','SAT'], upper(p_text)) - 1
  end;
  if v_named is not null then
    return v_named;
  elsif p_text !~ '^[0-9]+$' then
    perform mqtt_private.fn_cron_fault(p_expression, format('%s "%s" is not %s',
      c_names[p_field], left(p_text, 40), c_words[p_field]));
  elsif p_text::numeric not between c_first[p_field] and c_last[p_field] then
    perform mqtt_private.fn_cron_fault(p_expression, format('%s %s is not between %s and %s',
      c_names[p_field], left(p_text, 40), c_first[p_field], c_last[p_field]));
  end if;
  return p_text::int;
end
$$;

-- The values that one whole field allows, ascending.
create or replace function mqtt_private.fn_cron_field(p_expression text, p_field int, p_text text) returns int[]
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  c_names constant text[] := array['minute', 'hour', 'day of month', 'month', 'day of week'];
  c_first constant int[] := array[0, 0, 1, 1, 0];
  c_last constant int[] := array[59, 23, 31, 12, 6];  -- Sunday's second number, 7, is no place for a step to reach
  c_samples constant text[] := array['0, 10-50 or */15', '8, 6-20 or */6', '1, 10-20 or 1,15', '3, 6-8 or JAN', '1, MON-FRI or 0,6'];
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
      perform mqtt_private.fn_cron_fault(p_expression, format('%s "%s" is not a number, a range, a step or a list of them; write for example %s',
        c_names[p_field], left(p_text, 40), c_samples[p_field]));
    end if;
    v_step := v_parts[4];
    if v_step = 0 then
      perform mqtt_private.fn_cron_fault(p_expression, format('%s "%s" has step 0; a step is 1 or more, for example */5',
        c_names[p_field], left(v_item, 40)));
    end if;
    if v_parts[1] is not null then
      v_low := c_first[p_field];
      v_high := c_last[p_field];
    else
      v_low := mqtt_private.fn_cron_number(p_expression, p_field, v_parts[2]);
      v_high := case
        when v_parts[3] is not null then mqtt_private.fn_cron_number(p_expression, p_field, v_parts[3])
        when v_step is not null then greatest(v_low, c_last[p_field])
        else v_low
      end;
    end if;
    if v_high < v_low then
      perform mqtt_private.fn_cron_fault(p_expression, format('%s %s runs backwards; write %s%s-%s',
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

create or replace function mqtt_private.fn_cron_parse(p_expression text) returns mqtt_private.cron_schedule
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  v_text text := regexp_replace(p_expression, '^\s+|\s+$', '', 'g');
  v_fields text[];
  v_schedule mqtt_private.cron_schedule;
begin
  v_fields := regexp_split_to_array(case lower(v_text)
    when '@hourly' then '0 * * * *'
    when '@daily' then '0 0 * * *'
    when '@midnight' then '0 0 * * *'
    when '@weekly' then '0 0 * * 0'
    when '@monthly' then '0 0 1 * *'
    when '@yearly' then '0 0 1 1 *'
    when '@annually' then '0 0 1 1 *'
    else v_text
  end, '\s+');
  if v_text like '@%' and cardinality(v_fields) <> 5 then
    perform mqtt_private.fn_cron_fault(p_expression,
      'not one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually');
  elsif cardinality(v_fields) <> 5 then
    perform mqtt_private.fn_cron_fault(p_expression, format('%s field%s where five are needed',
      cardinality(v_fields), case when cardinality(v_fields) = 1 then '' else 's' end));
  end if;
  v_schedule.minutes := mqtt_private.fn_cron_field(p_expression, 1, v_fields[1]);
  v_schedule.hours := mqtt_private.fn_cron_field(p_expression, 2, v_fields[2]);
  v_schedule.month_days := mqtt_private.fn_cron_field(p_expression, 3, v_fields[3]);
  v_schedule.months := mqtt_private.fn_cron_field(p_expression, 4, v_fields[4]);
  v_schedule.weekdays := mqtt_private.fn_cron_field(p_expression, 5, v_fields[5]);
  v_schedule.either_day := v_fields[3] not like '*%' and v_fields[5] not like '*%';
  v_schedule.wildcard := v_fields[1] like '*%' or v_fields[2] like '*%';
  if not v_schedule.either_day and not exists (
    select from unnest(v_schedule.months) as v_month
    where v_schedule.month_days[1] <= (array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[v_month]
  ) then
    perform mqtt_private.fn_cron_fault(p_expression, format('can never fire: month %s never has a day %s',
      v_fields[4], v_schedule.month_days[1]));
  end if;
  return v_schedule;
end
$$;

-- The calendar, without time zones -----------------------------------------------------------------------------

-- The first day of the schedule on or after p_day. Walks months, and days within the months that are allowed.
create or replace function mqtt_private.fn_cron_day(p_schedule mqtt_private.cron_schedule, p_day date) returns date
language plpgsql stable parallel safe set search_path = ''
as $$
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
  raise exception 'no day of this schedule from % on', p_day;  -- fn_cron_parse refuses such schedules
end
$$;

-- The first time of the schedule on the wall clock at or after p_wall.
create or replace function mqtt_private.fn_cron_wall(p_schedule mqtt_private.cron_schedule, p_wall timestamp) returns timestamp
language plpgsql stable parallel safe set search_path = ''
as $$
declare
  v_start timestamp := date_trunc('minute', p_wall);
  v_day date;
  v_hour int;
  v_minute int;
begin
  if v_start < p_wall then
    v_start := v_start + interval '1 minute';
  end if;
  v_day := mqtt_private.fn_cron_day(p_schedule, v_start::date);
  if v_day = v_start::date then
    foreach v_hour in array p_schedule.hours loop
      continue when v_hour < extract(hour from v_start);
      foreach v_minute in array p_schedule.minutes loop
        if v_hour > extract(hour from v_start) or v_minute >= extract(minute from v_start) then
          return v_day + make_time(v_hour, v_minute, 0);
        end if;
      end loop;
    end loop;
    v_day := mqtt_private.fn_cron_day(p_schedule, v_day + 1);
  end if;
  return v_day + make_time(p_schedule.hours[1], p_schedule.minutes[1], 0);
end
$$;

grant usage on schema mqtt_private to authenticated, service_role;
do $$
declare
  v_function regprocedure;
begin
  foreach v_function in array array[
    'mqtt_private.fn_cron_fault(text, text)',
    'mqtt_private.fn_cron_number(text, int, text)',
    'mqtt_private.fn_cron_field(text, int, text)',
    'mqtt_private.fn_cron_parse(text)',
    'mqtt_private.fn_cron_day(mqtt_private.cron_schedule, date)',
    'mqtt_private.fn_cron_wall(mqtt_private.cron_schedule, timestamp)'
  ]::regprocedure[] loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to authenticated, service_role', v_function);
  end loop;
end
$$;
