"""Messages from devices: bytes in, one frozen message out, or RemoteProtocolError; never anything else.

The topic says who speaks. So whatever comes on `…/status` and is no last will is a HELLO, readable or not: a
device that gets no answer lies awake until its battery is flat. An answer on `…/ack` is repaired in its form
and never in its meaning: where it may have lost its command's id, or has two words, it is refused.

Both sides publish on `…/ack`, so the service's own replies about pictures come back to it there. They are
recognised by their keys and become a `ServiceMessage`, never an acknowledgement. A `device_id` in the payload
that names another device than the topic is reported in `claimed_device`, no more.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.lenient_json import Reading, Repair
from mqtt_service.protocol.topics import Channel, Root, Topic, device_key
from mqtt_service.protocol.wire_json import LARGEST_MESSAGE, number, read_message, short_text, storable

Outcome = Literal["success", "failed", "rejected", "in_progress"]

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
    "in_progress": "in_progress",
    "inprogress": "in_progress",
    "progress": "in_progress",
    "running": "in_progress",
}
# What devices call the share that is done.
_PROGRESS_KEYS = ("progress", "percent", "percentage")
_LONGEST_REASON = 500
_LONGEST_NAME = 255
_MOST_PENDING = 10_000
_MOST_NAMES = 10
_ALIVE = {"alive", "online", "awake", "true"}
_OFFLINE = "offline"
_BETWEEN_WORDS = re.compile(r"[\s-]+")
_AROUND_A_WORD = " \t\r\n\0\"'\ufeff"
_LONGEST_WORD = 64
# A name with U+FFFD is not the one that the device has: it was changed when it was read.
_UNUSABLE_IN_NAMES = re.compile("[\x00-\x1f\x7f\ufffd]")
# Where an answer says something twice, it is refused.
_MEANING = {"command_ack", "command_id", "status", "type"}


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A device's answer to a command.

    With a `command_id` (as sent: it may be no UUID) it answers that command, else the latest that was sent of
    `command_type`, else the latest that was sent. `response` is the whole message, as JSON that Postgres can
    store. `in_progress` is no answer yet: the device is at it, `progress` per cent of it, where it says so.
    """

    root: Root
    device: str
    outcome: Outcome
    command_id: str | None
    command_type: str | None
    message: str | None
    claimed_device: str | None
    response: Mapping[str, Any]
    repairs: frozenset[Repair] = frozenset()
    progress: int | None = None


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
    repairs: frozenset[Repair] = frozenset()


@dataclass(frozen=True, slots=True)
class LastWill:
    """The broker says that the device is gone (MQTT 3.1.1, section 3.1.2.5): not a device that is awake."""

    root: Root
    device: str


def parse_ack(topic: Topic, payload: bytes) -> Acknowledgement | ServiceMessage:
    """Read a message on `…/ack`; raises RemoteProtocolError when it says nothing that we know for sure."""
    _require_channel(topic, "ack")
    reading = read_message(payload)
    document = storable(reading.document)
    if "command_ack" in document:
        return _acknowledgement(topic, document, reading)
    name = short_text(document.get("image_name"), _LONGEST_NAME)
    if reading.repairs:
        raise RemoteProtocolError("the message has no command_ack, and what services say is strict JSON")
    if "ACK_OK" in document:
        return ServiceMessage(topic.root, topic.device, "ACK_OK", name)
    if "missing_chunks" in document:
        return ServiceMessage(topic.root, topic.device, "missing_chunks", name)
    raise RemoteProtocolError("the message has no command_ack")


def parse_heartbeat(topic: Topic, payload: bytes) -> Heartbeat | LastWill:
    """Read a message on `…/status`; where nothing can be read of it, it is a HELLO without extras.

    An unreadable extra counts as absent. Raises RemoteProtocolError for another channel alone.
    """
    _require_channel(topic, "status")
    if not payload:
        return LastWill(topic.root, topic.device)
    if len(payload) > LARGEST_MESSAGE:
        return Heartbeat(topic.root, topic.device, repairs=frozenset({"too_large"}))
    try:
        reading = read_message(payload)
    except RemoteProtocolError:
        return _from_word(topic, payload[:_LONGEST_WORD].decode(errors="replace").strip(_AROUND_A_WORD))
    if _is_last_will(reading):
        return LastWill(topic.root, topic.device)
    return _heartbeat(topic, reading.document, reading.repairs)


def _from_word(topic: Topic, word: str) -> Heartbeat | LastWill:
    """A message that is no object; bytes behind its first NUL are not looked at."""
    word = word.partition("\0")[0].strip(_AROUND_A_WORD).lower()
    if word == _OFFLINE:
        return LastWill(topic.root, topic.device)
    repairs: frozenset[Repair] = frozenset({"plain_text" if word in _ALIVE else "unreadable"})
    return Heartbeat(topic.root, topic.device, repairs=repairs)


def _is_last_will(reading: Reading) -> bool:
    """Whether it says offline, and nothing else: a device that may be awake is answered."""
    status, alive = reading.document.get("status"), reading.document.get("alive")
    if not reading.conflicts.isdisjoint({"status", "alive"}):
        return False
    if isinstance(status, str):
        return status.strip(_AROUND_A_WORD).lower() == _OFFLINE
    return status is None and alive is False


def _heartbeat(topic: Topic, document: dict[str, Any], repairs: frozenset[Repair]) -> Heartbeat:
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
        repairs=repairs,
    )


def claimed_device(topic: Topic, document: Mapping[str, Any]) -> str | None:
    """The `device_id` in a message, if it names another device than the one whose topic it came on."""
    claimed = document.get("device_id")
    # Most devices spell it as in their topic, and chunks come by the thousand.
    if claimed == topic.device:
        return None
    name = short_text(claimed, _LONGEST_NAME)
    return name if name and device_key(name) != device_key(topic.device) else None


def _require_channel(topic: Topic, channel: Channel) -> None:
    if topic.channel != channel:
        raise RemoteProtocolError(f"a message on …/{topic.channel} was read as one on …/{channel}")


def _acknowledgement(topic: Topic, document: dict[str, Any], reading: Reading) -> Acknowledgement:
    answer = document["command_ack"]
    detail = answer if isinstance(answer, dict) else {}
    reasons = (part.get(key) for part in (detail, document) for key in ("message", "reason", "error"))
    command_id = _command_id(document.get("command_id", detail.get("command_id")))
    if reading.repairs:
        _require_sure_meaning(reading, command_id, document, detail)
    outcome = _outcome(detail.get("status") if isinstance(answer, dict) else answer)
    return Acknowledgement(
        topic.root,
        topic.device,
        outcome=outcome,
        command_id=command_id,
        command_type=short_text(detail.get("type"), _LONGEST_NAME),
        message=next((text for reason in reasons if (text := short_text(reason, _LONGEST_REASON))), None),
        claimed_device=claimed_device(topic, document),
        response=document,
        repairs=reading.repairs,
        progress=_progress(reading, detail, document) if outcome == "in_progress" else None,
    )


def _progress(reading: Reading, *parts: dict[str, Any]) -> int | None:
    """The share that is done, in per cent, from 0 to 100; None where that is not said for sure.

    A fraction between 0 and 1 is a share of one: firmware in the field writes 0.4 for 40 %.
    """
    if "cut_off" in reading.repairs or not reading.conflicts.isdisjoint(_PROGRESS_KEYS):
        return None
    said = next((part[key] for part in parts for key in _PROGRESS_KEYS if key in part), None)
    text = said.strip().removesuffix("%") if isinstance(said, str) else said
    share = number(text, 0, sys.float_info.max)
    if share is None:
        return None
    is_fraction = 0 < share < 1 and not (isinstance(said, str) and "%" in said)
    return min(round(share * 100 if is_fraction else share), 100)


def _require_sure_meaning(reading: Reading, command_id: str | None, *parts: dict[str, Any]) -> None:
    """Raise RemoteProtocolError where a repair may have changed which command it is about, or what it says.

    Without an id, an answer is for the command sent last: so one whose id may be lost means nothing.
    """
    if "unreadable_rest" in reading.repairs:
        raise RemoteProtocolError("the answer cannot be read to its end, so what it means is not certain")
    if "nul" in reading.repairs:
        raise RemoteProtocolError("the answer has a NUL within, so what is behind it may be another's")
    doubled = reading.conflicts & _MEANING
    if doubled:
        raise RemoteProtocolError(f"the answer has {' and '.join(sorted(doubled))} twice, and not the same")
    if command_id is None and (
        "cut_off" in reading.repairs
        or "command_id" in reading.rest.partition("\0")[0]
        or any(_UNUSABLE_IN_NAMES.search(key) or "\\" in key for part in parts for key in part)
        or (reading.repairs & {"missing_value", "number"} and any("command_id" in part for part in parts))
    ):
        raise RemoteProtocolError("the answer may have lost its command_id, so its command is not certain")


def _outcome(status: object) -> Outcome:
    word = "true" if status is True else status
    outcome = _OUTCOMES.get(_BETWEEN_WORDS.sub("_", word.strip().lower())) if isinstance(word, str) else None
    if outcome is None:
        raise RemoteProtocolError(
            f"command_ack says {str(status)[:50]!r}, which means neither done nor failed nor in progress"
        )
    return outcome


def _command_id(value: object) -> str | None:
    """An id that cannot be read must not turn the answer into one to whichever command was sent last."""
    value = value.strip() if isinstance(value, str) else value
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or _UNUSABLE_IN_NAMES.search(value):
        raise RemoteProtocolError(f"command_id {str(value)[:50]!r} is not one that this service sends")
    return value


def _names(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else []
    usable = (name for name in names if isinstance(name, str) and 1 <= len(name) <= _LONGEST_NAME)
    return tuple(dict.fromkeys(name for name in usable if not _UNUSABLE_IN_NAMES.search(name)))[:_MOST_NAMES]
