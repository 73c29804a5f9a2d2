"""Commands: a claimed row becomes the bytes that a device reads on its `cmd` topic.

Every command carries `device_id` (as the device spells itself) and `command_id`, and otherwise only its own
field. What cannot be encoded raises LocalProtocolError; its message becomes the row's `last_error`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from mqtt_service.errors import LocalProtocolError

WakeFormat = Literal["12h", "iso"]

LARGEST_COMMAND = 128 * 1024

_LONGEST_NAME = 255
_LONGEST_URL = 2048
_DAY = timedelta(days=1)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HTTPS_URL = re.compile(r"https://[^\s/?#]+[^\s\x00-\x1f\x7f]*")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class Command:
    """A claimed row of `device_commands`, with what is needed to reach its device.

    `topic_root` and `topic_id` say where the device listens; `attempt` fences the claim; `next_wake_at` is
    set for `set_wake_schedule` alone and has a time zone; `seconds_to_expiry` was true at the claim.
    `firmware_path`: the file, in Storage, of the release that an `update_firmware` names.
    """

    command_id: UUID
    device_id: UUID
    device_code: str | None
    device_name: str | None
    device_mac: str
    topic_root: str
    topic_id: str
    command_type: str
    payload: Mapping[str, Any]
    attempt: int
    retry_count: int
    seconds_to_expiry: float
    next_wake_at: datetime | None = None
    firmware_path: str | None = None


@dataclass(frozen=True, slots=True)
class _Sending:
    """How and when a command is sent; `now` has a time zone."""

    wake_format: WakeFormat
    now: datetime
    firmware_url: str | None


def encode_command(
    command: Command,
    *,
    now: datetime,
    wake_format: WakeFormat = "12h",
    firmware_url: str | None = None,
) -> bytes:
    """UTF-8 JSON for the wire; raises LocalProtocolError for a row that cannot be sent as it stands.

    `now` has a time zone; `firmware_url` is the signed address of `command.firmware_path`. A type that is not
    built in is one that the project lists in `device_command_types`: its payload's keys go to the device as
    they are, like those of `update_config`.
    """
    encode = _ENCODERS.get(command.command_type, _update_config)
    # Ours go first, so that a reader sees them first, and again last, so that nothing overwrites them.
    identity = {"device_id": command.topic_id, "command_id": str(command.command_id)}
    encoded = _to_json({**identity, **encode(command, _Sending(wake_format, now, firmware_url)), **identity})
    if len(encoded) > LARGEST_COMMAND:
        raise LocalProtocolError(
            f"the command is {len(encoded)} bytes on the wire; shorten command_payload to {LARGEST_COMMAND}"
        )
    return encoded


def wire_time(moment: datetime, wake_format: WakeFormat) -> str:
    """An aware time as devices read it, in UTC: `4:00PM`, or `2025-08-29T16:00:00Z` for `iso`.

    12-hour times round up to the minute: a device that is told a minute just gone sleeps for a day.
    """
    if moment.tzinfo is None:
        raise LocalProtocolError("the next wake time has no time zone; write it as 2025-08-29T16:00:00Z")
    try:
        utc = moment.astimezone(UTC)
        if wake_format == "iso":
            return utc.replace(microsecond=0, tzinfo=None).isoformat() + "Z"
        minute = _whole_minute(utc)
    except OverflowError as error:
        raise LocalProtocolError(f"the next wake time {moment} is out of range; write a near one") from error
    half, hour = divmod(minute.hour, 12)
    return f"{hour or 12}:{minute.minute:02}{('AM', 'PM')[half]}"


def delivery_notice(command: Command, *, now: datetime, wake_format: WakeFormat = "12h") -> str | None:
    """What a person should know of a command that is sent nevertheless: its device wakes at another time.

    A 12-hour time has no date: the device wakes when its clock next shows it. So a wake that is past, or more
    than a day ahead, cannot be said; in `iso`, only one that is past is wrong. `now` has a time zone. Raises
    nothing for a command that `encode_command` has encoded.
    """
    if command.next_wake_at is None:
        return None
    utc = command.next_wake_at.astimezone(UTC)
    ahead = (utc if wake_format == "iso" else _whole_minute(utc)) - now
    if timedelta(0) < ahead <= _DAY or (ahead > _DAY and wake_format == "iso"):
        return None
    when = "more than a day ahead" if ahead > _DAY else "past"
    said = wire_time(command.next_wake_at, wake_format)
    if wake_format == "iso":
        return f"the next wake, {said}, is {when}: what the device does then is up to its firmware"
    meant = wire_time(command.next_wake_at, "iso")
    return (
        f"the next wake, {meant}, is {when}, and the device is told {said} without a date: it wakes when its "
        "clock next shows that; name a time within a day of sending, or set WAKE_FORMAT=iso where firmware "
        "reads it"
    )


def _whole_minute(utc: datetime) -> datetime:
    minute = utc.replace(second=0, microsecond=0)
    return minute if minute == utc else minute + timedelta(minutes=1)


def _capture_image(_: Command, __: _Sending) -> dict[str, Any]:
    return {"capture_image": True}


def _reboot(_: Command, __: _Sending) -> dict[str, Any]:
    return {"reboot": True}


def _ping(command: Command, sending: _Sending) -> dict[str, Any]:
    given = command.payload.get("timestamp")
    sent_at = sending.now.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
    return {"ping": True, "timestamp": sent_at if given is None else given}


def _send_image(command: Command, _: _Sending) -> dict[str, Any]:
    name = command.payload.get("image_name")
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME or _CONTROL.search(name):
        raise LocalProtocolError(
            "send_image needs command_payload.image_name, a file's name on the device of 1 to 255 characters"
        )
    return {"send_image": name}


def _set_wake_schedule(command: Command, sending: _Sending) -> dict[str, Any]:
    if command.next_wake_at is None:
        raise LocalProtocolError(
            "set_wake_schedule has no next wake; give command_payload next_wake_time or wake_schedule_cron"
        )
    return {"next_wake": wire_time(command.next_wake_at, sending.wake_format)}


def _update_config(command: Command, _: _Sending) -> dict[str, Any]:
    return dict(command.payload)


def _update_firmware(command: Command, sending: _Sending) -> dict[str, Any]:
    if command.firmware_path is not None:
        return _update_to_release(command, sending)
    url, version, sha256 = (command.payload.get(key) for key in ("firmware_url", "version", "sha256"))
    # Measured first: the pattern looks at a text many times that is no URL.
    if not isinstance(url, str) or len(url) > _LONGEST_URL or not _HTTPS_URL.fullmatch(url):
        raise LocalProtocolError(
            "update_firmware needs command_payload.firmware_url, an https:// URL "
            f"of at most {_LONGEST_URL} characters"
        )
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise LocalProtocolError("command_payload.sha256 must be 64 hex digits; correct it or leave it out")
    optional = {"version": version, "sha256": sha256}
    return {"firmware_url": url, **{key: value for key, value in optional.items() if value is not None}}


def _update_to_release(command: Command, sending: _Sending) -> dict[str, Any]:
    """The database wrote the payload, and Storage the address: over http only where the project is local."""
    if sending.firmware_url is None:
        raise LocalProtocolError("the address of the release's file was not signed; send the command again")
    described = {key: command.payload.get(key) for key in ("version", "sha256", "size")}
    return {"firmware_url": sending.firmware_url, **described}


_ENCODERS: dict[str, Callable[[Command, _Sending], dict[str, Any]]] = {
    "capture_image": _capture_image,
    "send_image": _send_image,
    "set_wake_schedule": _set_wake_schedule,
    "update_config": _update_config,
    "reboot": _reboot,
    "update_firmware": _update_firmware,
    "ping": _ping,
}

BUILT_IN_TYPES = tuple(_ENCODERS)


def _to_json(document: dict[str, Any]) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalProtocolError(
            f"command_payload is not plain JSON ({error}); use finite numbers, valid text and shallow nesting"
        ) from error
