"""Pictures beside bare paho: chunks a second that the worker takes in, to the last row that is complete.

Each round has the same messages published twice: to the worker, and to a paho client that does nothing with
them. The broker drops nothing, so each takes in what it can.
"""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from mqtt_service.bench.bare_paho import ANSWERS, COMMANDS, Message
from mqtt_service.bench.commands import all_heard
from mqtt_service.bench.processes import eventually, patience
from mqtt_service.bench.report import Measure
from mqtt_service.bench.rig import Rig

DATA = "ESP32CAM/+/data"
EVERYTHING_SENT = (*COMMANDS, *ANSWERS)
_CHUNK_BYTES = 1024
# Nothing is lost here, so nobody is to be asked for what still waits in the broker.
SETTINGS = {"IMAGE_SILENCE": "600", "IMAGES_IN_FLIGHT": "100000", "IMAGE_BUFFER_BYTES": str(1 << 30)}


@dataclass(frozen=True, slots=True)
class Upload:
    """So many devices send one picture each, side by side, of so many chunks of 1,024 bytes."""

    devices: int
    chunks: int
    number: int

    @property
    def name(self) -> str:
        """The pictures' name, another in each round."""
        return f"bench_{self.number}.jpg"

    def messages(self) -> list[Message]:
        """All metadata, then the first chunk of each device, the second of each, and so on."""
        pictures = {f"0A{device:010X}": self._picture(device) for device in range(1, self.devices + 1)}
        return [
            *(
                Message(_topic(device), self._metadata(device, picture))
                for device, picture in pictures.items()
            ),
            *(
                Message(_topic(device), self._chunk(device, picture, number))
                for number in range(self.chunks)
                for device, picture in pictures.items()
            ),
        ]

    def _picture(self, device: int) -> bytes:
        rng = Random(self.number << 32 | device)  # noqa: S311 - what fills a picture is no secret
        return b"\xff\xd8" + rng.randbytes(self.chunks * _CHUNK_BYTES - 4) + b"\xff\xd9"

    def _metadata(self, device: str, picture: bytes) -> str:
        fields = {
            "device_id": device,
            "capture_timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "image_name": self.name,
            "image_size": len(picture),
            "max_chunk_size": _CHUNK_BYTES,
            "total_chunks_count": self.chunks,
            "temperature": 25.5,
            "humidity": 45.2,
        }
        return json.dumps(fields)

    def _chunk(self, device: str, picture: bytes, number: int) -> str:
        piece = picture[number * _CHUNK_BYTES : (number + 1) * _CHUNK_BYTES]
        fields = {
            "device_id": device,
            "image_name": self.name,
            "chunk_id": number,
            "max_chunk_size": _CHUNK_BYTES,
            "payload": base64.b64encode(piece).decode(),
        }
        return json.dumps(fields)


async def measure_chunks(rig: Rig, devices: int, chunks: int, rounds: int) -> list[Measure]:
    """Chunks taken in within a second, from the first publish on, over what a bare subscriber takes in."""
    ratios, figures = [], {}
    for upload in _uploads(devices, chunks, rounds):
        messages, total = upload.messages(), devices * chunks
        paho_rate = total / await _bare_seconds(rig, messages)
        service_rate = total / await _worker_seconds(rig, messages, upload)
        ratios.append(service_rate / paho_rate)
        figures = {
            "chunks_per_s": service_rate,
            "paho_chunks_per_s": paho_rate,
            "pictures_per_s": service_rate / chunks,
        }
    return [Measure("chunks taken in / bare paho subscriber", ratios, "higher", None, figures)]


def _uploads(devices: int, chunks: int, rounds: int) -> Iterator[Upload]:
    for number in range(rounds):
        yield Upload(devices, chunks, number)


async def _bare_seconds(rig: Rig, messages: list[Message]) -> float:
    with rig.listener(DATA) as listener:
        spent = await rig.publish(messages)
        await all_heard(listener, len(messages))
        return listener.heard[-1][0] - spent.began


async def _worker_seconds(rig: Rig, messages: list[Message], upload: Upload) -> float:
    with rig.listener(*EVERYTHING_SENT):  # the broker would say that no device listens
        async with rig.worker(**SETTINGS) as worker:
            await worker.ready()
            spent = await rig.publish(messages)
            await all_complete(rig, upload)
            return time.monotonic() - spent.began


async def all_complete(rig: Rig, upload: Upload) -> None:
    """Return once the rows of all its pictures say so."""

    async def check() -> bool:
        query = "select count(*) from public.device_images where image_name = %s and status = 'complete'"
        return bool(await rig.value(query, upload.name) == upload.devices)

    patient = patience(upload.devices * upload.chunks)
    await eventually(check, f"{upload.devices} pictures complete", patient)


def _topic(device: str) -> str:
    return f"ESP32CAM/{device}/data"
