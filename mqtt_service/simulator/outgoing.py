"""What a simulated device says of itself and of commands, in each form that docs/protocol.md names."""

from collections.abc import Sequence
from random import Random
from typing import Any

from mqtt_service.simulator.options import AckForm, Answer
from mqtt_service.simulator.pictures import Spelling

_ALIVE: dict[Spelling, dict[str, Any]] = {
    "spec": {"status": "alive"},
    "field": {"status": "Alive"},
    "older": {"alive": True},
}


def heartbeat_document(
    device_id: str,
    form: Spelling,
    count: int,
    names: Sequence[str] | None,
    rng: Random,
    firmware_version: str = "sim-1",
) -> dict[str, Any]:
    """Return a HELLO; without `names` it has no `pending_list`. Its readings come from `rng`."""
    return {
        "device_id": device_id,
        **_ALIVE[form],
        "pending_count" if form == "older" else "pendingImg": count,
        **({} if names is None else {"pending_list": list(names)}),
        "firmware_version": firmware_version,
        "battery_voltage": round(rng.uniform(3.6, 4.1), 2),
        "wifi_rssi": rng.randint(-80, -45),
    }


def progress_report(
    device_id: str, form: AckForm, command_type: str, command_id: str, percent: int
) -> dict[str, Any]:
    """Return what a device says while it is at a command."""
    device = {"device_id": device_id}
    said = {"progress": percent, "message": f"simulated: {percent} %"}
    match form:
        case "plain":
            return {**device, "command_ack": "in_progress", **said}
        case "typed":
            return {**device, "command_ack": {"type": command_type, "status": "in_progress", **said}}
        case "by_id":
            return {**device, "command_id": command_id, "command_ack": "in_progress", **said}


def acknowledgement(
    device_id: str, form: AckForm, command_type: str, command_id: str, answer: Answer
) -> dict[str, Any]:
    """Return the acknowledgement of a command; `answer` is not "none"."""
    device = {"device_id": device_id}
    word = "acknowledged" if answer == "success" else answer
    reason = {} if answer == "success" else {"reason": f"simulated: {answer}"}
    match form:
        case "plain":
            return {**device, "command_ack": word, **reason}
        case "typed":
            message = reason.get("reason", "done")
            return {**device, "command_ack": {"type": command_type, "status": answer, "message": message}}
        case "by_id":
            return {**device, "command_id": command_id, "command_ack": word, **reason}
