"""The hard cases of cron schedules in time zones, worked out by hand from the rules in the migrations.

A name says where a library differs; the rule beside it, Debian's, is the one that holds here.
"""

# (zone, schedule, start, the next runs in order); instants as ISO with the offset of that moment.
Runs = tuple[str, str, str, list[str]]

CALENDAR: dict[str, Runs] = {
    "29 February": ("UTC", "0 12 29 2 *", "2025-03-01T00:00Z", ["2028-02-29T12:00Z", "2032-02-29T12:00Z"]),
    "2100 is no leap year": ("UTC", "0 0 29 2 *", "2096-03-01T00:00Z", ["2104-02-29T00:00Z"]),
    "2000 was one": ("UTC", "0 0 29 2 *", "1996-03-01T00:00Z", ["2000-02-29T00:00Z"]),
    "a Sunday 29 February": ("UTC", "0 0 29 2 */7", "2032-03-01T00:00Z", ["2060-02-29T00:00Z"]),
    "a Sunday 29 February across 2100": ("UTC", "0 0 29 2 */7", "2088-03-01T00:00Z", ["2128-02-29T00:00Z"]),
    "the 31st": (
        "UTC",
        "0 0 31 * *",
        "2025-01-31T00:00Z",
        ["2025-03-31T00:00Z", "2025-05-31T00:00Z", "2025-07-31T00:00Z", "2025-08-31T00:00Z"],
    ),
    "the 31st of months of which one has none": (
        "UTC",
        "0 0 31 6-7 *",
        "2025-06-01T00:00Z",
        ["2025-07-31T00:00Z"],
    ),
    "day of month or day of week": (
        "UTC",
        "0 0 13 * 5",
        "2025-06-27T00:00Z",
        ["2025-07-04T00:00Z", "2025-07-11T00:00Z", "2025-07-13T00:00Z", "2025-07-18T00:00Z"],
    ),
    "day of month or day of week, where the day never is": (
        "UTC",
        "0 0 30 2 1",
        "2025-02-01T00:00Z",
        ["2025-02-03T00:00Z"],
    ),
    "a field that begins with * is no restriction (croniter differs)": (
        "UTC",
        "0 0 */2 * 1",
        "2025-01-01T00:00Z",
        ["2025-01-13T00:00Z", "2025-01-27T00:00Z", "2025-02-03T00:00Z"],
    ),
    "the same in the day of week": ("UTC", "0 0 10 * */7", "2025-01-01T00:00Z", ["2025-08-10T00:00Z"]),
    "a field that only contains * is one (croniter differs)": (
        "UTC",
        "0 0 5,* * 1",
        "2025-01-01T00:00Z",
        ["2025-01-02T00:00Z"],
    ),
    "1-31/2 is one": (
        "UTC",
        "0 0 1-31/2 * 1",
        "2025-01-03T00:00Z",
        ["2025-01-05T00:00Z", "2025-01-06T00:00Z"],
    ),
    "year's end": ("UTC", "59 23 31 12 *", "2025-12-31T23:59Z", ["2026-12-31T23:59Z"]),
    "a millisecond before the new year": (
        "UTC",
        "0 0 1 1 *",
        "2025-12-31T23:59:59.999Z",
        ["2026-01-01T00:00Z"],
    ),
    "the new year of the zone": ("Asia/Kolkata", "@yearly", "2025-06-01T00:00Z", ["2026-01-01T00:00+05:30"]),
    "30 minutes from the full hour": (
        "Asia/Kolkata",
        "0 8,16 * * *",
        "2025-01-01T00:00Z",
        ["2025-01-01T08:00+05:30", "2025-01-01T16:00+05:30", "2025-01-02T08:00+05:30"],
    ),
    "45 minutes from the full hour": (
        "Asia/Kathmandu",
        "*/20 * * * *",
        "2025-01-01T00:00Z",
        ["2025-01-01T06:00+05:45"],
    ),
    "strictly after": ("UTC", "*/5 * * * *", "2025-01-01T00:05Z", ["2025-01-01T00:10Z"]),
    "a microsecond is before": ("UTC", "*/5 * * * *", "2025-01-01T00:04:59.999999Z", ["2025-01-01T00:05Z"]),
}

CLOCK_CHANGES: dict[str, Runs] = {
    "Berlin: a skipped time runs right after the gap": (
        "Europe/Berlin",
        "30 2 * * *",
        "2025-03-29T12:00+01:00",
        ["2025-03-30T03:00+02:00", "2025-03-31T02:30+02:00"],
    ),
    "Berlin: several skipped times run once": (
        "Europe/Berlin",
        "15,45 2,3 * * *",
        "2025-03-29T12:00+01:00",
        ["2025-03-30T03:00+02:00", "2025-03-30T03:15+02:00"],
    ),
    "Berlin: a skipped time and the gap's end are one run": (
        "Europe/Berlin",
        "0 2,3 * * *",
        "2025-03-29T12:00+01:00",
        ["2025-03-30T03:00+02:00", "2025-03-31T02:00+02:00"],
    ),
    "Berlin: a skipped wildcard time does not run (croniter makes up for it)": (
        "Europe/Berlin",
        "*/30 2 * * *",
        "2025-03-30T00:00+01:00",
        ["2025-03-31T02:00+02:00"],
    ),
    "Berlin: every hour, in spring": (
        "Europe/Berlin",
        "0 * * * *",
        "2025-03-30T00:30+01:00",
        ["2025-03-30T01:00+01:00", "2025-03-30T03:00+02:00", "2025-03-30T04:00+02:00"],
    ),
    "Berlin: a repeated time runs once": (
        "Europe/Berlin",
        "30 2 * * *",
        "2025-10-25T12:00+02:00",
        ["2025-10-26T02:30+02:00", "2025-10-27T02:30+01:00"],
    ),
    "Berlin: and not again, asked from the repetition (croniter and cronsim differ)": (
        "Europe/Berlin",
        "45 2 * * *",
        "2025-10-26T02:30+01:00",
        ["2025-10-27T02:45+01:00"],
    ),
    "Berlin: a repeated wildcard time runs twice": (
        "Europe/Berlin",
        "*/30 2 * * *",
        "2025-10-26T01:45+02:00",
        [
            "2025-10-26T02:00+02:00",
            "2025-10-26T02:30+02:00",
            "2025-10-26T02:00+01:00",
            "2025-10-26T02:30+01:00",
            "2025-10-27T02:00+01:00",
        ],
    ),
    "Berlin: every hour, in autumn": (
        "Europe/Berlin",
        "0 * * * *",
        "2025-10-26T01:30+02:00",
        ["2025-10-26T02:00+02:00", "2025-10-26T02:00+01:00", "2025-10-26T03:00+01:00"],
    ),
    "New York, spring": (
        "America/New_York",
        "30 2 * * SUN",
        "2025-03-08T12:00-05:00",
        ["2025-03-09T03:00-04:00", "2025-03-16T02:30-04:00"],
    ),
    "New York, autumn": (
        "America/New_York",
        "30 1 * * *",
        "2025-11-01T12:00-04:00",
        ["2025-11-02T01:30-04:00", "2025-11-03T01:30-05:00"],
    ),
    "Sydney, autumn in April": (
        "Australia/Sydney",
        "30 2 * * *",
        "2025-04-05T12:00+11:00",
        ["2025-04-06T02:30+11:00", "2025-04-07T02:30+10:00"],
    ),
    "Sydney, spring in October": (
        "Australia/Sydney",
        "30 2 * * *",
        "2025-10-04T12:00+10:00",
        ["2025-10-05T03:00+11:00", "2025-10-06T02:30+11:00"],
    ),
    "Lord Howe: a gap of 30 minutes": (
        "Australia/Lord_Howe",
        "15,45 2 * * *",
        "2025-10-04T12:00+10:30",
        ["2025-10-05T02:30+11:00", "2025-10-05T02:45+11:00", "2025-10-06T02:15+11:00"],
    ),
    "Lord Howe: every quarter, in spring": (
        "Australia/Lord_Howe",
        "*/15 * * * *",
        "2025-10-05T01:30+10:30",
        ["2025-10-05T01:45+10:30", "2025-10-05T02:30+11:00", "2025-10-05T02:45+11:00"],
    ),
    "Lord Howe: a time in the repeated half hour": (
        "Australia/Lord_Howe",
        "45 1 * * *",
        "2025-04-05T12:00+11:00",
        ["2025-04-06T01:45+11:00", "2025-04-07T01:45+10:30"],
    ),
    "Lord Howe: every quarter, in autumn (cronsim differs)": (
        "Australia/Lord_Howe",
        "*/15 1 * * *",
        "2025-04-06T01:20+11:00",
        [
            "2025-04-06T01:30+11:00",
            "2025-04-06T01:45+11:00",
            "2025-04-06T01:30+10:30",
            "2025-04-06T01:45+10:30",
            "2025-04-07T01:00+10:30",
        ],
    ),
    "Azores: midnight is skipped": (
        "Atlantic/Azores",
        "0 0 * * *",
        "2025-03-29T12:00-01:00",
        ["2025-03-30T01:00+00:00", "2025-03-31T00:00+00:00"],
    ),
    "St John's in 2010: midnight comes twice, and an hour of yesterday between": (
        "America/St_Johns",
        "*/30 0,23 * * *",
        "2010-11-06T23:30-02:30",
        [
            "2010-11-07T00:00-02:30",
            "2010-11-06T23:30-03:30",
            "2010-11-07T00:00-03:30",
            "2010-11-07T00:30-03:30",
            "2010-11-07T23:00-03:30",
        ],
    ),
    "St John's in 2010: midnight runs once": (
        "America/St_Johns",
        "0 0 * * *",
        "2010-11-06T12:00-02:30",
        ["2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"],
    ),
    "Apia: a day that never was": (
        "Pacific/Apia",
        "0 12 * * *",
        "2011-12-29T12:00-10:00",
        ["2011-12-31T00:00+14:00", "2011-12-31T12:00+14:00"],
    ),
    "Berlin: the repetition is not overlooked where the next date is in summer again": (
        "Europe/Berlin",
        "*/30 2 26 4,10 *",
        "2025-10-26T02:30+02:00",
        ["2025-10-26T02:00+01:00", "2025-10-26T02:30+01:00", "2026-04-26T02:00+02:00"],
    ),
    "a schedule of years meets its own clock changes": (
        "Europe/Berlin",
        "*/30 12 29 2 *",
        "2025-07-01T00:00+02:00",
        ["2028-02-29T12:00+01:00", "2028-02-29T12:30+01:00", "2032-02-29T12:00+01:00"],
    ),
}

# A schedule, and one that means the same.
SAME = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    " @Daily\n": "0 0 * * *",
    "\t 0  8\t*   * * ": "0 8 * * *",
    "0 0 * * 7": "0 0 * * 0",
    "0 0 * * sun": "0 0 * * 0",
    "0 0 * * 5-7": "0 0 * * 0,5,6",
    "0 0 * * Fri-7": "0 0 * * FRI,SAT,SUN",
    "0 0 * * mon-FRI": "0 0 * * 1-5",
    "0 0 * jan,Feb,9-DEC *": "0 0 * 1,2,9,10,11,12 *",
    "0 0 1 sep/2 *": "0 0 1 9,11 *",
    "*/20 * * * *": "0,20,40 * * * *",
    "5/15 * * * *": "5,20,35,50 * * * *",
    "10-40/15 * * * *": "10,25,40 * * * *",
    "59,1,30,1 08 * * *": "1,30,59 8 * * *",
    "0 0-23/6 * * *": "0 0,6,12,18 * * *",
    "*/90 * * * *": "0 * * * *",
    # Both libraries read the end of the field into a range of one value; the range says where it ends.
    "5-5/15 * * * *": "5 * * * *",
    # The week ends on Saturday, as for croniter: cronsim steps on to 7, a second Sunday.
    "0 0 * * 1/2": "0 0 * * 1,3,5",
    "0 0 * * MON/3": "0 0 * * 1,4",
    "0 0 * * 7/2": "0 0 * * 0",
    "0 0 * * */6": "0 0 * * */6,0",
}

ERRORS = {
    "61 * * * *": "minute 61 is not between 0 and 59",
    "0 24 * * *": "hour 24 is not between 0 and 23",
    "0 0 0 * *": "day of month 0 is not between 1 and 31",
    "0 0 * 13 *": "month 13 is not between 1 and 12",
    "0 0 * * 8": "day of week 8 is not between 0 and 7",
    "0-60 * * * *": "minute 60 is not between 0 and 59",
    "99999999999999999999 * * * *": "minute 99999999999999999999 is not between 0 and 59",
    "x * * * *": 'minute "x" is not a number',
    "MON * * * *": 'minute "MON" is not a number',
    "0 0 * XYZ *": 'month "XYZ" is not a number or JAN to DEC',
    "0 0 * * monday": 'day of week "monday" is not a number or SUN to SAT',
    "0 0 * JAN-12x *": 'month "12x" is not a number or JAN to DEC',
    "*/0 * * * *": 'minute "*/0" has step 0; a step is 1 or more',
    "1,,2 * * * *": 'minute "1,,2" is not a number, a range, a step or a list of them; write for example 0,',
    "-1 * * * *": 'minute "-1" is not a number, a range',
    "0 8- * * *": 'hour "8-" is not a number, a range',
    "0 1-2-3 * * *": 'hour "1-2-3" is not a number, a range',
    "0 *-3 * * *": 'hour "*-3" is not a number, a range',
    "0 1/2/3 * * *": 'hour "1/2/3" is not a number, a range',
    "0 */x * * *": 'hour "*/x" is not a number, a range',
    "0 0 L * *": 'day of month "L" is not a number',
    "0 0 ? * *": 'day of month "?" is not a number',
    "0 0 * * MON#1": 'day of week "MON#1" is not a number',
    "0 22-2 * * *": "hour 22-2 runs backwards; write 22-23,0-2",
    "0 0 * * FRI-0": "day of week FRI-0 runs backwards; write FRI-6,0-0",
    "0 0 * * 7-2": "day of week 7-2 runs backwards; write 0-2",
    "* * * *": "4 fields where five are needed",
    "0 0 0 1 1 *": "6 fields where five are needed",
    "hourly": "1 field where five are needed",
    "@reboot": "not one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually",
    "@every 5m": "not one of @hourly",
    "0 0 30 2 *": "can never fire: month 2 never has a day 30",
    "0 0 31 4,JUN,9,11 *": "can never fire: month 4,JUN,9,11 never has a day 31",
    "0 0 30,31 2 */2": "can never fire: month 2 never has a day 30",
}

# As people write it, and the same in plain cron. crontab(5) allows none of these, and none can mean anything
# else: it has no quotes, a comma is only within a list, and its days end with Sunday as 7.
PEOPLE = {
    '"0 8 * * *"': "0 8 * * *",
    "' 0 8 * * * '": "0 8 * * *",
    "`0 8 * * *`": "0 8 * * *",
    "\u201c0 8 * * *\u201d": "0 8 * * *",
    "0 8 * * *\r\n": "0 8 * * *",
    "\ufeff0 8 * * *\u200b": "0 8 * * *",
    "0\u00a08\u00a0*\u00a0*\u202f*": "0 8 * * *",
    "0 8, 16 * * *": "0 8,16 * * *",
    "0 8 , 16 * * MON, WED ,FRI": "0 8,16 * * 1,3,5",
    "0 8 * * sat-sun": "0 8 * * 6-7",
    "0 8 * * FRI-SUN": "0 8 * * 5-7",
    "0 8 * * Mon-Sun/2": "0 8 * * 1,3,5,7",
    '"@daily"': "0 0 * * *",
}

_QUARTZ = "Quartz and Spring write seconds first; cron has none"
_L = "L, W and # are Quartz's; cron has nothing like them"

# What is refused, and what the message says was meant; None: no guess. Fields: Quartz's "Cron Trigger
# Tutorial", Spring's CronExpression, and EventBridge's "Cron expressions"; @every: the documentation of
# robfig/cron; names: crontab(5).
GUESSES = {
    "0 0 8 * * ?": f'did you mean "0 8 * * *"? {_QUARTZ}',
    "0 30 8 ? * MON-FRI": f'did you mean "30 8 * * MON-FRI"? {_QUARTZ}',
    "0 0 8 ? * 2-6": f'did you mean "0 8 * * MON-FRI"? {_QUARTZ}',
    "0 0 8 ? * 1,7 2026": f'did you mean "0 8 * * SUN,SAT"? {_QUARTZ}',
    "0 0 8 * * MON": f'did you mean "0 8 * * MON"? {_QUARTZ}',
    "0 0 8 * * 1": f'did you mean "0 8 * * 1"? {_QUARTZ}',
    "*/10 * * * * *": "the first field looks like seconds",
    "0 0 8 ? * 2/2": "Quartz counts days from 1, Sunday",
    "0 0 8 L * ?": _L,
    "0 0 8 ? * 6#3": _L,
    "0 8 15W * *": _L,
    "0 8 * * 5L": _L,
    "0 8 ? * MON *": 'did you mean "0 8 * * MON"? Cron has no field for the year',
    "0 8 1 * ? 2027": 'did you mean "0 8 1 * *"? Cron has no field for the year',
    "0 8 ? * *": 'did you mean "0 8 * * *"?',
    "0 8 * * ?": 'did you mean "0 8 * * *"?',
    "17:30": 'did you mean "30 17 * * *"? Cron writes the minute first',
    "08:00:00": 'did you mean "0 8 * * *"?',
    "5:30PM": 'did you mean "30 17 * * *"?',
    "12 am": 'did you mean "0 0 * * *"?',
    "12:15pm": 'did you mean "15 12 * * *"?',
    "25:00": None,
    "13pm": None,
    "8": None,
    "@every 1h": 'did you mean "0 * * * *"?',
    "@every 6h0m0s": 'did you mean "0 */6 * * *"?',
    "@every 90m": None,
    "@every 15m": 'did you mean "*/15 * * * *"?',
    "@every 24h": 'did you mean "0 0 * * *"?',
    "@every 0h": None,
    "@every 9999h": None,
    "0 8 * * monday": "did you mean MON?",
    "0 8 * * Tues": "did you mean TUE?",
    "0 8 * sept *": "did you mean SEP?",
    "0 8 * * someday": None,
    "0 8 * * mon%": None,
    '""': None,
    "0 8, * * *": None,
}

# A time zone, and the IANA name that the refusal proposes. Offsets: POSIX's TZ, section 8.3 of its base
# definitions, whose sign the tz database keeps (file etcetera); Windows's names: CLDR's windowsZones; the
# rest: the tz database.
ZONE_GUESSES = {
    "GMT+2": "Etc/GMT-2",
    "UTC+2": "Etc/GMT-2",
    "utc-05:00": "Etc/GMT+5",
    "+02": "Etc/GMT-2",
    "-0300": "Etc/GMT+3",
    "UTC +10": "Etc/GMT-10",
    "UTC+0": "UTC",
    "UTC+14": "Etc/GMT-14",
    "UTC-13": None,
    "UTC+5:30": None,
    "W. Europe Standard Time": "Europe/Berlin",
    "Pacific Daylight Time": "America/Los_Angeles",
    "Middle Earth Standard Time": None,
    "PST": "America/Los_Angeles",
    "pdt": "America/Los_Angeles",
    "CEST": "Europe/Berlin",
    "IST": "Asia/Kolkata",
    "Z": "UTC",
    "<X>-3": None,
}

# As people write it, and the same name in the tz database, none of whose names has a blank or a quote.
ZONES_OF_PEOPLE = {
    " Europe/Berlin ": "Europe/Berlin",
    "Europe/Berlin\r\n": "Europe/Berlin",
    "\u00a0Europe/Berlin\u200b": "Europe/Berlin",
    '"Europe/Berlin"': "Europe/Berlin",
    "Europe / Berlin": "Europe/Berlin",
    "America/New York": "America/New_York",
    "America/Argentina/Buenos Aires": "America/Argentina/Buenos_Aires",
    " GMT0 ": "UTC",
    "EST": "Etc/GMT+5",
    "CET": "Europe/Brussels",
}
