"""PUBLISH packets off the bytes of a connection, many at a time.

paho makes an object of properties, a condition and a match of filters for each message: of the CPU that a
chunk of a picture cost, that was half. So packets that stand whole in what was read are taken here, and
whatever is not plain is left to paho: other packets, parts of packets, and what is malformed.
"""

from typing import NamedTuple

_PUBLISH = 0x30
_TYPE, _DUP, _QOS, _RETAIN = 0xF0, 0x08, 0x06, 0x01
_AT_LEAST_ONCE = 1
_MORE = 0x80
_LONGEST_LENGTH = 4


class Publish(NamedTuple):
    """A message from the broker; `mid` is its packet id, 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int
    duplicate: bool
    retained: bool
    mid: int


def read_publishes(data: bytes, place: int, *, v5: bool) -> tuple[list[Publish], int]:
    """The messages that stand whole in `data` from `place` on, and where the first packet is that is none."""
    messages: list[Publish] = []
    while (found := _read_publish(data, place, v5=v5)) is not None:
        message, place = found
        messages.append(message)
    return messages, place


def _read_publish(data: bytes, place: int, *, v5: bool) -> tuple[Publish, int] | None:
    """The message that begins here, and where it ends (MQTT 5 and 3.1.1, section 3.3)."""
    try:
        first = data[place]
        if first & _TYPE != _PUBLISH:
            return None
        length, at = _variable_integer(data, place + 1)
        end = at + length
        topic_length = data[at] << 8 | data[at + 1]
        topic, at = data[at + 2 : at + 2 + topic_length].decode(), at + 2 + topic_length
        qos, mid = (first & _QOS) >> 1, 0
        if qos:
            mid, at = data[at] << 8 | data[at + 1], at + 2
        if v5:
            properties, at = _variable_integer(data, at)
            at += properties
    except (IndexError, UnicodeDecodeError):
        return None
    if end > len(data) or at > end or not topic or qos > _AT_LEAST_ONCE:
        return None
    return Publish(
        topic,
        data[at:end],
        qos,
        bool(first & _DUP),
        bool(first & _RETAIN),
        mid,
    ), end


def _variable_integer(data: bytes, place: int) -> tuple[int, int]:
    """An integer of up to four bytes, the lowest first, and where it ends (MQTT 5, section 1.5.5)."""
    value = data[place] & ~_MORE
    shift = 7
    for at in range(place, place + _LONGEST_LENGTH):
        if not data[at] & _MORE:
            return value, at + 1
        value |= (data[at + 1] & ~_MORE) << shift
        shift += 7
    raise IndexError("it has more than four bytes")
