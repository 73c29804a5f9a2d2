"""Times as devices write them: ISO 8601, also without leading zeros, or counted since 1970."""

import re
import sys
from datetime import UTC, datetime, timedelta

from mqtt_service.protocol.wire_json import number

_EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
_MOST_AHEAD = timedelta(days=2)
# Seconds since 1970 reach this in the year 5138; milliseconds passed it in 1973.
_LEAST_MILLISECONDS = 1e11
_EPOCH = re.compile(r"[0-9]{10}(?:[0-9]{3})?(?:\.[0-9]+)?")
# What printf writes with %d where ISO 8601 (RFC 3339, section 5.6) wants %02d; and blanks.
_LOOSE = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{1,2})-(?P<day>[0-9]{1,2})"
    r"(?:T|\s+)\s{0,9}(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{1,2})"
    r"(?::(?P<second>[0-9]{1,2})(?P<fraction>\.[0-9]{1,9})?)?"
    r"\s{0,9}(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?",
    re.IGNORECASE,
)


def parse_time(value: object, now: datetime) -> datetime | None:
    """A time in UTC; text without a zone is UTC already. None for what is no time, or a wrong clock's.

    A clock that says a time before 2020, or more than two days after `now` (aware), was not set.
    """
    latest = now + _MOST_AHEAD
    if isinstance(value, str) and not _EPOCH.fullmatch(value.strip()):
        return _from_text(value.strip(), latest)
    seconds = number(value, 0, sys.float_info.max)
    if seconds is None:
        return None
    if seconds >= _LEAST_MILLISECONDS:
        seconds /= 1000
    plausible = _EARLIEST.timestamp() <= seconds <= latest.timestamp()
    return datetime.fromtimestamp(seconds, UTC) if plausible else None


def _from_text(text: str, latest: datetime) -> datetime | None:
    loose = _LOOSE.fullmatch(text)
    try:
        moment = datetime.fromisoformat(_with_zeros(loose) if loose else text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC) if _EARLIEST <= moment <= latest else None


def _with_zeros(loose: re.Match[str]) -> str:
    parts = {name: (text or "0").zfill(2) for name, text in loose.groupdict().items()}
    return (
        f"{parts['year']}-{parts['month']}-{parts['day']}T{parts['hour']}:{parts['minute']}:{parts['second']}"
        f"{loose['fraction'] or ''}{(loose['zone'] or '').upper()}"
    )
