"""Which devices and places people mean. Pure: names and candidates in, the one that is meant out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from mqtt_service.adapters.supabase.fleet_rows import DeviceRow, Place
from mqtt_service.errors import UsageError
from mqtt_service.protocol.topics import device_key

Row = TypeVar("Row")

_MAC_DIGITS = 12
_LISTED = 10


@dataclass(frozen=True, slots=True)
class Selection:
    """What a person chose devices by: exactly one of these."""

    devices: Sequence[str] = ()
    sites: Sequence[str] = ()
    programs: Sequence[str] = ()
    companies: Sequence[str] = ()
    everything: bool = False

    def check(self) -> None:
        """Raise UsageError unless there is one way of choosing, and only one."""
        ways = sum(map(bool, (self.devices, self.sites, self.programs, self.companies, self.everything)))
        if ways != 1:
            choices = "--device, --site, --program, --company or --all"
            raise UsageError(f"say for which devices: {'one of ' if ways else ''}{choices}")


def as_uuid(text: str) -> UUID | None:
    """The id that a text is, in its usual form; None for any other text."""
    text = text.strip().lower()
    return UUID(text) if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) else None


def as_mac(text: str) -> str | None:
    """The twelve hex digits that a text is, however it separates them; None for any other text."""
    key = device_key(text.strip())
    return key if len(key) == _MAC_DIGITS and re.fullmatch("[0-9A-F]+", key) else None


def the_device(reference: str, candidates: Sequence[DeviceRow]) -> DeviceRow:
    """The one device whose id, MAC, code or name is `reference`, but for case; raises UsageError."""
    fitting = {device.device_id: device for device in candidates if _is_called(device, reference)}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if not fitting:
        raise UsageError(f"no device has the id, MAC, code or name {reference!r}: see mqtt-service devices")
    listed = "; ".join(
        f"{device.label} ({device.device_mac}, {device.device_id})" for device in fitting.values()
    )
    raise UsageError(f"{reference!r} fits {len(fitting)} devices; name one by its id: {listed}")


def the_place(kind: str, reference: str, candidates: Sequence[Place]) -> Place:
    """The one site, program or company whose id or name is `reference`, but for case; raises UsageError."""
    wanted = as_uuid(reference)
    fitting = {
        place.place_id: place
        for place in candidates
        if place.place_id == wanted or place.name.casefold() == reference.strip().casefold()
    }
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if not fitting:
        raise UsageError(f"no {kind} has the id or name {reference!r}")
    listed = "; ".join(f"{place.name} ({place.place_id})" for place in fitting.values())
    raise UsageError(f"{reference!r} fits more than one {kind}; name it by its id: {listed}")


def the_named(kind: str, reference: str, candidates: Sequence[tuple[UUID, str | None, Row]]) -> Row:
    """Of (id, name, row), the row that is called so, or whose id begins so; raises UsageError."""
    text = reference.strip().casefold()
    fitting = [one for one in candidates if text and text in {str(one[0]), (one[1] or "").casefold()}]
    fitting = fitting or [one for one in candidates if text and str(one[0]).startswith(text)]
    if len(fitting) == 1:
        return fitting[0][2]
    if not fitting:
        raise UsageError(f"no {kind} is {reference!r}: see mqtt-service {kind} list")
    listed = ", ".join(str(one[0]) for one in fitting)
    raise UsageError(f"{reference!r} fits {len(fitting)} {kind}s; name one by its id: {listed}")


def id_range(prefix: str) -> tuple[UUID, UUID]:
    """The first and the last id that begin like this; raises UsageError for what no id begins like."""
    digits = prefix.strip().lower().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{4,32}", digits):
        raise UsageError(f"{prefix!r} is no command: write its id, or at least its first four digits")
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


def name_some(labels: Sequence[str]) -> str:
    """`a, b, c` or, for many, the first of them and how many more there are."""
    shown = ", ".join(labels[:_LISTED])
    return shown if len(labels) <= _LISTED else f"{shown} and {len(labels) - _LISTED} more"


def _is_called(device: DeviceRow, reference: str) -> bool:
    text = reference.strip()
    names = {name.casefold() for name in (device.device_code, device.device_name) if name}
    return (
        device.device_id == as_uuid(text)
        or device_key(device.device_mac) == device_key(text)
        or text.casefold() in names
    )
