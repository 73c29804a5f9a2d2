"""The service's messages as a simulated device reads them: what each is, and what breaks the protocol."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from mqtt_service.simulator.link import ReceivedMessage

_CLOCK = re.compile(r"(1[0-2]|[1-9]):[0-5][0-9](AM|PM)")
ADDRESS = frozenset({"device_id", "command_id"})


@dataclass(frozen=True)
class IncomingMessage:
    """What a message is; `own`: the device's own acknowledgement, which comes back to it on `…/ack`.

    `faults` is what breaks the protocol, in words. A reply (about a picture) is `usable` if nothing in it
    does.
    """

    kind: Literal["command", "reply", "own", "unreadable"]
    fields: Mapping[str, Any]
    faults: tuple[str, ...] = ()
    usable: bool = True


def read_message(message: ReceivedMessage, device_id: str) -> IncomingMessage:
    """Return what a message to this device is."""
    try:
        fields = json.loads(message.payload)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return IncomingMessage("unreadable", {}, (f"not a JSON object: {message.payload[:80]!r}",))
    is_reply = message.topic.endswith("/ack")
    if is_reply and "command_ack" in fields:
        return IncomingMessage("own", fields)
    faults = reply_faults(fields) if is_reply else command_faults(fields, message.qos)
    every_fault = (*_delivery_faults(message, fields, device_id), *faults)
    return IncomingMessage("reply" if is_reply else "command", fields, every_fault, usable=not faults)


def _delivery_faults(message: ReceivedMessage, fields: Mapping[str, Any], device_id: str) -> list[str]:
    faults = ["the message was retained"] if message.retained else []
    if device_key(str(fields.get("device_id"))) != device_key(device_id):
        faults.append(f"device_id is {fields.get('device_id')!r}")
    return faults


def command_type(fields: Mapping[str, Any]) -> str:
    """Return which of the built-in commands this is, as firmware tells them apart: by their keys."""
    if fields.get("capture_image") is True:
        return "capture_image"
    if fields.get("reboot") is True:
        return "reboot"
    if fields.get("ping") is True:
        return "ping"
    for key, name in (
        ("send_image", "send_image"),
        ("next_wake", "set_wake_schedule"),
        ("firmware_url", "update_firmware"),
    ):
        if key in fields:
            return name
    return "update_config" if fields.keys() - ADDRESS else "unknown"


def command_faults(fields: Mapping[str, Any], qos: int) -> list[str]:
    """Return what is wrong with a message on `…/cmd`."""
    faults = []
    if qos != 1:
        faults.append(f"QoS {qos}, not 1")
    wake = fields.get("next_wake")
    if wake is not None and not is_wake_time(wake):
        faults.append(f"next_wake is {wake!r}")
    if wake is None and not isinstance(fields.get("command_id"), str):
        faults.append("no command_id")
    return faults


def reply_faults(fields: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a message of the service on `…/ack`."""
    if not isinstance(fields.get("image_name"), str):
        return ["no image_name"]
    told = fields.get("ACK_OK")
    if told is not None:
        wake = told.get("next_wake_time") if isinstance(told, dict) else told
        return [] if is_wake_time(wake) else [f"next_wake_time is {wake!r}"]
    missing = fields.get("missing_chunks")
    if isinstance(missing, list) and missing and all(type(chunk) is int for chunk in missing):
        return []
    return [f"missing_chunks is {missing!r}"] if "missing_chunks" in fields else ["no answer that is known"]


def is_wake_time(value: object) -> bool:
    """Return whether firmware can read it: `5:30PM`, or ISO 8601 with an offset."""
    if not isinstance(value, str):
        return False
    if _CLOCK.fullmatch(value):
        return True
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def device_key(device_id: str) -> str:
    """Return one key for all spellings: twelve hex digits are one device, whatever their separators."""
    digits = re.sub(r"[:.\-\s]", "", device_id)
    return digits.upper() if re.fullmatch(r"[0-9A-Fa-f]{12}", digits) else device_id
