"""PUBLISH packets off a buffer, beside paho's own reading of the same bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion

from mqtt_service.adapters.mqtt.publish_packets import Publish, read_publishes

_PINGRESP = b"\xd0\x00"
_EXPIRY = b"\x05\x02\x00\x00\x00\x3c"


def variable_integer(value: int) -> bytes:
    """MQTT 5, section 1.5.5."""
    low, high = value % 128, value // 128
    return bytes([low | 0x80]) + variable_integer(high) if high else bytes([low])


def packet(
    topic: bytes, payload: bytes, mid: int = 7, first: int = 0x32, properties: bytes | None = b"\x00"
) -> bytes:
    """MQTT 5, section 3.3; 3.1.1 has no properties."""
    rest = body(topic, payload, mid, first, properties)
    return bytes([first]) + variable_integer(len(rest)) + rest


def body(topic: bytes, payload: bytes, mid: int, first: int, properties: bytes | None) -> bytes:
    """What follows the fixed header."""
    head = len(topic).to_bytes(2, "big") + topic + (mid.to_bytes(2, "big") if first & 6 else b"")
    return head + (properties or b"") + payload


@given(
    topic=st.text(min_size=1, max_size=300).map(str.encode),
    payload=st.binary(max_size=20_000),
    mid=st.integers(1, 65_535),
    first=st.sampled_from([0x30, 0x31, 0x32, 0x33, 0x3A, 0x3B]),
    v5=st.booleans(),
)
def test_what_is_read_is_what_paho_reads(
    topic: bytes, payload: bytes, mid: int, first: int, v5: bool
) -> None:
    properties = _EXPIRY if v5 else None
    data = packet(topic, payload, mid, first, properties)
    (message,), end = read_publishes(data, 0, v5=v5)
    protocol = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
    paho = decode_publish(first, body(topic, payload, mid, first, properties), protocol)
    assert message == Publish(
        paho.topic.decode(), bytes(paho.payload), paho.qos, paho.dup, paho.retain, paho.mid
    )
    assert end == len(data)


def test_many_are_read_up_to_the_first_other_packet() -> None:
    first, second = packet(b"a/1", b"one"), packet(b"a/2", b"two", mid=8)
    data = b"??" + first + second + _PINGRESP + first
    messages, end = read_publishes(data, 2, v5=True)
    assert [message.payload for message in messages] == [b"one", b"two"]
    assert data[end:] == _PINGRESP + first


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("its topic is not UTF-8", packet(b"a/\xff", b"x")),
        ("its topic is empty: it needs an alias that nobody gave", packet(b"", b"x")),
        ("it is of QoS 2, which no subscription of ours asks for", packet(b"a", b"x", first=0x34)),
        ("its topic is longer than the packet", b"\x32\x04\x00\xffab"),
        ("its length has five bytes", b"\x32\xff\xff\xff\xff\x01"),
        ("its properties are longer than the packet", packet(b"a", b"", properties=b"\x7f")),
    ],
)
def test_what_is_not_plain_is_left_to_paho(what: str, data: bytes) -> None:
    assert read_publishes(data, 0, v5=True) == ([], 0), what


def test_a_packet_that_is_not_whole_yet_is_left_for_later_wherever_it_is_cut() -> None:
    whole, cut = packet(b"device/a/data", b"x" * 300), packet(b"device/a/data", b"y" * 300)
    for length in range(len(cut)):
        messages, end = read_publishes(whole + cut[:length], 0, v5=True)
        assert (len(messages), end) == (1, len(whole))
