"""Where a message on `…/data` goes: a chunk into memory at once, what has to wait to a handler."""

import json
from datetime import datetime
from typing import Any, cast

import pytest

from mqtt_service import inbound
from mqtt_service.adapters.mqtt.messages import AtOnce, InboundMessage
from mqtt_service.inbound import InboundRouter
from mqtt_service.protocol.assembly import Limits
from mqtt_service.protocol.topics import Topic
from tests.unit.devices.visit_fakes import DEVICE, Bench, bench, row


class _Visits:
    def __init__(self, parts: Bench) -> None:
        self._visit = parts.visit(row(holds_lease=False))

    def heard_from(self, _device: str) -> Any:
        return self._visit


def router(parts: Bench, **changes: Any) -> InboundRouter:
    unused = cast("Any", None)
    return InboundRouter(
        unused, unused, parts.pictures, cast("Any", _Visits(parts)), telemetry=unused, **changes
    )


def message(**document: object) -> InboundMessage:
    payload = json.dumps({"device_id": DEVICE, "image_name": "a.jpg", **document}).encode()
    return InboundMessage(f"ESP32CAM/{DEVICE}/data", payload, 1, duplicate=False)


def chunk(chunk_id: int) -> InboundMessage:
    return message(chunk_id=chunk_id, payload="AAAAAAAA")


async def test_a_chunk_is_kept_at_once_and_one_without_room_is_kept_later() -> None:
    async with bench(Limits(buffered_bytes=10)) as parts:
        routed = router(parts)
        assert routed.handle_at_once(chunk(0)) is AtOnce.HANDLED
        assert routed.handle_at_once(chunk(1)) is AtOnce.NO_ROOM
        parts.pictures.discard_device(DEVICE)
        assert routed.handle_at_once(chunk(1)) is AtOnce.HANDLED


async def test_a_chunk_at_a_bound_that_does_not_pass_is_left_to_the_handler_which_tells_the_row() -> None:
    async with bench(Limits(max_chunks=5)) as parts:
        assert router(parts).handle_at_once(chunk(9)) is AtOnce.TO_HANDLER


async def test_metadata_is_not_read_before_its_handler_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def parse(_topic: Topic, payload: bytes, *, now: datetime) -> object:
        read.append(payload)
        raise AssertionError(f"read at {now}")

    monkeypatch.setattr(inbound, "parse_data", parse)
    async with bench() as parts:
        assert router(parts).handle_at_once(message(total_chunks_count=2)) is AtOnce.TO_HANDLER
    assert read == []


async def test_a_stand_by_keeps_no_chunk() -> None:
    async with bench() as parts:
        assert router(parts, standby=True).handle_at_once(chunk(0)) is AtOnce.TO_HANDLER
