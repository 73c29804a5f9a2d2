"""The service's part, played by hand: a test says messages to devices and hears theirs."""

import asyncio
import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from random import Random
from typing import Any

from mqtt_service.devstack.broker import Broker
from mqtt_service.simulator.camera import CameraOptions
from mqtt_service.simulator.device import DeviceOptions, SimulatedDevice
from mqtt_service.simulator.link import DeviceLink, LinkOptions, ReceivedMessage
from mqtt_service.simulator.pictures import PictureFormat
from mqtt_service.simulator.wake import SleepOptions

MAC = "AA:BB:CC:DD:EE:01"
NOON = datetime(2025, 12, 1, 12, 0, tzinfo=UTC)
QUICK = SleepOptions(linger=0.05, settle=1.0, patience=5.0)
SMALL = CameraOptions(picture_bytes=1000, form=PictureFormat(chunk_bytes=100))


class Service:
    """What a test says to devices and hears from them."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.heard: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        options = LinkOptions(broker.host, broker.port, "service", ("#",))
        self.data_qos: set[int] = set()
        self.link = DeviceLink(options, self._hear, lambda: None)
        self._numbers = count(1)

    def _hear(self, message: ReceivedMessage) -> None:
        document = json.loads(message.payload)
        own = message.topic.endswith("/ack") and "command_ack" not in document
        if not own and not message.topic.endswith("/cmd"):
            if message.topic.endswith("/data"):
                self.data_qos.add(message.qos)
            self.heard.put_nowait((message.topic, document))

    async def says(self, topic: str, **fields: Any) -> None:
        await self.link.publish(topic, json.dumps(fields).encode())

    async def commands(self, device: SimulatedDevice, **fields: Any) -> None:
        """Send a command to the device, under an id that is new."""
        number = f"c{next(self._numbers)}"
        await self.says(device.topic("cmd"), device_id=device.options.device_id, command_id=number, **fields)

    async def replies(self, device: SimulatedDevice, name: str, **fields: Any) -> None:
        """Send an answer about a picture."""
        await self.says(device.topic("ack"), device_id=device.options.device_id, image_name=name, **fields)

    async def confirms(self, device: SimulatedDevice, name: str) -> None:
        """Send ACK_OK."""
        await self.replies(device, name, ACK_OK={"next_wake_time": "5:30PM"})

    async def hears(self, kind: str) -> tuple[str, dict[str, Any]]:
        """The next message on a topic of this kind."""
        async with asyncio.timeout(5):
            while True:
                topic, document = await self.heard.get()
                if topic.endswith(f"/{kind}"):
                    return topic, document

    async def hears_picture(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The next metadata, and as many chunks as it announces."""
        _, metadata = await self.hears("data")
        assert "chunk_id" not in metadata
        total = metadata.get("total_chunks_count") or metadata.get("total_chunk_count")
        assert isinstance(total, int)
        return metadata, [(await self.hears("data"))[1] for _ in range(total)]

    def device(self, **options: Any) -> SimulatedDevice:
        return SimulatedDevice(
            DeviceOptions(**{"device_id": MAC, **options}),
            self.broker.host,
            self.broker.port,
            rng=Random(1),
            now=lambda: NOON,
        )


def content(chunk: dict[str, Any]) -> bytes:
    """The bytes of a chunk, in either encoding."""
    payload = chunk["payload"]
    return base64.b64decode(payload) if isinstance(payload, str) else bytes(payload)


def camera(**options: Any) -> CameraOptions:
    """A small camera; what concerns the format of chunks goes into that."""
    form = {name: options.pop(name) for name in tuple(options) if hasattr(SMALL.form, name)}
    return replace(SMALL, form=replace(SMALL.form, **form), **options)
