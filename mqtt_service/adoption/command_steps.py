"""The steps of the trial that are about a command: inserted, claimed, sent, acknowledged."""

from mqtt_service.adoption.flow import WORKER, Answer, Flow, RefusedError, change, first, unique_ref, words

# Of 200 commands each: where more of the project's wait before it, the trial's own is not waited for.
_CLAIMS = 20
_NOT_CLAIMED = "the command was not claimed"


def insert_command(flow: Flow) -> None:
    """A command is queued, as a dashboard does."""
    row = {"device_id": flow.device_id, "command_type": "capture_image", "command_payload": "{}"}
    flow.command_id = flow.insert("device_commands", "command_id", **row)


def claim_command(flow: Flow) -> str | None:
    """A worker takes what is due, ours among it."""
    for _ in range(_CLAIMS):
        claim = flow.call("fn_claim_commands", WORKER)
        flow.commands += claim["commands"]
        _look_at_refused(flow, [*claim.get("refused", []), *claim.get("failed", [])])
        if _is_claimed(flow):
            return None
        if not claim.get("more"):
            raise _refused(flow, "the command was not handed out", "lease_worker = 'mqtt-service-check'")
    return f"more than {len(flow.commands)} commands of the project wait before it"


def _look_at_refused(flow: Flow, refused: list[Answer]) -> None:
    """What of the project's own cannot be claimed is remarked."""
    for command in refused:
        if str(command["command_id"]) == flow.command_id:
            raise _refused(flow, str(command.get("error")), "lease_worker = 'mqtt-service-check'")
    if refused:
        flow.remarks.append(
            f"the claim passes over {len(refused)} of the project's commands, the first since:"
            f" {refused[0].get('error')}"
        )


def settle_command(flow: Flow) -> str | None:
    """Note that the broker has what was claimed for the trial's device."""
    if not _is_claimed(flow):
        return _NOT_CLAIMED
    own = [command for command in flow.commands if str(command["device_id"]) == flow.device_id]
    results = [{"command_id": c["command_id"], "attempt": c["attempt"], "outcome": "sent"} for c in own]
    for settled in flow.call("fn_settle_commands", WORKER, results):
        if settled.get("result") != "settled" or settled.get("status") != "sent" or settled.get("error"):
            raise _refused(flow, words(settled), "status = 'sent', delivered_at = now()")
    return None


def acknowledge_command(flow: Flow) -> str | None:
    """The device says that it did it."""
    if not _is_claimed(flow):
        return _NOT_CLAIMED
    ack = {
        "ref": unique_ref(),
        "topic_root": "ESP32CAM",
        "topic_id": flow.topic_id,
        "command_id": flow.command_id,
        "outcome": "success",
        "response": {},
    }
    answer = first(flow.call("fn_acknowledge_commands", [ack], p_worker=WORKER))
    if answer.get("result") != "acknowledged" or answer.get("error"):
        raise _refused(flow, words(answer), "status = 'acknowledged', acknowledged_at = now()")
    return None


def _is_claimed(flow: Flow) -> bool:
    return any(str(command["command_id"]) == flow.command_id for command in flow.commands)


def _refused(flow: Flow, message: str, assignments: str) -> RefusedError:
    return RefusedError(message, change("device_commands", "command_id", flow.command_id, assignments))
