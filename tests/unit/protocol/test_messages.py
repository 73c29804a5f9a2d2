"""Whatever a device sends becomes one message or one typed error, and can be stored."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.messages import (
    Acknowledgement,
    Heartbeat,
    Outcome,
    ServiceMessage,
    parse_ack,
    parse_heartbeat,
)
from mqtt_service.protocol.topics import Topic
from mqtt_service.protocol.wire_json import DEEPEST, LARGEST_MESSAGE

MAC = "AA:BB:CC:DD:EE:FF"
ACK = Topic("device", MAC, "ack")
STATUS = Topic("ESP32CAM", "b8f862f9cfb8", "status")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
known_keys = st.sampled_from(
    [
        *(
            "device_id",
            "command_id",
            "command_ack",
            "message",
            "reason",
            "ACK_OK",
            "missing_chunks",
            "status",
        ),
        *("alive", "pendingImg", "pending_count", "pending_list", "battery_voltage", "wifi_rssi"),
    ]
)
likely_documents = st.dictionaries(known_keys | st.text(max_size=3), json_values, max_size=6)


def ack(document: object, topic: Topic = ACK) -> Acknowledgement:
    answer = parse_ack(topic, json.dumps(document).encode())
    assert isinstance(answer, Acknowledgement)
    return answer


def heartbeat(document: object) -> Heartbeat:
    return parse_heartbeat(STATUS, json.dumps(document).encode())


@given(st.binary())
@example(b"[" * 60_000)
@example(b'{"command_ack":' * 4_000)
@example(b'{"command_ack":"ok","n":' + b"9" * 50_000 + b"}")
@example(b'{"command_ack":"ok","n":1e999}')
def test_any_bytes_are_a_message_or_a_remote_fault(payload: bytes) -> None:
    for read, topic in ((parse_ack, ACK), (parse_heartbeat, STATUS)):
        with suppress(RemoteProtocolError):
            assert read(topic, payload).device == topic.device


@given(likely_documents)
def test_any_document_is_a_message_that_can_be_stored_or_a_remote_fault(document: dict[str, Any]) -> None:
    payload = json.dumps(document).encode()
    try:
        answer = parse_ack(ACK, payload)
    except RemoteProtocolError:
        answer = None
    if isinstance(answer, Acknowledgement):
        stored = json.dumps(dict(answer.response), ensure_ascii=False, allow_nan=False)
        assert "\\u0000" not in stored
        stored.encode()
    try:
        said = parse_heartbeat(STATUS, payload)
    except RemoteProtocolError:
        return
    assert said.pending_count >= 0
    assert len(said.pending_names) <= 10


def test_the_plain_form_is_about_the_command_sent_last() -> None:
    answer = ack({"device_id": MAC, "command_ack": "acknowledged"})
    assert (answer.outcome, answer.command_id, answer.command_type, answer.message) == (
        "success",
        None,
        None,
        None,
    )
    assert (answer.root, answer.device) == ("device", MAC)


def test_the_typed_form_is_about_the_command_of_that_type() -> None:
    detail = {"type": "set_wake_schedule", "status": "success", "message": "will do"}
    answer = ack({"device_id": MAC, "command_ack": detail})
    assert (answer.outcome, answer.command_type, answer.message) == (
        "success",
        "set_wake_schedule",
        "will do",
    )


def test_the_named_form_is_about_that_command() -> None:
    document = {"device_id": MAC, "command_id": "0f9c", "command_ack": "failed", "reason": "sd card full"}
    answer = ack(document)
    assert (answer.outcome, answer.command_id, answer.message) == ("failed", "0f9c", "sd card full")
    assert answer.response == document


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        *(
            (word, "success")
            for word in ("acknowledged", "ok", "success", "done", "true", True, " OK ", "Done")
        ),
        *((word, "failed") for word in ("failed", "error", "Error")),
        *((word, "rejected") for word in ("rejected", "unsupported")),
    ],
)
def test_each_word_has_its_meaning_in_both_forms(word: object, outcome: Outcome) -> None:
    assert ack({"command_ack": word}).outcome == outcome
    assert ack({"command_ack": {"status": word}}).outcome == outcome


@pytest.mark.parametrize("word", ["", "maybe", False, None, 1, [], {}, {"status": None}, {"type": "reboot"}])
def test_any_other_word_is_a_remote_fault(word: object) -> None:
    with pytest.raises(RemoteProtocolError, match="neither done nor failed"):
        ack({"command_ack": word})


@pytest.mark.parametrize("command_id", [7, True, [], {}, "x" * 256])
def test_an_unreadable_command_id_never_means_the_command_sent_last(command_id: object) -> None:
    with pytest.raises(RemoteProtocolError, match="not one that this service sends"):
        ack({"command_ack": "ok", "command_id": command_id})


@pytest.mark.parametrize("command_id", [None, ""])
def test_an_empty_command_id_is_none(command_id: object) -> None:
    assert ack({"command_ack": "ok", "command_id": command_id}).command_id is None


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"device_id": MAC, "image_name": "a.jpg", "missing_chunks": [5, 10]}, "missing_chunks"),
        ({"device_id": MAC, "image_name": "a.jpg", "ACK_OK": {"next_wake_time": "5:30PM"}}, "ACK_OK"),
    ],
)
def test_what_the_service_said_itself_is_never_an_acknowledgement(document: object, kind: str) -> None:
    answer = parse_ack(ACK, json.dumps(document).encode())
    assert answer == ServiceMessage("device", MAC, kind, "a.jpg")  # type: ignore[arg-type]  # one of the two


@pytest.mark.parametrize(
    ("claimed", "reported"),
    [
        ("aabbccddeeff", None),
        (MAC, None),
        (None, None),
        (5, None),
        ("BB:BB:CC:DD:EE:01", "BB:BB:CC:DD:EE:01"),
    ],
)
def test_the_topic_says_who_speaks_and_another_name_is_reported(
    claimed: object, reported: str | None
) -> None:
    answer = ack({"device_id": claimed, "command_ack": "ok"})
    assert (answer.device, answer.claimed_device) == (MAC, reported)


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"", "not JSON"),
        (b"acknowledged", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'["command_ack"]', "JSON list, not an object"),
        (b"null", "JSON NoneType, not an object"),
        (b"{}", "no command_ack"),
        (b'{"command_ack": "ok", "command_ack": "failed"}', "appears twice"),
        (b'{"command_ack": "ok", "x": {"a": 1, "a": 1}}', "appears twice"),
        (b'{"command_ack": "ok", "x": NaN}', "NaN is not a JSON number"),
        (b'{"command_ack": "ok", "x": -1e400}', "too large"),
        (b'{"command_ack": "ok", "x": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"command_ack": "ok", "x": "' + b"y" * LARGEST_MESSAGE + b'"}', f"the limit is {LARGEST_MESSAGE}"),
        (b'{"command_ack": "ok", "x": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}", f"deeper than {DEEPEST}"),
        (b'{"command_ack": "ok", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", f"deeper than {DEEPEST}"),
    ],
)
def test_what_cannot_be_read_says_why(payload: bytes, fault: str) -> None:
    with pytest.raises(RemoteProtocolError, match=fault):
        parse_ack(ACK, payload)


def test_what_postgres_cannot_store_is_replaced() -> None:
    answer = parse_ack(ACK, rb'{"command_ack": "failed", "message": "a\u0000b\ud800", "k\u0000": ["\udfff"]}')
    assert isinstance(answer, Acknowledgement)
    assert answer.message == "a\ufffdb\ufffd"
    assert answer.response["k\ufffd"] == ["\ufffd"]


def test_a_long_reason_is_cut() -> None:
    message = ack({"command_ack": "failed", "reason": "x" * 5_000}).message
    assert message == "x" * 500


def test_a_message_is_read_for_the_channel_that_it_came_on() -> None:
    with pytest.raises(RemoteProtocolError, match="…/status"):
        parse_ack(STATUS, b'{"command_ack": "ok"}')
    with pytest.raises(RemoteProtocolError, match="…/ack"):
        parse_heartbeat(ACK, b'{"alive": true}')


def test_a_hello_says_what_is_pending() -> None:
    said = heartbeat(
        {
            "device_id": "B8F862F9CFB8",
            "status": "alive",
            "pendingImg": 2,
            "pending_list": ["image_1.jpg", "image_2.jpg"],
            "firmware_version": "1.4.2",
            "battery_voltage": 3.91,
            "wifi_rssi": -67,
            "location": "ward 4",
        }
    )
    assert said == Heartbeat(
        "ESP32CAM", "b8f862f9cfb8", 2, ("image_1.jpg", "image_2.jpg"), "1.4.2", 3.91, -67, "ward 4", None
    )


@pytest.mark.parametrize(
    ("document", "pending"),
    [
        ({"status": "Alive"}, 0),
        ({"alive": True}, 0),
        ({"alive": True, "pending_count": 3}, 3),
        ({"alive": True, "pendingImg": "4"}, 4),
        ({"alive": True, "pending_list": ["a.jpg"]}, 1),
        ({"alive": True, "pendingImg": -1}, 0),
        ({"alive": True, "pendingImg": {"a": 1}, "pending_list": ["a.jpg"]}, 1),
    ],
)
def test_every_spelling_of_a_hello_is_read(document: object, pending: int) -> None:
    assert heartbeat(document).pending_count == pending


@pytest.mark.parametrize(
    "document", [{}, {"status": "asleep"}, {"alive": False}, {"alive": 1}, {"status": None}]
)
def test_a_status_that_does_not_say_alive_is_a_remote_fault(document: object) -> None:
    with pytest.raises(RemoteProtocolError, match="neither status alive nor alive true"):
        heartbeat(document)


@pytest.mark.parametrize("written", ["NaN", "nan", "-inf", "1e999"])
def test_a_hello_with_a_number_that_is_none_is_answered_all_the_same(written: str) -> None:
    said = parse_heartbeat(
        STATUS, f'{{"status": "alive", "battery_voltage": {written}, "wifi_rssi": -67}}'.encode()
    )
    assert (said.battery_voltage, said.wifi_rssi) == (None, -67)


def test_an_unreadable_extra_does_not_cost_a_device_its_answer() -> None:
    names = ["ok.jpg", "", "x" * 300, "a\nb", 7, "ok.jpg", *(f"{n}.jpg" for n in range(20))]
    said = heartbeat(
        {
            "status": "alive",
            "pending_list": names,
            "battery_voltage": "high",
            "wifi_rssi": 1e300,
            "location": 4,
        }
    )
    assert said.pending_names == ("ok.jpg", *(f"{n}.jpg" for n in range(9)))
    assert (said.battery_voltage, said.wifi_rssi, said.location) == (None, None, None)
