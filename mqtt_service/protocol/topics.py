"""Topics: which device, on which root, about what. The topic alone says which device a message is from.

    device/{id}/status    ESP32CAM/{id}/status    HELLO, from the device
    device/{id}/cmd       ESP32CAM/{id}/cmd       commands, from us
    device/{id}/ack       ESP32CAM/{id}/ack       answers, from both sides
    device/{id}/data      ESP32CAM/{id}/data      pictures, from the device

A device is answered on the root from which it last spoke.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeGuard

from mqtt_service.errors import LocalProtocolError, RemoteProtocolError

Root = Literal["device", "ESP32CAM"]
Channel = Literal["status", "cmd", "ack", "data"]

_FOR_ONE_WORKER = ("device/+/ack", "ESP32CAM/+/ack", "device/+/status", "ESP32CAM/+/status")
# Every worker keeps a picture's chunks, so that any of them can finish it.
_FOR_EVERY_WORKER = ("ESP32CAM/+/data", "device/+/data")

LONGEST_ID = 256
# Ids under which `mqtt-service doctor` tries the broker: no device has one, and a worker takes no notice.
_PROBES = "mqtt-service-doctor-"

# A broker may close the connection over any of these in a topic (MQTT 5, sections 1.5.4 and 4.7.1): one such
# row would keep all other commands from being sent, again and again.
_WILDCARDS = re.compile(r"[+#/]")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef]")
# The last two code points of every plane are no characters.
_NO_CHARACTER = 0xFFFE
_SEPARATORS = re.compile(r"[:.\-\s]")
_MAC = re.compile(r"[0-9A-Fa-f]{12}")


@dataclass(frozen=True, slots=True)
class Topic:
    """The parts of a topic; `device` is the id as the device spells it."""

    root: Root
    device: str
    channel: Channel


def subscriptions(group: str | None) -> tuple[str, ...]:
    """What a worker subscribes to; with a group, its members share acknowledgements and HELLOs (MQTT 5)."""
    shared = [f"$share/{group}/{topic}" for topic in _FOR_ONE_WORKER] if group else _FOR_ONE_WORKER
    return (*shared, *_FOR_EVERY_WORKER)


@lru_cache(maxsize=4096)  # a device sends one picture in dozens of messages
def parse_topic(topic: str) -> Topic:
    """The parts of a received topic; raises RemoteProtocolError for one that is not of this protocol."""
    root, _, rest = topic.partition("/")
    device, _, channel = rest.rpartition("/")
    if not _is_root(root) or not _is_channel(channel):
        raise RemoteProtocolError(
            f"the topic {topic[:LONGEST_ID]!r} is not one on which devices publish; drop the message"
        )
    fault = _fault_of_id(device)
    if fault:
        raise RemoteProtocolError(f"the topic's device id {fault}; drop the message")
    return Topic(root, device, channel)


def command_topic(root: str, device_id: str) -> str:
    """Where a device listens for commands; raises LocalProtocolError for an id that no topic can carry."""
    return _topic(root, device_id, "cmd")


def ack_topic(root: str, device_id: str) -> str:
    """Where a device listens for our answers about pictures; raises like `command_topic`."""
    return _topic(root, device_id, "ack")


def probe_id(random_text: str) -> str:
    """A device id to try the broker with."""
    return _PROBES + random_text


def is_probe(device_id: str) -> bool:
    """Whether nobody but `mqtt-service doctor` speaks under this id."""
    return device_id.startswith(_PROBES)


@lru_cache(maxsize=4096)
def device_key(device_id: str) -> str:
    """One key for all spellings of a device: a MAC bare and in upper case, any other id as it is.

    The same rule as the database's `mqtt_private.fn_device_key`.
    """
    bare = _SEPARATORS.sub("", device_id)
    return bare.upper() if _MAC.fullmatch(bare) else device_id


def _topic(root: str, device_id: str, channel: Channel) -> str:
    if not _is_root(root):
        raise LocalProtocolError(f"mqtt_root {root!r} is unknown; set the device's to 'device' or 'ESP32CAM'")
    fault = _fault_of_id(device_id)
    if fault:
        raise LocalProtocolError(f"the device's MQTT id {fault}; correct devices.device_mac")
    return f"{root}/{device_id}/{channel}"


def _fault_of_id(device_id: str) -> str | None:
    if not device_id:
        return "is empty"
    if len(device_id) > LONGEST_ID:
        return f"is longer than {LONGEST_ID} characters"
    if _WILDCARDS.search(device_id):
        return f"{device_id!r} contains one of + # /"
    if _UNSAFE.search(device_id) or any(ord(letter) & _NO_CHARACTER == _NO_CHARACTER for letter in device_id):
        return f"{device_id!r} contains a character that no topic may carry"
    return None


def _is_root(text: str) -> TypeGuard[Root]:
    return text in {"device", "ESP32CAM"}


def _is_channel(text: str) -> TypeGuard[Channel]:
    return text in {"status", "cmd", "ack", "data"}
