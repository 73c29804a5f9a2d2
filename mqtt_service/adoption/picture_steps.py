"""The steps of the trial that are about a picture, announced and complete, and about readings without one."""

import secrets

from mqtt_service.adoption.flow import WORKER, Flow, RefusedError, change, first, insertion, unique_ref, words

_NAME = f"{WORKER}.jpg"
_CHUNKS, _BYTES = 3, 12_000
_TIME = "2025-01-01T12:00:00Z"
_READINGS = {"temperature": 21.5, "humidity": 50.0, "pressure": 1013.0, "gas_resistance": 15.0}


def announce_picture(flow: Flow) -> None:
    """The device announces a picture, with the readings beside it."""
    picture = {
        "ref": unique_ref(),
        "topic_id": flow.topic_id,
        "image_name": _NAME,
        "captured_at": _TIME,
        "image_size": _BYTES,
        "max_chunk_size": _BYTES // _CHUNKS,
        "total_chunks": _CHUNKS,
        **_READINGS,
        "metadata": {},
    }
    answer = first(flow.call("fn_record_images", WORKER, [picture]))
    if answer.get("result") != "receiving" or answer.get("error"):
        row = {"device_id": flow.device_id, "image_name": _NAME, "status": "receiving"}
        raise RefusedError(words(answer), insertion("device_images", **row))
    flow.image_id = str(answer["image_id"])
    query = "select exists (select from public.device_telemetry where image_id = %(id)s)"
    if not flow.one(query, id=flow.image_id):
        flow.remarks.append("device_telemetry refuses the readings of a picture, which goes on without them")
    flow.remarks.extend(str(warning) for warning in answer.get("warnings") or ())


def complete_picture(flow: Flow) -> None:
    """The picture is stored."""
    outcome = {
        "image_id": flow.image_id,
        "outcome": "complete",
        "received_chunks": _CHUNKS,
        "image_size": _BYTES,
        "sha256": secrets.token_hex(32),
    }
    answer = first(flow.call("fn_settle_images", WORKER, [outcome]))
    if answer.get("result") != "complete" or answer.get("error"):
        stored = change(
            "device_images", "image_id", flow.image_id, "status = 'complete', received_at = now()"
        )
        raise RefusedError(words(answer), stored)


def hear_readings_alone(flow: Flow) -> None:
    """The device says what it measured, without a picture."""
    said = {
        "ref": unique_ref(),
        "topic_id": flow.topic_id,
        "captured_at": _TIME,
        **_READINGS,
        "metadata": {},
    }
    answer = first(flow.call("fn_record_lone_readings", WORKER, [said]))
    if answer.get("result") != "recorded":
        flow.remarks.append(f"device_telemetry refuses readings without a picture: {words(answer)}")
    flow.remarks.extend(str(warning) for warning in answer.get("warnings") or ())
