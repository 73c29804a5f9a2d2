"""The pictures of the demo: a device wakes with one, and the network loses, doubles and shuffles chunks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from mqtt_service.demo.dashboard import Dashboard, PictureRow
from mqtt_service.simulator.camera import CameraOptions
from mqtt_service.simulator.device import DeviceOptions, SimulatedDevice
from mqtt_service.simulator.pictures import PictureFormat, chunk_ids
from mqtt_service.simulator.radio import RadioOptions
from mqtt_service.simulator.wake import SleepOptions

PICTURE_BYTES = 48_000
# One device for each: both topic roots, both encodings, both ways to count chunks.
FORMATS = (PictureFormat(1024, "base64", 0, "spec"), PictureFormat(1024, "array", 1, "field"))
RADIO = RadioOptions(loss=0.1, duplicates=0.05, shuffle=True)
_IN_WORDS = {"base64": "in base64", "array": "as arrays of bytes"}
# Longer than the demo's worker waits for a silent device.
_SLEEP = SleepOptions(settle=5.0)


def with_camera(options: DeviceOptions, form: PictureFormat) -> DeviceOptions:
    """Return how a device behaves that has a camera and a bad network, and sleeps when it is told to."""
    return replace(options, camera=CameraOptions(PICTURE_BYTES, form), radio=RADIO, sleeps=_SLEEP)


@dataclass(frozen=True)
class PictureSummary:
    """What became of one picture; `row` is None where the operator sees none.

    `lost` counts the chunks that did not get through at first, `doubled` the copies too many, both None
    before the device has sent it all. `stored_as_sent`: what is in Storage is byte for byte what it sent.
    `confirmed`: the device was told so, and has deleted its own.
    """

    device_code: str
    image_name: str
    encoding: str
    size: int
    chunks: int
    lost: int | None
    doubled: int | None
    row: PictureRow | None
    stored_as_sent: bool
    confirmed: bool
    complaints: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """What is wrong with it, in words."""
        found = [
            f"{self.device_code} got something that breaks the protocol: {text}" for text in self.complaints
        ]
        what = f"{self.image_name} of {self.device_code}"
        if self.row is None:
            found.append(f"{what} did not arrive: it has no row")
        elif self.row.status != "complete":
            found.append(f"{what} did not arrive: {self.row.last_error or self.row.status}")
        elif not self.stored_as_sent:
            found.append(f"{what} is complete, but what is in Storage is not what was sent")
        elif not self.confirmed:
            found.append(f"{what} is in Storage, but the device was not told so")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {
            "device_code": self.device_code,
            "image_name": self.image_name,
            "encoding": self.encoding,
            "bytes": self.size,
            "chunks": self.chunks,
            "lost": self.lost,
            "doubled": self.doubled,
            "missing_requests": self.row.missing_requests if self.row else None,
            "status": self.row.status if self.row else None,
            "stored_as_sent": self.stored_as_sent,
        }


class PictureWake:
    """One wake of `device`, which has a camera and is not awake yet, with one picture on its card."""

    def __init__(
        self, code: str, device_id: UUID, device: SimulatedDevice, say: Callable[[str], None]
    ) -> None:
        camera = device.options.camera
        if camera is None or device.camera is None:
            raise ValueError(f"{device.options.device_id} has no camera")
        self.device = device
        self._code, self._device_id, self._say = code, device_id, say
        self._form = camera.form
        self._picture = device.camera.take()
        self._on_card = device.camera.card.get(self._picture.name)
        self._chunks = len(chunk_ids(self._picture, camera.form))
        self._lost: int | None = None
        self._doubled: int | None = None
        self._row: PictureRow | None = None
        self._stored_as_sent = False

    @property
    def ended(self) -> bool:
        """Whether the device sleeps again, or hangs."""
        return bool(self.device.wakes) and self.device.wakes[-1].ended is not None

    @property
    def summary(self) -> PictureSummary:
        """What became of the picture so far."""
        return PictureSummary(
            self._code,
            self._picture.name,
            self._form.encoding,
            len(self._picture.data),
            self._chunks,
            self._lost,
            self._doubled,
            self._row,
            self._stored_as_sent,
            self._picture.name in self.device.wakes[-1].acknowledged if self.device.wakes else False,
            tuple(self.device.complaints),
        )

    async def wake(self) -> None:
        """Wake up. Raises BrokerUnavailableError."""
        await self.device.wake()
        self._say(
            f"{self._code} woke with a picture: {len(self._picture.data):,} bytes, "
            f"{self._chunks} chunks {_IN_WORDS[self._form.encoding]}"
        )

    async def update(self, dashboard: Dashboard) -> None:
        """Say what happened since the last update."""
        self._count_lost()
        before = self._row.missing_requests if self._row else 0
        self._row = await dashboard.picture(self._device_id, self._picture.name)
        if self._row is not None and self._row.missing_requests > before:
            self._say(f"the service asked {self._code} for the chunks that are missing")

    async def compare(self, dashboard: Dashboard) -> None:
        """Open the stored picture, as a browser would, and compare it with what was sent."""
        self._row = await dashboard.picture(self._device_id, self._picture.name)
        if self._row is None or self._row.status != "complete" or self._row.storage_path is None:
            return
        address = await dashboard.sign_url(self._row.storage_path)
        self._stored_as_sent = await dashboard.download(address) == self._picture.data
        if self._stored_as_sent:
            self._say(
                f"{self._picture.name} of {self._code} is in Storage, byte for byte as sent; "
                f"it sleeps until {self.device.next_wake} UTC"
            )

    def _count_lost(self) -> None:
        """Once it has sent every chunk that gets through: what is missing, and what is too much."""
        if self._lost is not None or self._on_card is None or self.device.camera is None:
            return
        if self._picture.name in self.device.wakes[-1].sent:
            self._lost = self._chunks - len(self._on_card.sent_chunks)
            self._doubled = self.device.camera.chunks_sent - len(self._on_card.sent_chunks)
            self._say(
                f"the network lost {_chunks(self._lost)} of {self._code}, doubled {self._doubled} "
                "and shuffled all"
            )


def _chunks(count: int) -> str:
    return f"{count} chunk" if count == 1 else f"{count} chunks"
