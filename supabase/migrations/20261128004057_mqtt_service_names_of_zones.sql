-- Time zones as people write them: IANA names are taken, the rest refused with the IANA name that was probably meant.
--
-- Taken: blanks, invisible characters and one pair of quotes around a name, and a blank for its _ (America/New York).
-- Refused with a guess in the message: offsets, whose sign POSIX turns round, abbreviations, Windows's names. At most 64
-- characters are read; the tz database's longest name has 32.

-- The regions that names of other kinds stand for, by the name in lower case: Windows's as CLDR's windowsZones maps
-- them (territory 001), and abbreviations as most people mean them.
create or replace function mqtt_private.fn_regions_by_other_name() returns jsonb
language sql immutable parallel safe set search_path = '' as $$
  select '{
    "hawaiian standard time": "Pacific/Honolulu", "alaskan standard time": "America/Anchorage",
    "pacific standard time": "America/Los_Angeles", "us mountain standard time": "America/Phoenix",
    "mountain standard time": "America/Denver", "central standard time": "America/Chicago",
    "eastern standard time": "America/New_York", "sa pacific standard time": "America/Bogota",
    "atlantic standard time": "America/Halifax", "e. south america standard time": "America/Sao_Paulo",
    "argentina standard time": "America/Buenos_Aires", "greenwich standard time": "Atlantic/Reykjavik",
    "gmt standard time": "Europe/London", "w. europe standard time": "Europe/Berlin",
    "central europe standard time": "Europe/Budapest", "romance standard time": "Europe/Paris",
    "central european standard time": "Europe/Warsaw", "w. central africa standard time": "Africa/Lagos",
    "gtb standard time": "Europe/Bucharest", "fle standard time": "Europe/Kiev",
    "e. europe standard time": "Europe/Chisinau", "egypt standard time": "Africa/Cairo",
    "south africa standard time": "Africa/Johannesburg", "israel standard time": "Asia/Jerusalem",
    "e. africa standard time": "Africa/Nairobi", "turkey standard time": "Europe/Istanbul",
    "arab standard time": "Asia/Riyadh", "russian standard time": "Europe/Moscow",
    "arabian standard time": "Asia/Dubai", "india standard time": "Asia/Calcutta",
    "se asia standard time": "Asia/Bangkok", "china standard time": "Asia/Shanghai",
    "singapore standard time": "Asia/Singapore", "w. australia standard time": "Australia/Perth",
    "tokyo standard time": "Asia/Tokyo", "korea standard time": "Asia/Seoul",
    "e. australia standard time": "Australia/Brisbane", "aus eastern standard time": "Australia/Sydney",
    "new zealand standard time": "Pacific/Auckland",
    "akst": "America/Anchorage", "pst": "America/Los_Angeles", "pdt": "America/Los_Angeles", "mdt": "America/Denver",
    "cst": "America/Chicago", "cdt": "America/Chicago", "edt": "America/New_York", "brt": "America/Sao_Paulo",
    "z": "UTC", "west": "Europe/Lisbon", "bst": "Europe/London", "cest": "Europe/Berlin", "eest": "Europe/Helsinki",
    "msk": "Europe/Moscow", "sast": "Africa/Johannesburg", "ist": "Asia/Kolkata", "jst": "Asia/Tokyo",
    "kst": "Asia/Seoul", "awst": "Australia/Perth", "acst": "Australia/Adelaide", "aest": "Australia/Sydney",
    "aedt": "Australia/Sydney", "nzst": "Pacific/Auckland", "nzdt": "Pacific/Auckland"
  }'::jsonb
$$;
call mqtt_private.grant_execute('mqtt_private.fn_regions_by_other_name', 'authenticated', 'service_role');

-- The IANA name that was probably meant by a zone that is none; null: no guess. The signs of Etc/GMT-2 are POSIX's: two
-- hours east, which everybody else writes UTC+2.
create or replace function mqtt_private.fn_guess_time_zone(p_zone text) returns text
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_parts constant text[] := regexp_match(upper(p_zone), '^(?:UTC|GMT)? ?([+-])0?([0-9]|1[0-4])(?::?00)?$');
begin
  return case
    when v_parts[2] = '0' then 'UTC'
    when v_parts[1] = '+' then 'Etc/GMT-' || v_parts[2]
    when v_parts[1] = '-' and v_parts[2]::int <= 12 then 'Etc/GMT+' || v_parts[2]
    else mqtt_private.fn_regions_by_other_name() ->> replace(lower(p_zone), 'daylight time', 'standard time')
  end;
end
$$;
call mqtt_private.grant_execute('mqtt_private.fn_guess_time_zone', 'authenticated', 'service_role');

-- The name of an IANA zone in a spelling that "at time zone" reads as that zone. Postgres looks for abbreviations
-- first, so four IANA names would lose their daylight saving; and it takes "UTC+2" for POSIX, two hours WEST.
create or replace function mqtt_private.fn_resolve_time_zone(p_timezone text) returns text
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_zone text := coalesce(p_timezone, 'UTC');
  v_meant text;
begin
  if length(v_zone) > 64 then
    raise exception 'time zone "%..." has % characters, where at most 64 are read', left(v_zone, 40), length(v_zone)
      using errcode = 'invalid_parameter_value', hint = 'Write an IANA name, for example "Europe/Berlin".';
  end if;
  v_zone := mqtt_private.fn_tidy_text(v_zone);
  if v_zone ~ '/' then
    v_zone := replace(regexp_replace(v_zone, ' ?/ ?', '/', 'g'), ' ', '_');
  end if;
  v_meant := case when v_zone !~ '/' then mqtt_private.fn_guess_time_zone(v_zone) end;
  if (v_zone ~ '[0-9,<>]' and v_zone !~* '^(Etc/GMT[+-]?[0-9]{1,2}|GMT[+-]?0|EST5EDT|CST6CDT|MST7MDT|PST8PDT)$')
    or v_zone ~ ' ' or (v_meant is not null and v_zone !~* '^GMT[+-]0$')
    or (v_zone !~ '/'
      and upper(v_zone) not in ('UTC', 'UCT', 'GMT', 'ZULU', 'CET', 'MET', 'EET', 'WET', 'EST', 'MST', 'HST')
      and exists (select from pg_catalog.pg_timezone_abbrevs where abbrev = upper(v_zone)))
  then
    raise exception 'time zone "%" is not the name of a region%', v_zone,
      coalesce(format('; did you mean "%s"?%s', v_meant,
        case when v_meant ~ '^Etc/' then ' (The sign of such names is the other way round.)' end), '')
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
