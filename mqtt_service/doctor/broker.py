"""The broker as a worker uses it: credentials, limits, sessions, and a message there and back on each topic.

Messages are empty and go out under a device id that nobody has: no device hears them, and nobody registers
one.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.adapters.mqtt.subscriptions import without_group
from mqtt_service.doctor.broker_connection import BrokerLimits, DoctorConnection, connected
from mqtt_service.doctor.findings import Finding, from_error
from mqtt_service.errors import BrokerUnavailableError, PermanentError, ServiceError
from mqtt_service.protocol.topics import ack_topic, command_topic, probe_id, subscriptions
from mqtt_service.publisher import outcome_of

_ROUND_TRIP = 4.0
_ROOTS = ("device", "ESP32CAM")
_SESSION = 3600
_SMALLEST_PACKET = 64 * 1024
_ALLOW_SPEAKING = "let MQTT_USERNAME write device/+/cmd, device/+/ack, ESP32CAM/+/cmd and ESP32CAM/+/ack"
_ALLOW_HEARING = "let MQTT_USERNAME read device/+/{ack,status,data} and ESP32CAM/+/{ack,status,data}"


async def inspect_login(options: MqttOptions, group: str | None) -> Iterable[Finding]:
    """Credentials and limits; `group` is MQTT_SHARED_GROUP."""
    try:
        async with connected(_own(options, "login")) as connection:
            user = f"as {options.username}" if options.username else "without a name"
            let_in = Finding("credentials", "ok", f"{options.address} lets us in {user}")
            return [let_in, judge_limits(connection.limits, group, speaks_v5=connection.speaks_v5)]
    except ServiceError as error:
        return [from_error("credentials", error)]


def judge_limits(limits: BrokerLimits, group: str | None, *, speaks_v5: bool) -> Finding:
    """What the broker announced, beside what a worker needs."""
    if not speaks_v5:
        cure = "a broker with MQTT 5 also drops commands that have expired and tells who is not there"
        lacks = " and no shared subscriptions (MQTT_SHARED_GROUP)" if group else ""
        return Finding("limits", "warning", f"it speaks MQTT 3.1.1 only{lacks}", cure)
    if group and not limits.shared:
        return Finding(
            "limits", "broken", "it has no shared subscriptions", "unset MQTT_SHARED_GROUP, or allow them"
        )
    if not limits.wildcards:
        return Finding(
            "limits", "broken", "it has no wildcard subscriptions", "allow them: workers hear device/+/ack"
        )
    if limits.maximum_qos == 0:
        return Finding(
            "limits", "broken", "it has QoS 0 only", "raise its maximum QoS to 1: commands need it"
        )
    if limits.maximum_packet is not None and limits.maximum_packet < _SMALLEST_PACKET:
        seen = f"it takes packets of {limits.maximum_packet} bytes at most"
        return Finding("limits", "warning", seen, "raise its maximum packet size to 64 KiB or more")
    at_once = limits.receive_maximum or "65535"
    seen = (
        f"MQTT 5, {at_once} unacknowledged messages; how many it keeps for an absent worker is not announced"
    )
    return Finding("limits", "ok", seen)


async def inspect_session(options: MqttOptions) -> Iterable[Finding]:
    """Whether a session is still there when its client comes back; it is ended afterwards."""
    asked = replace(_own(options, "session"), session_expiry=_SESSION)
    try:
        async with connected(asked) as first:
            granted = first.limits.session_expiry
        async with connected(asked) as second:
            kept = second.ready.result().session_present
    finally:
        with suppress(ServiceError):  # a broker that is gone now lets the session expire
            async with connected(replace(asked, session_expiry=0)):
                pass
    if not kept:
        cure = "enable persistent sessions: else what devices say while a worker restarts is lost"
        return [Finding("sessions", "warning", "it does not keep a session", cure)]
    if granted is not None and granted < _SESSION:
        seen = f"it keeps a session for {granted} s; workers ask for {_SESSION}"
        cure = f"raise its session expiry to {_SESSION} s or more"
        return [Finding("sessions", "warning", seen, cure)]
    return [Finding("sessions", "ok", f"kept, for {_SESSION} s as a worker asks")]


async def inspect_topics(options: MqttOptions, random_text: str) -> Iterable[Finding]:
    """Subscribe as a worker does, and send a message there and back on each topic."""
    heard: dict[str, asyncio.Event] = {}

    def hear(topic: str) -> None:
        heard.setdefault(topic, asyncio.Event()).set()

    topics = [without_group(topic) for topic in subscriptions(None)]
    device = probe_id(random_text)
    try:
        async with (
            connected(_own(options, "hears"), topics, hear),
            connected(_own(options, "speaks")) as speaker,
        ):
            return await _round_trips(speaker, device, heard)
    except PermanentError as error:
        return [from_error("subscribe", error, _ALLOW_HEARING)]


async def _round_trips(
    speaker: DoctorConnection, device: str, heard: dict[str, asyncio.Event]
) -> list[Finding]:
    commands = [command_topic(root, device) for root in _ROOTS]
    answers = [ack_topic(root, device) for root in _ROOTS]
    from_devices = [f"{root}/{device}/{channel}" for root in _ROOTS for channel in ("status", "data")]
    refused: list[str] = []
    sent: list[str] = []
    for topic in (*commands, *answers, *from_devices):
        (sent if await _publish(speaker, topic) else refused).append(topic)
    expected = [topic for topic in (*answers, *from_devices) if topic in sent]
    lost = await _lost(heard, expected)
    mute = [topic for topic in refused if topic not in from_devices]
    return [_judge_hearing(lost, expected, device), _judge_speaking(mute, device)]


async def _publish(speaker: DoctorConnection, topic: str) -> bool:
    """Whether the broker takes it. One that closes the connection over it refuses it, and all that follow."""
    try:
        await outcome_of(lambda done: speaker.send(topic, b"", 60, done))
    except (PermanentError, BrokerUnavailableError):
        return False
    return True


async def _lost(heard: dict[str, asyncio.Event], expected: list[str]) -> list[str]:
    """What has not come when all of it should have."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_ROUND_TRIP):
            for topic in expected:
                await heard.setdefault(topic, asyncio.Event()).wait()
    return [topic for topic in expected if not heard.setdefault(topic, asyncio.Event()).is_set()]


def _judge_hearing(lost: list[str], expected: list[str], device: str) -> Finding:
    if lost:
        named = ", ".join(topic.replace(device, "<id>") for topic in lost)
        return Finding("subscribe", "broken", f"what is published does not arrive: {named}", _ALLOW_HEARING)
    if not expected:
        return Finding("subscribe", "ok", "the broker agreed; nothing could be published to try it")
    named = ", ".join(topic.replace(device, "<id>") for topic in expected)
    return Finding("subscribe", "ok", f"a message came on {named}")


def _judge_speaking(refused: list[str], device: str) -> Finding:
    if refused:
        named = ", ".join(topic.replace(device, "<id>") for topic in refused)
        return Finding("publish", "broken", f"the broker refuses messages on {named}", _ALLOW_SPEAKING)
    return Finding("publish", "ok", "commands and answers, on both roots")


def _own(options: MqttOptions, purpose: str) -> MqttOptions:
    """As a worker connects, each connection under an id of its own, and without a session."""
    return replace(options, client_id=f"{options.client_id}-{purpose}", session_expiry=0)
