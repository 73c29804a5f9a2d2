"""Phoenix's messages in both versions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.devstack.realtime import phoenix
from mqtt_service.devstack.realtime.phoenix import V1, V2, Message
from mqtt_service.errors import RemoteProtocolError

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
)


def text_of(message: Message) -> str:
    """The text frame of version 2.0.0."""
    frame = phoenix.encode(message, V2)
    assert isinstance(frame, str)
    return frame


def test_version_1_reads_an_object() -> None:
    text = '{"topic": "t", "event": "e", "payload": {"a": 1}, "ref": 7, "join_ref": "3"}'
    assert phoenix.decode(text, V1) == Message("t", "e", {"a": 1}, "7", "3")


def test_version_2_reads_an_array() -> None:
    assert phoenix.decode('["3", null, "t", "e", {"a": 1}]', V2) == Message("t", "e", {"a": 1}, None, "3")


def test_what_is_written_in_version_2_is_read_back() -> None:
    message = Message("t", "e", {"ü": [1]}, "1", "2")
    assert phoenix.decode(text_of(message), V2) == message


def test_half_a_surrogate_pair_from_a_client_can_be_sent_back() -> None:
    message = phoenix.decode(r'["1", "1", "\ud800", "e", {}]', V2)
    assert text_of(phoenix.reply(message, {})).encode()


def test_version_1_writes_no_join_ref() -> None:
    assert json.loads(phoenix.encode(Message("t", "e", {}, "1", "2"), V1)) == {
        "topic": "t",
        "event": "e",
        "payload": {},
        "ref": "1",
    }


def test_a_broadcast_is_an_object_in_version_1() -> None:
    message = phoenix.broadcast("realtime:room", "due", {"a": 1}, "the id")
    assert json.loads(phoenix.encode(message, V1)) == {
        "topic": "realtime:room",
        "event": "broadcast",
        "payload": {"type": "broadcast", "event": "due", "payload": {"a": 1}, "meta": {"id": "the id"}},
        "ref": None,
    }


def test_a_broadcast_is_binary_in_version_2_with_the_lengths_in_bytes() -> None:
    frame = phoenix.encode(phoenix.broadcast("realtime:zoö", "fällig", {"a": "ü"}, "7"), V2)
    assert frame == (
        bytes([4, 13, 7, 10, 1]) + "realtime:zoöfällig".encode() + b'{"id":"7"}' + b'{"a":"\\u00fc"}'
    )


@pytest.mark.parametrize(("topic", "event"), [("realtime:" + "x" * 247, "due"), ("realtime:x", "ü" * 128)])
def test_a_broadcast_of_a_name_beyond_255_bytes_cannot_be_written(topic: str, event: str) -> None:
    with pytest.raises(RemoteProtocolError):
        phoenix.encode(phoenix.broadcast(topic, event, {}, "7"), V2)


def test_a_reply_repeats_the_references_of_its_request() -> None:
    answer = phoenix.reply(Message("t", "e", {}, "1", "2"), {"reason": "no"}, status="error")
    assert (answer.ref, answer.join_ref, answer.event) == ("1", "2", "phx_reply")
    assert answer.payload == {"status": "error", "response": {"reason": "no"}}


def test_a_system_message_names_the_channel_without_its_prefix() -> None:
    note = phoenix.system("realtime:room:1", "2", extension="system", status="error", text="expired")
    assert note.payload["channel"] == "room:1"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("", V1),
        ("[]", V1),
        ('{"topic": "t", "event": "e"}', V1),
        ('{"topic": 1, "event": "e", "payload": {}}', V1),
        ('["1", "1", "t", "e"]', V2),
        ('["1", "1", "t", "e", []]', V2),
        ('{"topic": "t", "event": "e", "payload": {}}', V2),
        ("[" * 100_000, V2),
    ],
)
def test_what_is_no_message_is_refused(text: str, version: str) -> None:
    with pytest.raises(RemoteProtocolError):
        phoenix.decode(text, version)


@given(value=anything, version=st.sampled_from([V1, V2]))
def test_any_json_is_a_message_or_a_typed_error(value: Any, version: str) -> None:
    try:
        message = phoenix.decode(json.dumps(value), version)
    except RemoteProtocolError:
        return
    assert isinstance(message.payload, dict)
