"""What a simulated device makes of messages: which command it is, and what in it breaks the protocol."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_CLOCK = re.compile(r"(1[0-2]|[1-9]):[0-5][0-9](AM|PM)")
_ADDRESS = frozenset({"device_id", "command_id"})


def command_type(fields: Mapping[str, Any]) -> str:
    """Return which of the six commands this is, as firmware tells them apart: by their keys."""
    if fields.get("capture_image") is True:
        return "capture_image"
    if fields.get("reboot") is True:
        return "reboot"
    for key, name in (
        ("send_image", "send_image"),
        ("next_wake", "set_wake_schedule"),
        ("firmware_url", "update_firmware"),
    ):
        if key in fields:
            return name
    return "update_config" if fields.keys() - _ADDRESS else "unknown"


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
