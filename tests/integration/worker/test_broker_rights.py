"""The Mosquitto configuration of docs/deploying: TLS, passwords, and each device under its own id alone."""

import asyncio
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.protocol.topics import subscriptions
from tests.integration.worker.mosquitto import HOST, Mosquitto
from tests.integration.worker.mqtt_harness import Inbox, eventually, options, running
from tests.integration.worker.test_mqtt_refusals import refused, run_program
from tests.requirements import needs

DOCUMENTS = Path(__file__).parents[3] / "docs" / "deploying" / "mosquitto"
NOT_AUTHORIZED = 0x87  # MQTT 5, section 2.4

pytestmark = needs("mosquitto", "mosquitto_passwd", "openssl")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """Mosquitto with our file, but for the paths and the port."""
    prepare(tmp_path)
    for name in ("mqtt-service", "cam-a", "cam-b", "greenhouse-1"):
        run_program("mosquitto_passwd", f"-b config/passwords {name} of-{name}", tmp_path)
    broker = Mosquitto(tmp_path)
    (tmp_path / "mosquitto.conf").write_text(adapted(tmp_path, broker.port))
    async with broker:
        yield broker


def prepare(folder: Path) -> str:
    finished = subprocess.run(
        [DOCUMENTS / "prepare", str(folder), f"IP:{HOST}"], check=True, capture_output=True, encoding="utf-8"
    )
    return finished.stdout


def adapted(folder: Path, port: int) -> str:
    text = (folder / "config" / "mosquitto.conf").read_text()
    assert "listener 8883\n" in text
    text = text.replace("listener 8883\n", f"listener {port} {HOST}\n").replace("/mosquitto/", f"{folder}/")
    with (folder / "config" / "acl").open("a") as acl:
        acl.write("user greenhouse-1\ntopic write device/AA:BB:CC:DD:EE:FF/status\n")
    return text + ("user root\n" if os.geteuid() == 0 else "")


def access(broker: Mosquitto, folder: Path, name: str = "mqtt-service") -> MqttOptions:
    return options(
        broker.port, tls=True, ca_file=folder / "config" / "ca.pem", username=name, password=f"of-{name}",
        client_id=name,
    )  # fmt: skip


class Device:
    """A client of a device, which may try more than it should."""

    def __init__(self, client: mqtt.Client) -> None:
        self.heard: list[str] = []
        self._client = client
        self._results: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        client.on_message = lambda _c, _d, message: self.heard.append(message.topic)

        def result(reason: ReasonCode) -> None:
            loop.call_soon_threadsafe(self._results.put_nowait, reason.value)

        client.on_publish = lambda _c, _d, _mid, reason, _p: result(reason)
        client.on_subscribe = lambda _c, _d, _mid, reasons, _p: result(reasons[0])

    async def publish(self, topic: str, payload: bytes = b"{}") -> int:
        """The broker's reason code; below 0x80 it took the message."""
        self._client.publish(topic, payload, qos=1)
        return await asyncio.wait_for(self._results.get(), 10)

    async def subscribe(self, topic: str) -> int:
        self._client.subscribe(topic, qos=1)
        return await asyncio.wait_for(self._results.get(), 10)


@asynccontextmanager
async def device(to: MqttOptions) -> AsyncIterator[Device]:
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=to.client_id, protocol=MQTTProtocolVersion.MQTTv5
    )
    client.username_pw_set(to.username, to.password)
    client.tls_set_context(ssl.create_default_context(cafile=to.ca_file))
    connected = Device(client)
    client.connect(to.host, to.port)
    client.loop_start()
    try:
        yield connected
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
        client.on_message = client.on_publish = client.on_subscribe = None


@pytest.mark.parametrize("group", [None, "workers"], ids=["each hears all", "a shared group"])
async def test_the_worker_hears_all_and_a_device_speaks_under_its_own_id(
    broker: Mosquitto, tmp_path: Path, group: str | None
) -> None:
    inbox = Inbox()
    async with (
        running(access(broker, tmp_path), inbox, subscriptions=subscriptions(group)),
        device(access(broker, tmp_path, "cam-a")) as cam,
        device(access(broker, tmp_path, "greenhouse-1")) as greenhouse,
    ):
        own = [
            f"{root}/cam-a/{said}" for root in ("device", "ESP32CAM") for said in ("status", "ack", "data")
        ]
        assert [await cam.publish(topic) for topic in own] == [0] * len(own)
        assert await greenhouse.publish("device/AA:BB:CC:DD:EE:FF/status") == 0
        foreign = ("device/cam-b/status", "ESP32CAM/cam-b/ack", "device/cam-a/cmd", "device/cam-b/cmd", "any")
        assert [await cam.publish(topic) for topic in foreign] == [NOT_AUTHORIZED] * len(foreign)
        assert await greenhouse.publish("device/cam-a/status") == NOT_AUTHORIZED
        heard = {*own, "device/AA:BB:CC:DD:EE:FF/status"}
        await eventually(lambda: {message.topic for message in inbox.messages} >= heard, "what devices said")
    assert {message.topic for message in inbox.messages} == heard


async def test_a_device_hears_only_what_is_for_it(broker: Mosquitto, tmp_path: Path) -> None:
    async with (
        running(access(broker, tmp_path)) as link,
        device(access(broker, tmp_path, "cam-a")) as curious,
        device(access(broker, tmp_path, "cam-b")) as other,
    ):
        await curious.subscribe("#")
        await other.subscribe("device/cam-b/cmd")
        for topic in ("device/cam-b/cmd", "device/cam-b/ack", "device/cam-a/cmd"):
            await link.publish(topic, b"{}", expiry_seconds=60)
        await eventually(lambda: curious.heard and other.heard, "both devices' commands")
    assert curious.heard == ["device/cam-a/cmd"]
    assert other.heard == ["device/cam-b/cmd"]


async def test_nobody_comes_in_without_the_password_or_without_tls(broker: Mosquitto, tmp_path: Path) -> None:
    right = access(broker, tmp_path)
    for wrong in (replace(right, password="wrong"), replace(right, username=None, password=None)):
        async with running(wrong, wait=False) as link:
            assert "refused our credentials" in await refused(link)
    async with running(options(broker.port, username="mqtt-service", password="x"), wait=False) as link:
        await refused(link)


async def test_a_restart_of_the_broker_keeps_more_than_its_default_for_a_worker_that_is_away(
    broker: Mosquitto, tmp_path: Path
) -> None:
    payloads = [str(number).encode() for number in range(1_200)]  # Mosquitto would keep 1,000
    async with running(access(broker, tmp_path)):
        pass
    async with device(access(broker, tmp_path, "cam-a")) as cam:
        for payload in payloads:
            await cam.publish("device/cam-a/ack", payload)
    await broker.stop()
    await broker.start()
    inbox = Inbox()
    async with running(access(broker, tmp_path), inbox):
        await inbox.has(*payloads)


def test_making_the_files_again_keeps_the_authority_and_what_was_changed(tmp_path: Path) -> None:
    assert "DNS:mosquitto,DNS:localhost,IP:127.0.0.1" in prepare(tmp_path)
    (tmp_path / "config" / "passwords").write_text("cam-a:hash\n")
    (tmp_path / "config" / "acl").write_text("# changed\n")
    kept = ["authority/ca.key", "config/ca.pem", "config/passwords", "config/acl"]
    before = [(tmp_path / name).read_bytes() for name in (*kept, "config/server.pem")]
    prepare(tmp_path)
    after = [(tmp_path / name).read_bytes() for name in (*kept, "config/server.pem")]
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]
    assert (tmp_path / "config" / "server.key").stat().st_mode & 0o077 == 0
