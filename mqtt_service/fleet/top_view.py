"""What `top` shows. Pure: a glance in, a view out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mqtt_service.adapters.supabase.fleet_rows import Flow, Overview
from mqtt_service.fleet.times import local, relative, span

_BARS = " ▁▂▃▄▅▆▇█"
_LATE = timedelta(minutes=1)
_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Health:
    """What a worker says of itself, or why it says nothing."""

    address: str
    document: Mapping[str, Any] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Glance:
    """One look; `history`: acknowledgements a minute at the last looks, the latest last."""

    host: str
    overview: Overview | None
    health: Health
    history: Sequence[int]
    error: str | None


def sparkline(values: Sequence[int]) -> str:
    """A line of bars, the highest for the largest value."""
    top = max(values, default=0)
    return "".join(_BARS[-(-value * 8 // top)] if top else _BARS[0] for value in values)


def top_view(glance: Glance, height: int | None, zone: tzinfo | None = None) -> RenderableType:
    """The whole screen; `height` None: as high as it needs."""
    overview = glance.overview
    if overview is None:
        return Group(_head(glance, zone), Text(f"The project does not answer: {glance.error}", style="red"))
    return Group(
        _head(glance, zone),
        Columns([_queue(overview), _rates(overview, glance.history), _links(glance.health)], padding=(0, 1)),
        Columns([_slowest(overview), _workers(overview)], padding=(0, 1)),
        Text("" if height is None else "Ctrl-C ends it", style="dim"),
    )


def _head(glance: Glance, zone: tzinfo | None) -> Text:
    text = Text()
    text.append(glance.host, style="bold")
    overview = glance.overview
    if overview is not None:
        text.append(f"  {local(overview.now, zone)}")
        text.append(f"  {overview.devices} devices, {overview.active} active, {overview.awake} awake")
        overdue = f", {overview.overdue} overdue"
        text.append(overdue, style="red" if overview.overdue else "")
    return text


def _queue(overview: Overview) -> Panel:
    depth = overview.depth
    table = _grid()
    late = depth.oldest_due_at is not None and overview.now - depth.oldest_due_at > _LATE
    table.add_row("due", Text(str(depth.due), style="red" if late else ""))
    oldest = relative(depth.oldest_due_at, overview.now) if depth.oldest_due_at else "none"
    table.add_row("the oldest", Text(oldest, style="red" if late else ""))
    table.add_row("being sent", str(depth.leased))
    table.add_row("sent, no answer", str(depth.sent))
    table.add_row("scheduled", str(depth.scheduled))
    table.add_row("to be retried", Text(str(depth.retrying), style="yellow" if depth.retrying else ""))
    table.add_row("held by a window", str(depth.held))
    return Panel(table, title="Queue", expand=False)


def _rates(overview: Overview, history: Sequence[int]) -> Panel:
    table = _grid()
    flows: tuple[Flow, ...] = (overview.minute, overview.window)
    table.add_column(justify="right")
    table.add_row("", *(Text(span(timedelta(seconds=flow.seconds)), style="bold") for flow in flows))
    table.add_row("queued", *(str(flow.issued) for flow in flows))
    table.add_row("sent", *(str(flow.delivered) for flow in flows))
    table.add_row("acknowledged", *(str(flow.acknowledged) for flow in flows))
    table.add_row("lost", *(Text(str(flow.lost), style="red" if flow.lost else "") for flow in flows))
    table.add_row("", Text(sparkline(history[-24:]), style="green"))
    return Panel(table, title="In the last", expand=False)


def _links(health: Health) -> Panel:
    if health.document is None:
        return Panel(Text(health.error or "", style="yellow"), title="A worker", width=44)
    document = health.document
    table = _grid()
    table.add_row("status", _verdict(str(document.get("status", "?"))))
    for name, key in (("broker", "mqtt"), ("Supabase", "supabase"), ("Realtime", "realtime")):
        part = document.get(key)
        if isinstance(part, dict):
            table.add_row(name, _connection(part))
    uptime = document.get("uptime")
    if isinstance(uptime, (int, float)):
        table.add_row("up", span(timedelta(seconds=uptime)))
    return Panel(table, title=Text(str(document.get("worker", health.address))), width=44)


def _connection(part: Mapping[str, Any]) -> Text:
    if part.get("connected"):
        return Text("connected", style="green")
    return Text(str(part.get("error") or "not connected"), style="red")


def _verdict(status: str) -> Text:
    return Text(status, style={"healthy": "green", "degraded": "yellow"}.get(status, "red"))


def _slowest(overview: Overview) -> Panel:
    table = Table(box=None, pad_edge=False)
    table.add_column("device")
    table.add_column("answers", justify="right")
    table.add_column("median", justify="right")
    for device in overview.slowest:
        table.add_row(
            Text(device.device_code or str(device.device_id)),
            str(device.answers),
            f"{device.median_seconds:.1f} s",
        )
    return Panel(table if overview.slowest else Text("no answers"), title="Slowest to answer", expand=False)


def _workers(overview: Overview) -> Panel:
    table = Table(box=None, pad_edge=False)
    for column in ("worker", "started"):
        table.add_column(column)
    for column in ("sending", "visits"):
        table.add_column(column, justify="right")
    for worker in overview.workers[:_WORKERS]:
        table.add_row(
            Text(worker.worker),
            relative(worker.since, overview.now),
            str(worker.commands),
            str(worker.visits),
        )
    more = len(overview.workers) - _WORKERS
    return Panel(
        table if overview.workers else Text("none has ever started"),
        title="Workers" + (f" (and {more} more)" if more > 0 else ""),
        expand=False,
    )


def _grid() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    return table
