"""A fleet of simulated devices: what it does, and how each of its devices behaves."""

from dataclasses import dataclass
from random import Random

from mqtt_service.simulator.camera import CameraOptions
from mqtt_service.simulator.options import ACK_FORMS, ROOTS, DeviceOptions, Root
from mqtt_service.simulator.pictures import ENCODINGS, SPELLINGS, Encoding, PictureFormat
from mqtt_service.simulator.radio import RadioOptions
from mqtt_service.simulator.wake import SleepOptions

THINK_SECONDS = (0.02, 0.1)


@dataclass(frozen=True)
class FleetOptions:
    """What a fleet does; durations in seconds.

    Each device wakes `wakes` times, each time with `pictures` new ones, and sleeps for `sleep` between. With
    `seconds`, no such wake begins after that time; with 0 `wakes`, only `seconds` or a signal end them. A
    device that has pictures left then wakes up to `extra_wakes` times more. `root` and `encoding` are those
    of all devices; None: each device has one by chance, as it has its other habits. `loss`,
    `duplicates` and `shuffle` as in RadioOptions, of chunks; `settle` and `patience` as in SleepOptions. The
    same `seed` gives the same fleet.
    """

    device_ids: tuple[str, ...]
    wakes: int = 1
    pictures: int = 1
    picture_bytes: int = 70_000
    chunk_bytes: int = 1024
    sleep: float = 1.0
    extra_wakes: int = 3
    seconds: float = 0.0
    loss: float = 0.0
    duplicates: float = 0.0
    shuffle: bool = False
    settle: float = 30.0
    patience: float = 60.0
    root: Root | None = None
    encoding: Encoding | None = None
    qos: int = 1
    seed: int = 1


def plan_devices(fleet: FleetOptions) -> list[DeviceOptions]:
    """Return how each device behaves: habits of firmware in the field, in every mixture."""
    return [
        _plan_device(fleet, device_id, Random(f"{fleet.seed} {number}"))  # noqa: S311 - a simulation, nothing secret
        for number, device_id in enumerate(fleet.device_ids)
    ]


def _plan_device(fleet: FleetOptions, device_id: str, rng: Random) -> DeviceOptions:
    spelling = rng.choice(SPELLINGS)
    encoding = rng.choice(ENCODINGS) if fleet.encoding is None else fleet.encoding
    root = rng.choice(ROOTS) if fleet.root is None else fleet.root
    offers = rng.choice(("listed", "counted", "uploaded unasked"))
    form = PictureFormat(fleet.chunk_bytes, encoding, rng.choice((0, 1)), spelling)
    camera = CameraOptions(
        fleet.picture_bytes,
        form,
        waits_for_send_image=rng.choice((False, True)),
        lists_pending=offers != "counted",
        uploads_new=offers == "uploaded unasked",
        qos=fleet.qos,
    )
    return DeviceOptions(
        device_id,
        root,
        rng.choice(ACK_FORMS),
        think_seconds=THINK_SECONDS,
        heartbeat_form=spelling,
        camera=camera,
        radio=RadioOptions(fleet.loss, fleet.duplicates, fleet.shuffle),
        sleeps=SleepOptions(settle=fleet.settle, patience=fleet.patience),
    )
