"""What became of a fleet: sums, a verdict, and the words and the JSON for both."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from mqtt_service.simulator.device import SimulatedDevice
from mqtt_service.simulator.wake import Wake

_MAX_SHOWN = 20


@dataclass(frozen=True)
class Totals:
    """Sums over a fleet, at any time. `pending` counts pictures on cards; `commands` repeated ones too."""

    awake: int
    asleep: int
    hung: int
    wakes: int
    heartbeats: int
    answered: int
    sent: int
    acknowledged: int
    pending: int
    chunks: int
    commands: int
    complaints: int

    @classmethod
    def of(cls, devices: Sequence[SimulatedDevice]) -> "Totals":
        """Return the sums now."""
        cameras = [device.camera for device in devices if device.camera is not None]
        wakes = [wake for device in devices for wake in device.wakes]
        states = [state(device) for device in devices]
        return cls(
            awake=states.count("awake"),
            asleep=states.count("asleep"),
            hung=states.count("hung"),
            wakes=len(wakes),
            heartbeats=sum(wake.heartbeats for wake in wakes),
            answered=sum(wake.answered for wake in wakes),
            sent=sum(len(wake.sent) for wake in wakes),
            acknowledged=sum(len(wake.acknowledged) for wake in wakes),
            pending=sum(len(camera.card) for camera in cameras),
            chunks=sum(camera.chunks_sent for camera in cameras),
            commands=sum(len(device.received) for device in devices),
            complaints=sum(len(device.complaints) for device in devices),
        )


@dataclass(frozen=True)
class Report:
    """What became of a fleet after `seconds`; `finished`: nobody interrupted it."""

    devices: Sequence[SimulatedDevice]
    seconds: float
    finished: bool

    @property
    def failed(self) -> bool:
        """Whether a device hung, or a picture was not acknowledged though nobody interrupted."""
        totals = Totals.of(self.devices)
        return totals.hung > 0 or (self.finished and totals.pending > 0)

    def lines(self) -> Iterator[str]:
        """Yield the summary for people."""
        totals = Totals.of(self.devices)
        yield (
            f"{len(self.devices)} devices, {totals.wakes} wakes in {self.seconds:.1f} s: "
            f"{totals.asleep} asleep, {totals.awake} awake, {totals.hung} hung"
        )
        yield f"HELLOs           {totals.heartbeats}, answered {totals.answered}{self._speed()}"
        yield (
            f"pictures         {totals.sent} sent, {totals.acknowledged} acknowledged, "
            f"{totals.pending} left on cards; {totals.chunks} chunks sent"
        )
        yield f"commands         {totals.commands} received"
        yield f"protocol faults  {totals.complaints}"
        yield from self._complaints()

    def document(self) -> dict[str, Any]:
        """Return everything as JSON, the hash of every picture that was acknowledged among it."""
        return {
            "seconds": round(self.seconds, 3),
            "finished": self.finished,
            "failed": self.failed,
            **asdict(Totals.of(self.devices)),
            "devices": [_device(device) for device in self.devices],
        }

    def _speed(self) -> str:
        waits = [
            wake.answer_seconds
            for device in self.devices
            for wake in device.wakes
            if wake.answer_seconds is not None
        ]
        if not waits:
            return ""
        late = quantiles(waits, n=20, method="inclusive")[-1] if len(waits) > 1 else waits[0]
        return (
            f"; the first answer after {median(waits):.2f} s (median), {late:.2f} s (95 %), "
            f"{max(waits):.2f} s (longest)"
        )

    def _complaints(self) -> Iterator[str]:
        every = [
            f"{device.options.device_id}  {text}" for device in self.devices for text in device.complaints
        ]
        yield from every[:_MAX_SHOWN]
        if len(every) > _MAX_SHOWN:
            yield f"… and {len(every) - _MAX_SHOWN} more"


def state(device: SimulatedDevice) -> str:
    """Return "awake", "asleep" or "hung"; a device that never woke is asleep."""
    if not device.wakes:
        return "asleep"
    return device.wakes[-1].ended or "awake"


def _device(device: SimulatedDevice) -> dict[str, Any]:
    card = device.camera.card if device.camera is not None else None
    return {
        "device_id": device.options.device_id,
        "root": device.options.root,
        "state": state(device),
        "wakes": [_wake(wake) for wake in device.wakes],
        "pictures": [
            {
                "name": each.name,
                "captured_at": each.captured_at.isoformat(timespec="seconds") if each.captured_at else None,
                "size": each.size,
                "sha256": each.sha256,
            }
            for each in (card.confirmed if card is not None else [])
        ],
        "pending": [each.picture.name for each in (card if card is not None else [])],
        "complaints": device.complaints,
    }


def _wake(wake: Wake) -> dict[str, Any]:
    return {
        "heartbeats": wake.heartbeats,
        "answered": wake.answered,
        "answer_seconds": None if wake.answer_seconds is None else round(wake.answer_seconds, 3),
        "ended": wake.ended,
        "sent": wake.sent,
        "acknowledged": wake.acknowledged,
    }
