"""Messages from devices: bytes in, one frozen message out, or RemoteProtocolError; never anything else.

Both sides publish on `…/ack`, so the service's own replies about pictures come back to it there. They are
recognised by their keys and become a `ServiceMessage`, never an acknowledgement. The topic says which device
a message is from; a `device_id` in the payload that names another is reported in `claimed_device`, no more.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.topics import Channel, Root, Topic, device_key
from mqtt_service.protocol.wire_json import number, read_object, short_text

Outcome = Literal["success", "failed", "rejected"]

_OUTCOMES: dict[str, Outcome] = {
    "acknowledged": "success",
    "ok": "success",
    "success": "success",
    "done": "success",
    "true": "success",
    "failed": "failed",
    "error": "failed",
    "rejected": "rejected",
    "unsupported": "rejected",
}
_LONGEST_REASON = 500
_LONGEST_NAME = 255
_MOST_PENDING = 10_000
_MOST_NAMES = 10
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A device's answer to a command.

    With a `command_id` (as sent: it may be no UUID) it answers that command, else the latest that was sent of
    `command_type`, else the latest that was sent. `response` is the whole message, as JSON that Postgres can
    store.
    """

    root: Root
    device: str
    outcome: Outcome
    command_id: str | None
    command_type: str | None
    message: str | None
    claimed_device: str | None
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceMessage:
    """What a worker of this service published about a picture, received again on `…/ack`."""

    root: Root
    device: str
    kind: Literal["ACK_OK", "missing_chunks"]
    image_name: str | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """HELLO: a device is awake and waits for an answer. Volts, dBm; at most 10 names of pending pictures."""

    root: Root
    device: str
    pending_count: int = 0
    pending_names: tuple[str, ...] = ()
    firmware_version: str | None = None
    battery_voltage: float | None = None
    wifi_rssi: int | None = None
    location: str | None = None
    claimed_device: str | None = None


def parse_ack(topic: Topic, payload: bytes) -> Acknowledgement | ServiceMessage:
    """Read a message on `…/ack`; raises RemoteProtocolError when it says nothing that we know."""
    document = _document(topic, "ack", payload)
    if "command_ack" in document:
        return _acknowledgement(topic, document)
    name = short_text(document.get("image_name"), _LONGEST_NAME)
    if "ACK_OK" in document:
        return ServiceMessage(topic.root, topic.device, "ACK_OK", name)
    if "missing_chunks" in document:
        return ServiceMessage(topic.root, topic.device, "missing_chunks", name)
    raise RemoteProtocolError("the message has no command_ack")


def parse_heartbeat(topic: Topic, payload: bytes) -> Heartbeat:
    """Read a message on `…/status`; raises RemoteProtocolError when it is no HELLO.

    An unreadable extra counts as absent: a HELLO that gets no answer costs the device its battery.
    """
    document = _document(topic, "status", payload)
    if not any(_says_alive(document.get(key)) for key in ("status", "alive")):
        raise RemoteProtocolError("the message on …/status says neither status alive nor alive true")
    names = _names(document.get("pending_list"))
    count = next((document[key] for key in ("pendingImg", "pending_count") if key in document), len(names))
    pending = number(count, 0, _MOST_PENDING)
    rssi = number(document.get("wifi_rssi"), -1000, 1000)
    return Heartbeat(
        topic.root,
        topic.device,
        pending_count=len(names) if pending is None else int(pending),
        pending_names=names,
        firmware_version=short_text(document.get("firmware_version"), _LONGEST_NAME),
        battery_voltage=number(document.get("battery_voltage"), 0, 1000),
        wifi_rssi=None if rssi is None else round(rssi),
        location=short_text(document.get("location"), _LONGEST_NAME),
        claimed_device=claimed_device(topic, document),
    )


def claimed_device(topic: Topic, document: Mapping[str, Any]) -> str | None:
    """The `device_id` in a message, if it names another device than the one whose topic it came on."""
    claimed = document.get("device_id")
    # Most devices spell it as in their topic, and chunks come by the thousand.
    if claimed == topic.device:
        return None
    name = short_text(claimed, _LONGEST_NAME)
    return name if name and device_key(name) != device_key(topic.device) else None


def _document(topic: Topic, channel: Channel, payload: bytes) -> dict[str, Any]:
    if topic.channel != channel:
        raise RemoteProtocolError(f"a message on …/{topic.channel} was read as one on …/{channel}")
    return read_object(payload, bad_numbers_as_null=channel == "status")


def _acknowledgement(topic: Topic, document: dict[str, Any]) -> Acknowledgement:
    answer = document["command_ack"]
    detail = answer if isinstance(answer, dict) else {}
    reasons = (part.get(key) for part in (detail, document) for key in ("message", "reason", "error"))
    return Acknowledgement(
        topic.root,
        topic.device,
        outcome=_outcome(detail.get("status") if isinstance(answer, dict) else answer),
        command_id=_command_id(document.get("command_id", detail.get("command_id"))),
        command_type=short_text(detail.get("type"), _LONGEST_NAME),
        message=next((text for reason in reasons if (text := short_text(reason, _LONGEST_REASON))), None),
        claimed_device=claimed_device(topic, document),
        response=document,
    )


def _outcome(status: object) -> Outcome:
    word = "true" if status is True else status
    outcome = _OUTCOMES.get(word.strip().lower()) if isinstance(word, str) else None
    if outcome is None:
        raise RemoteProtocolError(
            f"command_ack says {str(status)[:50]!r}, which means neither done nor failed"
        )
    return outcome


def _command_id(value: object) -> str | None:
    """An id that cannot be read must not turn the answer into one to whichever command was sent last."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise RemoteProtocolError(f"command_id {str(value)[:50]!r} is not one that this service sends")
    return value


def _says_alive(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() in {"alive", "true"})


def _names(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else []
    usable = (name for name in names if isinstance(name, str) and 1 <= len(name) <= _LONGEST_NAME)
    return tuple(dict.fromkeys(name for name in usable if not _CONTROL.search(name)))[:_MOST_NAMES]
