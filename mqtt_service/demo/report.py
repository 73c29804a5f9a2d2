"""What the demo saw: its verdict, as tables or as one JSON object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mqtt_service.demo.dashboard import CommandRow
from mqtt_service.demo.pictures import PictureSummary
from mqtt_service.simulator.device import SimulatedDevice

# The built-in command types, and what the operator writes into command_payload for each.
PAYLOADS: Mapping[str, Mapping[str, Any]] = {
    "capture_image": {},
    "send_image": {"image_name": "image_001.jpg"},
    "set_wake_schedule": {"wake_schedule_cron": "30 6,18 * * *"},
    "update_config": {"jpeg_quality": 12, "frame_size": "SVGA"},
    "reboot": {},
    "update_firmware": {"firmware_url": "https://firmware.example/esp32-cam-1.4.2.bin", "version": "1.4.2"},
    "ping": {},
}

FINAL = frozenset({"acknowledged", "rejected", "expired", "cancelled"})


@dataclass(frozen=True)
class CommandSummary:
    """How the operator's commands of one type fared; latencies are seconds from the insert to the answer.

    `ended` counts those whose status is final, good or bad.
    """

    command_type: str
    queued: int
    sent: int
    acknowledged: int
    ended: int
    latencies: tuple[float, ...]

    @classmethod
    def of(cls, command_type: str, rows: Sequence[CommandRow]) -> "CommandSummary":
        """Summarise the rows of this type that a person queued."""
        own = [row for row in rows if row.command_type == command_type and not row.welcome]
        return cls(
            command_type,
            len(own),
            sum(row.delivered_at is not None for row in own),
            sum(row.status == "acknowledged" for row in own),
            sum(row.status in FINAL for row in own),
            tuple(row.latency for row in own if row.latency is not None),
        )

    @property
    def median_ms(self) -> int | None:
        """The median latency in whole milliseconds."""
        return round(median(self.latencies) * 1000) if self.latencies else None

    @property
    def slowest_ms(self) -> int | None:
        """The longest latency in whole milliseconds."""
        return round(max(self.latencies) * 1000) if self.latencies else None

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {
            "queued": self.queued,
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "latency_ms": self.median_ms,
            "slowest_ms": self.slowest_ms,
        }


@dataclass(frozen=True)
class DeviceSummary:
    """One device: how many welcome commands were queued for it, and how many of them it got and answered.

    `obeyed` counts the operator's commands that it got. What it was told without a row, such as its next wake
    time after a HELLO, is none of these.
    """

    device_code: str
    topic: str
    ack_form: str
    next_wake: str | None
    welcomes_queued: int
    welcomed: int
    obeyed: int
    complaints: tuple[str, ...]

    @classmethod
    def of(cls, code: str, device: SimulatedDevice, rows: Sequence[CommandRow]) -> "DeviceSummary":
        """Summarise a device and the rows of its commands."""
        queued = {str(row.command_id) for row in rows if not row.welcome}
        welcomes = {str(row.command_id) for row in rows if row.welcome}
        answered = {str(row.command_id) for row in rows if row.welcome and row.status == "acknowledged"}
        got = {command.command_id for command in device.received if not command.duplicate}
        return cls(
            code,
            device.topic("cmd"),
            device.options.ack_form,
            device.next_wake,
            len(welcomes),
            len(answered & got),
            len(got & queued),
            tuple(device.complaints),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        return {
            "device_code": self.device_code,
            "topic": self.topic,
            "ack_form": self.ack_form,
            "next_wake": self.next_wake,
            "welcomed": self.welcomed,
            "obeyed": self.obeyed,
        }

    @property
    def problems(self) -> list[str]:
        """What is wrong with it, in words."""
        found = [
            f"{self.device_code} got something that breaks the protocol: {text}" for text in self.complaints
        ]
        if self.welcomes_queued != 1:
            found.append(f"{self.device_code} had {self.welcomes_queued} welcome commands queued, not 1")
        elif self.welcomed != 1:
            found.append(f"{self.device_code} has not answered its welcome command")
        return found


@dataclass(frozen=True)
class Report:
    """What a demo saw; `expected` devices were simulated, and `faults` went wrong besides what they show."""

    seconds: float
    expected: int
    commands: tuple[CommandSummary, ...]
    devices: tuple[DeviceSummary, ...]
    pictures: tuple[PictureSummary, ...]
    faults: tuple[str, ...] = field(default=())

    @property
    def problems(self) -> list[str]:
        """Everything that should have happened and did not, or should not have and did."""
        found = [
            *self.faults,
            *(
                f"{command.command_type}: {command.acknowledged} of {self.expected} acknowledged "
                f"({command.queued} queued, {command.sent} sent)"
                for command in self.commands
                if command.acknowledged != self.expected
            ),
        ]
        for device in self.devices:
            found += device.problems
        for picture in self.pictures:
            found += picture.problems
        return found

    @property
    def ok(self) -> bool:
        """Return whether all that should have happened was seen."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the one object that `--json` prints."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "commands": {command.command_type: command.as_json() for command in self.commands},
            "devices": [device.as_json() for device in self.devices],
            "pictures": [picture.as_json() for picture in self.pictures],
            "problems": self.problems,
        }

    def as_tables(self) -> Group:
        """Return what a person sees at the end."""
        verdict = [Text(f"✗ {problem}", "bold red") for problem in self.problems]
        return Group(
            self._command_table(),
            self._device_table(),
            self._picture_table(),
            "",
            *(verdict or [Text(f"All of it seen in {self.seconds:.1f} s.", "bold green")]),
        )

    def _command_table(self) -> Table:
        table = _table("Commands", "command", counts=("queued", "sent", "acknowledged", "median", "slowest"))
        for row in self.commands:
            table.add_row(
                row.command_type,
                *(str(row.queued), str(row.sent), str(row.acknowledged)),
                *(_milliseconds(row.median_ms), _milliseconds(row.slowest_ms)),
                style=None if row.acknowledged == self.expected else "red",
            )
        return table

    def _device_table(self) -> Table:
        texts = ("device", "listens on", "ack")
        table = _table("Devices (wake times are UTC)", *texts, counts=("welcomed", "obeyed", "wakes"))
        for row in self.devices:
            table.add_row(
                row.device_code,
                row.topic.removesuffix("/cmd"),
                row.ack_form,
                {0: "no", 1: "once"}.get(row.welcomed, f"{row.welcomed} times"),
                str(row.obeyed),
                row.next_wake or "-",
                style="red" if row.problems else None,
            )
        return table

    def _picture_table(self) -> Table:
        texts = ("device", "picture")
        table = _table("Pictures", *texts, counts=("bytes", "chunks", "lost", "asked again", "as sent"))
        for row in self.pictures:
            table.add_row(
                row.device_code,
                row.image_name,
                *(f"{row.size:,}", str(row.chunks), "-" if row.lost is None else str(row.lost)),
                "-" if row.row is None else str(row.row.missing_requests),
                "yes" if row.stored_as_sent else "no",
                style="red" if row.problems else None,
            )
        return table


def _table(title: str, *texts: str, counts: Sequence[str]) -> Table:
    """Return a table for 80 columns: those with text first, then those with `counts`, aligned right."""
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for text in texts:
        table.add_column(text, no_wrap=True)
    for count in counts:
        table.add_column(count, justify="right", no_wrap=True)
    return table


def _milliseconds(value: int | None) -> str:
    return "-" if value is None else f"{value} ms"
