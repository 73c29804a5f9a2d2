"""Random cron expressions and instants, from a seed, for comparing fn_calculate_next_wake with libraries.

Left out are two forms that libraries read in ways of their own, and that next_wake_cases.py has: a step on
one value of the day of week (1/2), and a range of one value with a step (5-5/15).
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from zoneinfo import ZoneInfo

from tests.integration.database.next_wake import Case

# Zones whose rules are settled, so that the server's tz database and Python's agree on the future.
# Lord Howe changes by half an hour; Chatham's offset is 12:45; Azores and Santiago change at midnight.
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "America/Santiago",
    "Atlantic/Azores",
    "Asia/Kolkata",
    "Australia/Sydney",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
)
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_STARS = (0.2, 0.3, 0.5, 0.6, 0.5)  # how often each field is a mere *


def expression(random: Random, *, daily: bool = False) -> str:
    """A five-field expression with lists, ranges, steps, names in any case and odd white space."""
    fields = ("*" if daily and index > 1 else _field(random, index) for index in range(5))
    return random.choice(["", " "]) + random.choice([" ", "  ", "\t"]).join(fields) + random.choice(["", " "])


def _field(random: Random, index: int) -> str:
    if random.random() < _STARS[index]:
        return "*"
    return ",".join(_item(random, index) for _ in range(random.choice([1, 1, 1, 2, 3])))


def _item(random: Random, index: int) -> str:
    first, last = _BOUNDS[index]
    low = random.randint(first, last - 1)
    high = random.randint(low + 1, last)
    span = f"{_word(random, index, low)}-{_word(random, index, high)}"
    forms = [_word(random, index, random.randint(first, last)), span, f"{span}/{random.randint(1, 12)}"]
    forms += [f"*/{random.randint(1, last)}"]
    if index != 4:
        forms.append(f"{low}/{random.randint(1, last)}")
    return random.choices(forms, weights=[8, 4, 3, 1, 1][: len(forms)])[0]


def _word(random: Random, index: int, value: int) -> str:
    names = {3: ["", *_MONTHS], 4: _DAYS}.get(index, [])
    if value >= len(names) or random.random() < 0.6:
        return str(value)
    return random.choice([str.upper, str.lower, str.title])(names[value])


def at_any_time(random: Random) -> Case:
    """A case between 2005 and 2037."""
    start = datetime(2005, 1, 1, tzinfo=UTC) + timedelta(seconds=random.randint(0, 32 * 365 * 86400))
    return Case(expression(random), start, random.choice(ZONES))


def near_a_clock_change(random: Random) -> Case:
    """A case that starts at most three hours from a change of its zone's offset, more often close to it.

    Most of these run every day, so that it is the clock change that decides.
    """
    zone = random.choice([zone for zone in ZONES if clock_changes(zone)])
    distance = random.randint(-3 * 3600, 3 * 3600) // random.choice([1, 1, 4, 60, 3600])
    start = random.choice(clock_changes(zone)) + timedelta(seconds=distance)
    return Case(expression(random, daily=random.random() < 0.7), start, zone)


@cache
def clock_changes(zone: str) -> tuple[datetime, ...]:
    """The whole hours of UTC at or just after which the zone has a new offset, 2008 to 2036.

    Looks at each hour of those days alone that end with another offset than they began with: files of tests
    are read by each process of a run, and no zone changes its offset and back within a day.
    """
    clock = ZoneInfo(zone)

    def offset(at: datetime) -> timedelta | None:
        return at.astimezone(clock).utcoffset()

    days = (datetime(2008, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(29 * 366))
    hours = (
        day + timedelta(hours=hour)
        for day in days
        if day.year < 2037 and offset(day) != offset(day + timedelta(days=1))
        for hour in range(1, 25)
    )
    return tuple(hour for hour in hours if offset(hour) != offset(hour - timedelta(hours=1)))
