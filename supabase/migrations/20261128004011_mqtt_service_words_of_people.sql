-- Schedules as people write them: what is plain is taken, the rest refused with what was probably meant.
--
-- Taken: blanks, invisible characters and one pair of quotes around a schedule; blanks around its commas; SUN as the end
-- of a range of days (SAT-SUN is 6-7).
-- Refused with a guess in the message (the hint is lost where a message becomes last_error, or an event): fields of
-- Quartz, Spring and EventBridge, @every, a time of day, whole names of days and months.
--
-- Bounds. Any signed-in user may ask fn_calculate_next_wake, so text is measured before it is read: 400 characters of a
-- schedule (every value of every field, written out, has 357), and 60 items of a list (no field has more values). A date
-- that never comes is refused before the calendar is walked; any other comes within 41 years, of which only the months
-- that the schedule names are read.

-- The text without what is not seen: white space is one blank each, and none around it, nor a pair of quotes.
create or replace function mqtt_private.fn_tidy_text(p_text text) returns text
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_text text := btrim(regexp_replace(regexp_replace(p_text, '[\u200b-\u200d\u2060\ufeff]', '', 'g'),
    '[\s\u00a0\u2000-\u200a\u202f\u3000]+', ' ', 'g'));
begin
  if v_text ~ '^("[^"]*"|''[^'']*''|`[^`]*`|\u201c[^\u201c\u201d]*\u201d)$' then
    return btrim(substr(v_text, 2, length(v_text) - 2));
  end if;
  return v_text;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_tidy_text', 'authenticated', 'service_role');

-- Guesses at a schedule ----------------------------------------------------------------------------------------
-- Each returns the end of a sentence, or null where it has no guess.

-- A time of day: 17:30, 5:30PM, 8 am.
create or replace function mqtt_private.fn_guess_cron_of_time(p_text text) returns text
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_parts constant text[] := regexp_match(lower(p_text), '^([0-9]{1,2})(?::([0-9]{2}))?(?::[0-9]{2})? ?([ap]m)?$');
  v_hour int := v_parts[1];
  v_minute constant int := coalesce(v_parts[2], '0');
begin
  if v_parts is null or (v_parts[2] is null and v_parts[3] is null) then
    return null;
  elsif v_parts[3] is not null then
    v_hour := case when v_hour between 1 and 12 then v_hour % 12 + case v_parts[3] when 'pm' then 12 else 0 end end;
  end if;
  return case when v_hour <= 23 and v_minute <= 59
    then format('did you mean "%s %s * * *"? Cron writes the minute first', v_minute, v_hour) end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guess_cron_of_time', 'authenticated', 'service_role');

-- @every of Go's cron library: an interval. Cron can say those that divide an hour or a day.
create or replace function mqtt_private.fn_guess_cron_of_interval(p_text text) returns text
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_parts constant text[] := regexp_match(lower(p_text), '^@every ([0-9]{1,4})(m|h)(?:0[ms])*$');
  v_minutes constant int := v_parts[1]::int * case v_parts[2] when 'h' then 60 else 1 end;
begin
  return case
    when v_minutes = 0 then null
    when v_minutes = 1440 then 'did you mean "0 0 * * *"?'
    when v_minutes = 60 then 'did you mean "0 * * * *"?'
    when v_minutes < 60 and 60 % v_minutes = 0 then format('did you mean "*/%s * * * *"?', v_minutes)
    when v_minutes % 60 = 0 and v_minutes < 1440 and 1440 % v_minutes = 0
      then format('did you mean "0 */%s * * *"?', v_minutes / 60)
  end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guess_cron_of_interval', 'authenticated', 'service_role');

-- Six or seven fields, and ?.
--   Quartz:       second minute hour day-of-month month day-of-week [year], one of the days is ?, Sunday is 1
--   Spring:       the same six; needs no ?, Sunday is 0 and 7
--   EventBridge:  minute hour day-of-month month day-of-week year, one of the days is ?, Sunday is 1
create or replace function mqtt_private.fn_guess_cron_of_fields(p_text text) returns text
language plpgsql stable parallel safe set search_path = '' as $$
declare
  c_days constant text[] := array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT'];
  v_fields text[] := string_to_array(p_text, ' ');
  v_count constant int := cardinality(v_fields);
  v_year_last constant boolean := v_count = 6
    and ('?' in (v_fields[3], v_fields[5]) or '?' not in (v_fields[4], v_fields[6]) and v_fields[6] ~ '^[0-9]{4}');
  v_why text := '';
begin
  if v_count not between 5 and 7
    or v_count = 5 and '?' not in (v_fields[3], v_fields[5]) and v_fields[3] !~ '[LW]' and v_fields[5] !~ '[L#]'
  then
    return null;
  elsif v_year_last then
    v_fields := v_fields[1:5];
    v_why := ' Cron has no field for the year';
  elsif v_count > 5 then
    if v_fields[1] <> '0' then
      return 'the first field looks like seconds, as Quartz and Spring have them; cron has none';
    end if;
    v_fields := v_fields[2:6];
    v_why := ' Quartz and Spring write seconds first; cron has none';
  end if;
  if v_fields[3] ~ '[LW]' or v_fields[5] ~ '[L#]' then
    return 'L, W and # are Quartz''s; cron has nothing like them';
  elsif '?' in (v_fields[3], v_fields[5]) and v_fields[5] ~ '[0-9]' then
    if v_fields[5] !~ '^[1-7](-[1-7])?(,[1-7](-[1-7])?)*$' then
      return 'Quartz counts days from 1, Sunday; write names, for example MON-FRI, and * for ?';
    end if;
    for v_day in 1 .. 7 loop
      v_fields[5] := replace(v_fields[5], v_day::text, c_days[v_day]);
    end loop;
  end if;
  return format('did you mean "%s"?%s', replace(array_to_string(v_fields, ' '), '?', '*'), v_why);
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guess_cron_of_fields', 'authenticated', 'service_role');

-- Parsing ------------------------------------------------------------------------------------------------------

create or replace function mqtt_private.fn_raise_cron_fault(p_expression text, p_problem text) returns void
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_text constant text := regexp_replace(mqtt_private.fn_tidy_text(left(p_expression, 400)), ' ?, ?', ',', 'g');
begin
  raise exception 'cron "%": %',
    case when length(p_expression) > 100 then left(p_expression, 97) || '...' else p_expression end,
    concat_ws('; ', p_problem, coalesce(mqtt_private.fn_guess_cron_of_time(v_text),
      mqtt_private.fn_guess_cron_of_interval(v_text), mqtt_private.fn_guess_cron_of_fields(v_text)))
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
  c_whole constant text := 'JANUARY FEBRUARY MARCH APRIL JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER '
    'SUNDAY MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY';
  v_named int;
begin
  v_named := case p_field
    when 4 then array_position('{JAN,FEB,MAR,APR,MAY,JUN,JUL,AUG,SEP,OCT,NOV,DEC}', upper(p_text))
    when 5 then array_position('{SUN,MON,TUE,WED,THU,FRI,SAT}', upper(p_text)) - 1
  end;
  if v_named is not null then
    return v_named;
  elsif p_text !~ '^[0-9]+$' then
    perform mqtt_private.fn_raise_cron_fault(p_expression, format('%s "%s" is not %s%s',
      c_names[p_field], left(p_text, 40), c_kinds[p_field],
      case when p_field > 3 and length(p_text) > 3
        and exists (select from string_to_table(c_whole, ' ') as w (word) where starts_with(word, upper(p_text)))
        then '; did you mean ' || upper(left(p_text, 3)) || '?' end));
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
  v_items constant text[] := string_to_array(p_text, ',');
  v_item text;
  v_parts text[];
  v_step numeric;
  v_low int;
  v_high int;
  v_values int[] := '{}';
begin
  if cardinality(v_items) > 60 then
    perform mqtt_private.fn_raise_cron_fault(p_expression, format('%s is a list of %s, where at most 60 are read',
      c_names[p_field], cardinality(v_items)));
  end if;
  foreach v_item in array v_items loop
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
    if p_field = 5 and v_high < v_low and upper(v_parts[3]) = 'SUN' then
      v_high := 7;  -- the Sunday after
    end if;
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

-- Reads a whole expression; see the heads of this file and of …_wake_schedules.sql.
create or replace function mqtt_private.fn_parse_cron(p_expression text) returns mqtt_private.cron_schedule
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_text text;
  v_fields text[];
  v_schedule mqtt_private.cron_schedule;
begin
  if length(p_expression) > 400 then
    perform mqtt_private.fn_raise_cron_fault(p_expression,
      format('%s characters, where at most 400 are read', length(p_expression)));
  end if;
  v_text := regexp_replace(mqtt_private.fn_tidy_text(p_expression), ' ?, ?', ',', 'g');
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

-- Commands -----------------------------------------------------------------------------------------------------

-- Why a payload cannot be sent; null: it can. A payload that no worker can read would keep every other command of the
-- same claim from being sent. Its numbers come first: nine bytes, 1e131071, are 131 kB once they are written out.
create or replace function mqtt_private.fn_problem_of_payload(p_payload jsonb) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_bytes int;
begin
  if jsonb_typeof(p_payload) <> 'object' then
    return 'command_payload is not an object: write {} where a command has no parameters';
  elsif jsonb_path_exists(
    p_payload, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))', silent => true)
  then
    return 'command_payload holds a number beyond 1e308';
  end if;
  v_bytes := octet_length(p_payload::text);
  if v_bytes > 131072 then
    return format('command_payload has %s bytes, more than 131072', v_bytes);
  elsif jsonb_path_exists(p_payload, 'strict $.**{33}') then
    return 'command_payload is nested deeper than 32';
  end if;
  return null;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_problem_of_payload', 'authenticated', 'service_role');

create or replace function mqtt_private.fn_check_wake_schedule(p_payload jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_time jsonb := nullif(p_payload -> 'next_wake_time', 'null');
  v_cron jsonb := coalesce(nullif(p_payload -> 'wake_schedule_cron', 'null'), nullif(p_payload -> 'cron', 'null'));
  v_problem text;
begin
  if v_time is not null
    and (jsonb_typeof(v_time) <> 'string' or not mqtt_private.fn_is_timestamp(v_time #>> '{}'))
  then
    perform mqtt_private.fn_raise_check_violation(
      format('next_wake_time %s is not a time', left(v_time::text, 100)),
      'Write ISO 8601 with an offset, e.g. {"next_wake_time": "2025-11-20T16:00:00Z"}.');
  end if;
  if v_cron is not null then
    begin
      if jsonb_typeof(v_cron) <> 'string' or btrim(v_cron #>> '{}') = '' then
        v_problem := 'it is not a text with five fields';
      else
        perform public.fn_calculate_next_wake(v_cron #>> '{}', now(), 'UTC');
      end if;
    exception when data_exception or raise_exception or check_violation then
      v_problem := sqlerrm;
    end;
  end if;
  if v_problem is not null then
    perform mqtt_private.fn_raise_check_violation(
      format('wake_schedule_cron %s does not parse: %s', left(v_cron::text, 100), v_problem),
      'Write five-field cron, e.g. {"wake_schedule_cron": "0 8,16 * * *"}.');
  end if;
  if v_time is null and v_cron is null then
    perform mqtt_private.fn_raise_check_violation(
      'set_wake_schedule needs next_wake_time or wake_schedule_cron',
      'Write e.g. {"next_wake_time": "2025-11-20T16:00:00Z"} or {"wake_schedule_cron": "0 8,16 * * *"}.');
  end if;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_check_wake_schedule', 'authenticated', 'service_role');
