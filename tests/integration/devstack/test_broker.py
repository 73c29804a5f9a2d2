"""The embedded stack's broker, Mosquitto and amqtt alike."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.devstack import broker as broker_module
from mqtt_service.devstack.broker import Broker, BrokerStartError, find_mosquitto, start_broker
from mqtt_service.simulator.link import DeviceLink, LinkOptions, ReceivedMessage
from tests.requirements import needs

both_brokers = pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=needs("mosquitto")), "amqtt"])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@both_brokers
async def test_a_message_published_at_qos_1_reaches_a_subscriber(kind: str, tmp_path: Path) -> None:
    got: asyncio.Queue[ReceivedMessage] = asyncio.Queue()
    async with Broker(kind, 0, tmp_path) as broker:
        options = LinkOptions(broker.host, broker.port, "one", ("device/+/cmd",))
        async with DeviceLink(options, got.put_nowait, lambda: None) as link:
            await link.publish("device/x/cmd", b"{}")
            assert await asyncio.wait_for(got.get(), 5) == ReceivedMessage(
                "device/x/cmd", b"{}", 1, retained=False
            )


@both_brokers
async def test_nothing_listens_after_it_was_stopped(kind: str, tmp_path: Path) -> None:
    broker = await start_broker(kind, 0, tmp_path)
    assert listens(broker.port)
    await broker.stop()
    assert not listens(broker.port)


@both_brokers
async def test_a_port_that_is_taken_is_named(kind: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerStartError, match=f"MQTT port {port} cannot be had"):
            await start_broker(kind, port, tmp_path)


@both_brokers
async def test_clients_come_back_after_a_restart(kind: str, tmp_path: Path) -> None:
    ready: asyncio.Queue[None] = asyncio.Queue()
    async with Broker(kind, 0, tmp_path) as broker:
        options = LinkOptions(broker.host, broker.port, "one", ("device/+/cmd",))
        async with DeviceLink(options, lambda _: None, lambda: ready.put_nowait(None)):
            await asyncio.wait_for(ready.get(), 5)
            await broker.restart()
            await asyncio.wait_for(ready.get(), 10)


@needs("mosquitto")
async def test_mosquitto_keeps_what_is_queued_for_a_sleeping_device_over_a_restart(tmp_path: Path) -> None:
    got: asyncio.Queue[ReceivedMessage] = asyncio.Queue()
    async with Broker("mosquitto", 0, tmp_path) as broker:
        options = LinkOptions(broker.host, broker.port, "sleeper", ("device/x/cmd",), keep_session=True)
        async with DeviceLink(options, got.put_nowait, lambda: None):
            pass
        sender = LinkOptions(broker.host, broker.port, "sender", ("nothing",))
        async with DeviceLink(sender, got.put_nowait, lambda: None) as link:
            await link.publish("device/x/cmd", b"later")
        await broker.restart()
        async with DeviceLink(options, got.put_nowait, lambda: None):
            assert (await asyncio.wait_for(got.get(), 5)).payload == b"later"


async def connack_for_mqtt_5(broker: Broker) -> ReasonCode:
    """What the broker answers to a CONNECT of MQTT 5 that carries properties, as the worker's does."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "newer", protocol=MQTTProtocolVersion.MQTTv5)
    answers: asyncio.Queue[ReasonCode] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def answered(_client: object, _data: object, _flags: object, reason: ReasonCode, _: object) -> None:
        loop.call_soon_threadsafe(answers.put_nowait, reason)

    client.on_connect = answered
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho gives it no types
    properties.SessionExpiryInterval = 3600
    client.connect(broker.host, broker.port, properties=properties)
    client.loop_start()
    try:
        return await asyncio.wait_for(answers.get(), 5)
    finally:
        client.disconnect()
        client.loop_stop()


@needs("mosquitto")
async def test_mosquitto_speaks_mqtt_5(tmp_path: Path) -> None:
    async with Broker("mosquitto", 0, tmp_path) as broker:
        assert await connack_for_mqtt_5(broker) == "Success"


async def test_amqtt_refuses_mqtt_5_at_once_so_that_a_client_can_fall_back(tmp_path: Path) -> None:
    async with Broker("amqtt", 0, tmp_path) as broker:
        assert await connack_for_mqtt_5(broker) == "Unsupported protocol version"


async def test_auto_takes_mosquitto_if_it_is_installed_else_amqtt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Broker("auto", 0, tmp_path).kind == ("mosquitto" if find_mosquitto() else "amqtt")
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)
    assert Broker("auto", 0, tmp_path).kind == "amqtt"


async def test_mosquitto_asked_for_but_absent_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)
    with pytest.raises(BrokerStartError, match="apt install mosquitto"):
        Broker("mosquitto", 0, tmp_path)


async def test_an_unknown_broker_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(BrokerStartError, match="choose auto, mosquitto or amqtt"):
        Broker("rabbitmq", 0, tmp_path)


START_AND_DIE = """
import asyncio, os, pathlib, signal, sys
from mqtt_service.devstack.broker import start_broker
async def main():
    broker = await start_broker(sys.argv[1], 0, pathlib.Path(sys.argv[2]))
    print(broker.port, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@both_brokers
def test_it_ends_when_the_process_that_started_it_is_killed(kind: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", START_AND_DIE, kind, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    port = int(run.stdout)
    end = time.monotonic() + 10
    while listens(port):
        assert time.monotonic() < end, f"{kind} still listens"
        time.sleep(0.05)  # the pause between two looks
