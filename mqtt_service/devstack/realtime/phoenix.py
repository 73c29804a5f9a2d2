"""Phoenix's messages, as frames of a WebSocket: pure.

Version 1.0.0 writes an object, `{"topic", "event", "payload", "ref", "join_ref"}`; version 2.0.0 writes an
array, `[join_ref, ref, topic, event, payload]`. What a server sends in version 1.0.0 has no `join_ref`.
Frames are text, but for one kind: a broadcast of the server in version 2.0.0 is binary.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mqtt_service.errors import RemoteProtocolError

V1 = "1.0.0"
V2 = "2.0.0"
VERSIONS = (V1, V2)
TOPIC_PREFIX = "realtime:"
BROADCAST = "broadcast"
_V2_LENGTH = 5
_KIND_BROADCAST = 4
_ENCODING_JSON = 1
_LONGEST_FIELD = 255


@dataclass(frozen=True)
class Message:
    """One message in either direction; `ref` ties a reply to its request, `join_ref` a message to a join."""

    topic: str
    event: str
    payload: Mapping[str, Any]
    ref: str | None = None
    join_ref: str | None = None


def decode(text: str, version: str) -> Message:
    """Read a client's frame. Raises RemoteProtocolError for anything that is not a message of `version`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"A frame is not JSON ({error}): send Phoenix messages.") from error
    fields = _v2_fields(value) if version == V2 else _v1_fields(value)
    topic, event, payload, ref, join_ref = fields
    if not (isinstance(topic, str) and isinstance(event, str) and isinstance(payload, dict)):
        raise RemoteProtocolError("A message needs a topic and an event (strings) and a payload (an object).")
    return Message(topic, event, payload, _ref(ref), _ref(join_ref))


def encode(message: Message, version: str) -> str | bytes:
    """Write a server's message as a frame of `version`, of text or of bytes.

    Raises RemoteProtocolError for a broadcast whose topic or event is too long for version 2.0.0.
    """
    value: Any
    if version == V2 and message.event == BROADCAST:
        return _binary_broadcast(message)
    if version == V2:
        value = [message.join_ref, message.ref, message.topic, message.event, message.payload]
    else:
        value = {
            "topic": message.topic,
            "event": message.event,
            "payload": message.payload,
            "ref": message.ref,
        }
    return json.dumps(value, separators=(",", ":"))


def reply(request: Message, response: Mapping[str, Any], *, status: str = "ok") -> Message:
    """Answer a request, with `status` "ok" or "error"."""
    payload = {"status": status, "response": response}
    return Message(request.topic, "phx_reply", payload, request.ref, request.join_ref)


def close(topic: str, join_ref: str | None) -> Message:
    """Tell a client that the server has ended its channel."""
    return Message(topic, "phx_close", {}, join_ref, join_ref)


def error(topic: str, join_ref: str | None) -> Message:
    """Tell a client that its channel has crashed; it is expected to join again."""
    return Message(topic, "phx_error", {}, join_ref, join_ref)


def system(topic: str, join_ref: str | None, *, extension: str, status: str, text: str) -> Message:
    """Say how an extension of the channel fares; `status` is "ok" or "error"."""
    payload = {
        "extension": extension,
        "status": status,
        "message": text,
        "channel": topic.removeprefix(TOPIC_PREFIX),
    }
    return Message(topic, "system", payload, None, join_ref)


def broadcast(topic: str, event: str, payload: Any, message_id: str) -> Message:  # noqa: ANN401 - any JSON
    """Hand over a message that the database sent, under the `id` of its row."""
    body = {"event": event, "payload": payload, "type": BROADCAST, "meta": {"id": message_id}}
    return Message(topic, BROADCAST, body)


def _binary_broadcast(message: Message) -> bytes:
    """Kind, the lengths of topic, event and metadata, the encoding, then these and the payload."""
    fields = [
        message.topic.encode(),
        str(message.payload["event"]).encode(),
        json.dumps(message.payload["meta"], separators=(",", ":")).encode(),
    ]
    if any(len(field) > _LONGEST_FIELD for field in fields):
        raise RemoteProtocolError(
            f"A topic or an event of more than {_LONGEST_FIELD} bytes cannot be broadcast."
        )
    head = bytes([_KIND_BROADCAST, *(len(field) for field in fields), _ENCODING_JSON])
    payload = json.dumps(message.payload["payload"], separators=(",", ":")).encode()
    return b"".join([head, *fields, payload])


def _v1_fields(value: object) -> tuple[Any, Any, Any, Any, Any]:
    if not isinstance(value, dict):
        raise RemoteProtocolError("Protocol 1.0.0 sends objects: ask for vsn=2.0.0 to send arrays.")
    return (
        value.get("topic"),
        value.get("event"),
        value.get("payload"),
        value.get("ref"),
        value.get("join_ref"),
    )


def _v2_fields(value: object) -> tuple[Any, Any, Any, Any, Any]:
    if not isinstance(value, list) or len(value) != _V2_LENGTH:
        raise RemoteProtocolError("Protocol 2.0.0 sends arrays of five: ask for vsn=1.0.0 to send objects.")
    join_ref, ref, topic, event, payload = value
    return topic, event, payload, ref, join_ref


def _ref(value: object) -> str | None:
    return None if value is None else str(value)
