"""How a simulated device behaves: a frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mqtt_service.simulator.camera import CameraOptions
from mqtt_service.simulator.pictures import Spelling
from mqtt_service.simulator.radio import RadioOptions
from mqtt_service.simulator.wake import SleepOptions

Root = Literal["device", "ESP32CAM"]
AckForm = Literal["plain", "typed", "by_id"]
Answer = Literal["success", "failed", "rejected", "none"]

ROOTS: tuple[Root, ...] = ("device", "ESP32CAM")
ACK_FORMS: tuple[AckForm, ...] = ("plain", "typed", "by_id")


@dataclass(frozen=True)
class DeviceOptions:
    """How one device behaves.

    `device_id` is spelled on the topics as it stands here; `root` is that of all its topics but `…/data`,
    which is ESP32CAM always. `ack_form`: "plain" {"command_ack": "acknowledged"}, "typed" {"command_ack":
    {"type", "status"}}, "by_id" with the command_id. `answers` gives, for a command type, another answer than
    success; "none" is no answer at all. `reports` gives, for a command type, how many per cent it says to
    have done before its answer; without an answer it hangs half way. `think_seconds`: it takes this long to
    obey, and for each report, from and to.
    `heartbeat_form`: "spec" as specified, "field" with `Alive`, "older" with `"alive": true` and
    `pending_count`.

    `firmware_version` is what it says of itself until it installs another one; with `rolls_back`, it fetches
    firmware, acknowledges it, and comes back with the old version.

    Without a `camera` it has no pictures, but says that `pending_images` are pending and acknowledges what it
    is told of them. Without `sleeps` it stays awake.
    """

    device_id: str
    root: Root = "device"
    ack_form: AckForm = "by_id"
    answers: Mapping[str, Answer] = field(default_factory=dict)
    reports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    think_seconds: tuple[float, float] = (0.0, 0.0)
    pending_images: tuple[str, ...] = ()
    keep_session: bool = False
    heartbeat_form: Spelling = "spec"
    camera: CameraOptions | None = None
    radio: RadioOptions = field(default_factory=RadioOptions)
    sleeps: SleepOptions | None = None
    firmware_version: str = "sim-1"
    rolls_back: bool = False
