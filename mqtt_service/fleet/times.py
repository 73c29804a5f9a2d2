"""Times as people write and read them. A zone of None is this machine's."""

import re
from datetime import UTC, datetime, timedelta, tzinfo

from mqtt_service.errors import UsageError

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_LONGEST = timedelta(days=3660)
_FAR = timedelta(days=366_000)  # beyond it stands Postgres's infinity

_HOW_DURATION = "write it like 90s, 15m, 2h, 1h30m, 3d or 2w"


def parse_duration(text: str) -> timedelta:
    """A span like `90s`, `15m`, `2h`, `1h30m`, `3d`, `2w`; raises UsageError."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not text.strip():
        raise UsageError(f"{text!r} is no duration: {_HOW_DURATION}")
    weeks, days, hours, minutes, seconds = (min(int(part or 0), 10**9) for part in found.groups())
    try:
        span = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        span = timedelta.max
    if not timedelta() < span <= _LONGEST:
        raise UsageError(f"{text!r} is not between a second and ten years: {_HOW_DURATION}")
    return span


def parse_past(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """`2h` (ago) or an ISO 8601 time; without an offset it is in `zone`. Raises UsageError."""
    return _parse(text, now, zone, sign=-1)


def parse_future(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """`2h` (from now), `18:30` (the next one) or an ISO 8601 time; raises UsageError."""
    clock = _CLOCK.fullmatch(text.strip())
    if clock is None:
        return _parse(text, now, zone, sign=1)
    today = now.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)
    at = today.replace(hour=int(clock[1]), minute=int(clock[2]))
    moment = _with_zone(at, zone)
    return moment if moment > now else _with_zone(at + timedelta(days=1), zone)


def _parse(text: str, now: datetime, zone: tzinfo | None, sign: int) -> datetime:
    if _DURATION.fullmatch(text.strip().lower()):
        return now + sign * parse_duration(text)
    try:
        return _with_zone(datetime.fromisoformat(text.strip()), zone)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is no time: write it like 2h, 2026-03-01T18:30 (local), "
            "2026-03-01T18:30:00Z or 2026-03-01T18:30+02:00"
        ) from None


def _with_zone(moment: datetime, zone: tzinfo | None) -> datetime:
    if moment.tzinfo is None and zone is not None:
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(UTC)


def local(moment: datetime | None, zone: tzinfo | None = None) -> str:
    """`2026-03-01 18:30:05+02:00`; `never` for none or Postgres's infinity."""
    if moment is None or abs(moment - datetime(2000, 1, 1, tzinfo=UTC)) > _FAR:
        return "never"
    return moment.astimezone(zone).isoformat(sep=" ", timespec="seconds")


def span(duration: timedelta) -> str:
    """Two units at most: `45 s`, `5 min`, `1 h 30 min`, `3 d 4 h`."""
    seconds = abs(round(duration.total_seconds()))
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    first = next((place for place, (size, _) in enumerate(units) if seconds >= size), len(units) - 1)
    parts: list[str] = []
    for size, unit in units[first : first + 2]:
        count, seconds = divmod(seconds, size)
        if count or not parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts)


def relative(moment: datetime | None, now: datetime) -> str:
    """`in 5 min`, `5 min ago`, `now`; `never` as for `local`."""
    if moment is None or abs(moment - now) > _FAR:
        return "never"
    distance = moment - now
    if abs(distance) < timedelta(seconds=1):
        return "now"
    return f"in {span(distance)}" if distance > timedelta() else f"{span(distance)} ago"


def both(moment: datetime | None, now: datetime, zone: tzinfo | None = None) -> str:
    """`2026-03-01 18:30:05+02:00 (in 5 min)`."""
    said = local(moment, zone)
    return said if said == "never" else f"{said} ({relative(moment, now)})"
