"""What a device is told without a row is on the wire as the protocol has it, and known by its id."""

import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.errors import LocalProtocolError
from mqtt_service.protocol.messages import ServiceMessage, parse_ack
from mqtt_service.protocol.replies import (
    encode_ack_ok,
    encode_capture_image,
    encode_missing_chunks,
    encode_next_wake,
    encode_send_image,
    is_reply_id,
    reply_id,
)
from mqtt_service.protocol.topics import Topic

MAC = "AA:BB:CC:DD:EE:FF"
ID = reply_id(bytes(16))
HALF_PAST_FIVE = datetime(2025, 8, 29, 17, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("sent", "wire"),
    [
        (
            encode_send_image(MAC, ID, "image_001.jpg"),
            f'{{"device_id": "{MAC}", "command_id": "{ID}", "send_image": "image_001.jpg"}}',
        ),
        (
            encode_capture_image(MAC, ID),
            f'{{"device_id": "{MAC}", "command_id": "{ID}", "capture_image": true}}',
        ),
        (
            encode_next_wake(MAC, ID, HALF_PAST_FIVE, "12h"),
            f'{{"device_id": "{MAC}", "command_id": "{ID}", "next_wake": "5:30PM"}}',
        ),
        (
            encode_next_wake(MAC, ID, HALF_PAST_FIVE, "iso"),
            f'{{"device_id": "{MAC}", "command_id": "{ID}", "next_wake": "2025-08-29T17:30:00Z"}}',
        ),
        (
            encode_missing_chunks(MAC, "image_001.jpg", (5, 10, 23)),
            f'{{"device_id": "{MAC}", "image_name": "image_001.jpg", "missing_chunks": [5, 10, 23]}}',
        ),
        (
            encode_ack_ok(MAC, "Bild ü.jpg", HALF_PAST_FIVE, "12h"),
            f'{{"device_id": "{MAC}", "image_name": "Bild ü.jpg", "ACK_OK": {{"next_wake_time": "5:30PM"}}}}',
        ),
        (
            encode_ack_ok("x", "a", HALF_PAST_FIVE, "iso"),
            '{"device_id": "x", "image_name": "a", "ACK_OK": {"next_wake_time": "2025-08-29T17:30:00Z"}}',
        ),
    ],
)
def test_a_reply_is_on_the_wire_exactly_so(sent: bytes, wire: str) -> None:
    assert sent.decode() == wire


def test_an_answer_about_a_picture_that_comes_back_is_known_as_our_own() -> None:
    topic = Topic("device", MAC, "ack")
    for kind, sent in (
        ("ACK_OK", encode_ack_ok(MAC, "a.jpg", HALF_PAST_FIVE, "12h")),
        ("missing_chunks", encode_missing_chunks(MAC, "a.jpg", [1])),
    ):
        answer = parse_ack(topic, sent)
        assert isinstance(answer, ServiceMessage)
        assert answer.kind == kind


@given(st.binary(min_size=16, max_size=16))
def test_a_reply_is_known_by_its_id_however_a_device_spells_it(random: bytes) -> None:
    made = reply_id(random)
    assert (made.version, made.variant) == (8, "specified in RFC 4122")
    for spelled in (str(made), str(made).upper(), made.hex, f" {{{made}}}\n"):
        assert is_reply_id(spelled)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_two_replies_have_one_id_only_by_the_chance_of_90_bits(one: bytes, other: bytes) -> None:
    # 128 bits less 32 of the mark, 4 of the version and 2 of the variant.
    free = int.from_bytes(b"\0\0\0\0\xff\xff\x0f\xff\x3f" + b"\xff" * 7)
    alike = int.from_bytes(one) & free == int.from_bytes(other) & free
    assert (reply_id(one) == reply_id(other)) is alike


@given(st.uuids() | st.text().map(str))
def test_an_id_of_a_row_is_never_one_of_a_reply(found: UUID | str) -> None:
    assert not is_reply_id(str(found))


def test_what_is_no_id_is_none_of_a_reply() -> None:
    almost = str(ID)
    for text in (
        None,
        "",
        almost[:-1],
        almost + "0",
        "0" + almost[1:],
        almost.replace("-8", "-4"),
        str(uuid4()),
    ):
        assert not is_reply_id(text)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_an_id_takes_sixteen_random_bytes(length: int) -> None:
    with pytest.raises(ValueError, match=f"16 random bytes, not {length}"):
        reply_id(bytes(length))


def test_what_no_message_can_carry_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError, match="no message can carry"):
        encode_send_image(MAC, ID, "\ud800")
    with pytest.raises(LocalProtocolError, match="no time zone"):
        encode_ack_ok(MAC, "a.jpg", HALF_PAST_FIVE.replace(tzinfo=None), "12h")


@given(st.text(), st.lists(st.integers(0, 5000)))
def test_names_and_chunks_are_told_as_they_are(name: str, chunks: list[int]) -> None:
    assert json.loads(encode_missing_chunks(MAC, name, chunks)) == {
        "device_id": MAC,
        "image_name": name,
        "missing_chunks": chunks,
    }
