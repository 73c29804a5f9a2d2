"""Which ref and delivery id a message from a device gets."""

from dataclasses import replace

import pytest

from mqtt_service.adapters.mqtt import message_identity
from mqtt_service.adapters.mqtt.message_identity import MessageRefs, delivery_id
from mqtt_service.adapters.mqtt.messages import InboundMessage

FIRST = InboundMessage("device/a/ack", b"{}", 1, duplicate=False, packet_id=7, received_at=100.0)
REPEAT = replace(FIRST, duplicate=True, received_at=200.0)


def refs(session_started_at: float | None = None) -> MessageRefs:
    return MessageRefs("worker:1a2b", lambda: session_started_at)


def test_each_message_gets_a_ref_of_its_own() -> None:
    made = refs()
    assert [made.ref_of(FIRST), made.ref_of(FIRST)] == ["worker:1a2b:1", "worker:1a2b:2"]


def test_a_repeat_of_a_message_that_was_cancelled_gets_its_ref_once() -> None:
    made = refs()
    ref = made.ref_of(FIRST)
    made.cancelled(FIRST, ref)
    assert made.ref_of(REPEAT) == ref
    assert made.ref_of(REPEAT) != ref


def test_messages_of_the_same_content_get_their_refs_back_in_their_order() -> None:
    made = refs()
    given = [made.ref_of(FIRST), made.ref_of(FIRST)]
    for ref in given:
        made.cancelled(FIRST, ref)
    assert [made.ref_of(REPEAT), made.ref_of(REPEAT)] == given


def test_a_message_that_is_no_repeat_gets_a_new_ref() -> None:
    made = refs()
    ref = made.ref_of(FIRST)
    made.cancelled(FIRST, ref)
    assert made.ref_of(FIRST) != ref


def test_a_new_session_of_the_broker_repeats_nothing_of_the_last() -> None:
    made = refs(session_started_at=150.0)
    made.cancelled(FIRST, "old")
    assert made.ref_of(REPEAT) != "old"


def test_what_is_remembered_of_cancelled_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_identity, "_MAX_CANCELLED", 1)
    made = refs()
    other = replace(FIRST, payload=b"[]")
    made.cancelled(FIRST, "forgotten")
    made.cancelled(other, "kept")
    assert made.ref_of(REPEAT) != "forgotten"
    assert made.ref_of(replace(other, duplicate=True)) == "kept"


def test_a_delivery_is_named_alike_by_all_processes_of_a_client_id() -> None:
    name = delivery_id("worker:1a2b", FIRST)
    assert name is not None
    assert name.startswith("worker#7#")
    assert delivery_id("worker:3c4d", REPEAT) == name
    assert delivery_id("worker:1a2b", replace(FIRST, payload=b"[]")) != name
    assert delivery_id("other:1a2b", FIRST) != name


def test_a_delivery_without_a_telling_packet_id_has_no_name() -> None:
    assert delivery_id("worker:1a2b", replace(FIRST, packet_id=None)) is None
