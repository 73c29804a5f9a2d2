"""What a large fleet needs, worked out from what was measured, each step of the arithmetic shown.

The fleet: each device wakes twice a day, and each time says HELLO, gets one command, answers it, and sends
one picture of 70 chunks. A HELLO is taken to cost what a command costs. Every worker hears every chunk, so a
second worker takes over from the first but does not halve its work: what grows is the time over which the
devices must spread their wakes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mqtt_service.bench.report import Measure

FLEETS = (100_000, 1_000_000)
_WAKES = 2
_CHUNKS = 70
_PICTURE_KB = 70
# HELLO and its answer, command and its answer, metadata and the answer to the picture, and the chunks.
_MESSAGES = 6 + _CHUNKS
_HOUR = 3_600
_DAYS = 30
_WORKERS = 2
# A worker is one event loop, so one core; the rest of it is for bursts.
_BUSY = 0.7


@dataclass(frozen=True, slots=True)
class Measured:
    """What the arithmetic needs: microseconds of CPU, requests, and kB from Supabase."""

    command_us: float
    chunk_us: float
    command_requests: float
    picture_requests: float
    command_kb: float
    picture_kb: float
    idle_requests_an_hour: float

    @classmethod
    def out_of(cls, measures: Sequence[Measure]) -> "Measured | None":
        """None unless the parts `cpu` and `costs` were measured."""
        found = {measure.name: measure for measure in measures}
        try:
            return cls(
                found["CPU a full cycle / bare paho"].figures["us"],
                found["CPU a chunk / bare paho"].figures["us"],
                found["requests a command under load"].ratio,
                found["requests a picture under load"].ratio,
                found["kB from Supabase a command under load"].ratio,
                found["kB from Supabase a picture under load"].ratio,
                found["requests an idle hour, from the window"].ratio,
            )
        except KeyError:
            return None


def steps(devices: int, of: Measured) -> list[tuple[str, str, str]]:
    """For each step what it is, how it is worked out, and the result."""
    wakes = devices * _WAKES
    cpu_us = 2 * of.command_us + (_CHUNKS + 1) * of.chunk_us
    core_hours = devices * cpu_us / 1e6 / _HOUR
    hours = max(math.ceil(core_hours / _BUSY), 1)
    seconds = f"({hours:,} × {_HOUR:,} s)"
    requests = 2 * of.command_requests + of.picture_requests
    kilobytes = 2 * of.command_kb + of.picture_kb
    idle = _WORKERS * 24 * of.idle_requests_an_hour
    return [
        ("wakes a day", f"{devices:,} × {_WAKES}", f"{wakes:,}"),
        ("MQTT messages a day", f"{wakes:,} × {_MESSAGES}", f"{wakes * _MESSAGES:,}"),
        (
            "CPU a wake, ms",
            f"(2 × {of.command_us:,.0f} + {_CHUNKS + 1} × {of.chunk_us:,.0f} µs) / 1,000",
            f"{cpu_us / 1000:,.1f}",
        ),
        (
            "core hours for all to wake once",
            f"{devices:,} × {cpu_us / 1e6:.4f} s / {_HOUR:,} s",
            f"{core_hours:,.1f}",
        ),
        (
            "hours to spread the wakes over",
            f"{core_hours:,.1f} / {_BUSY} of a core, rounded up",
            f"{hours:,}",
        ),
        (
            "MQTT messages a second in these hours",
            f"{devices:,} × {_MESSAGES} / {seconds}",
            f"{devices * _MESSAGES / (hours * _HOUR):,.0f}",
        ),
        (
            "requests to Supabase a second in these hours",
            f"{devices:,} × {requests:.2f} / {seconds}",
            f"{devices * requests / (hours * _HOUR):,.0f}",
        ),
        (
            "requests to Supabase a day",
            f"{wakes:,} × {requests:.2f} + {_WORKERS} × 24 × {of.idle_requests_an_hour:,.0f}",
            f"{wakes * requests + idle:,.0f}",
        ),
        (
            "GB from Supabase a month",
            f"{wakes:,} × {_DAYS} × {kilobytes:.2f} kB / 1,000,000",
            f"{wakes * _DAYS * kilobytes / 1e6:,.0f}",
        ),
        (
            "Realtime messages a month, a statement a command",
            f"{wakes:,} × {_DAYS} × (1 sent + {_WORKERS} received)",
            f"{wakes * _DAYS * (1 + _WORKERS):,}",
        ),
        (
            "GB of new pictures a month",
            f"{wakes:,} × {_DAYS} × {_PICTURE_KB} kB / 1,000,000",
            f"{wakes * _DAYS * _PICTURE_KB / 1e6:,.0f}",
        ),
        ("rows of device_commands a month", f"{wakes:,} × {_DAYS}", f"{wakes * _DAYS:,}"),
    ]


def as_markdown(measures: Sequence[Measure]) -> str:
    """A table for each of FLEETS; empty where something was not measured."""
    measured = Measured.out_of(measures)
    if measured is None:
        return ""
    return "\n".join(
        "\n".join([
            f"### {devices:,} devices\n",
            "| step | arithmetic | result |",
            "| --- | --- | ---: |",
            *(f"| {' | '.join(step)} |" for step in steps(devices, measured)),
            "",
        ])
        for devices in FLEETS
    )  # fmt: skip
