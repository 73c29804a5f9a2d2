"""The verbs about devices: `devices`, `device`, `map`, `unmap`, `wake`, `backfill`."""

from typing import Annotated

import typer

from mqtt_service.cli.options import DEVICES, AsJson, Device
from mqtt_service.config import load_project_settings
from mqtt_service.devices.backfill_report import run_backfill
from mqtt_service.errors import UsageError
from mqtt_service.fleet.devices import run_device, run_devices
from mqtt_service.fleet.mapping import run_map, run_unmap, run_wake
from mqtt_service.fleet.timeline import run_timeline

app = typer.Typer()


@app.command(rich_help_panel=DEVICES)
def devices(
    *,
    status: Annotated[
        list[str] | None, typer.Option(help="pending_mapping, mapped, active or inactive.")
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="A site's id or name.")] = None,
    as_json: AsJson = False,
) -> None:
    """List devices: where they are, when they were heard last and wake next, battery and signal."""
    raise typer.Exit(run_devices(load_project_settings(), status or (), site or (), as_json=as_json))


@app.command(rich_help_panel=DEVICES)
def device(
    device: Device,
    *,
    limit: Annotated[int, typer.Option(min=1, help="At most so many lines of its timeline.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show a device: its schedule and wakes, how its commands ended, its pictures, its timeline."""
    raise typer.Exit(run_device(load_project_settings(), device, limit, as_json=as_json))


@app.command(rich_help_panel=DEVICES)
def timeline(
    device: Device,
    *,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From then on: 2h (ago) or ISO 8601; without it, for a day."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Up to then: 2h (ago) or ISO 8601; without it, now.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay what happened to a device: commands with each change, wakes, pictures, readings, events."""
    raise typer.Exit(run_timeline(load_project_settings(), device, since, until, as_json=as_json))


@app.command("map", rich_help_panel=DEVICES)
def map_device(
    device: Device,
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's id or name.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Map a device to a site: it becomes active and gets its welcome with the wake schedule."""
    raise typer.Exit(run_map(load_project_settings(), device, site, as_json=as_json))


@app.command(rich_help_panel=DEVICES)
def unmap(device: Device, *, as_json: AsJson = False) -> None:
    """End a device's mapping: it becomes inactive."""
    raise typer.Exit(run_unmap(load_project_settings(), device, as_json=as_json))


@app.command(rich_help_panel=DEVICES)
def wake(
    device: Device,
    cron: Annotated[
        str | None, typer.Argument(metavar="[CRON]", help="Five fields, in the zone of the device's site.")
    ] = None,
    *,
    of_site: Annotated[
        bool, typer.Option("--of-site", help="Instead: the schedule of its site again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give a device a wake schedule of its own, and queue a set_wake_schedule that tells it."""
    if (cron is None) != of_site:
        raise UsageError("write a schedule like '0 8,16 * * *', or --of-site")
    raise typer.Exit(run_wake(load_project_settings(), device, cron, as_json=as_json))


@app.command(rich_help_panel=DEVICES)
def backfill(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Find and report only; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Complete site, program, company and next wake of mapped devices; safe to interrupt and repeat.

    Exit status: 0 nothing that can be fixed remains, 1 some failed, 2 wrong configuration, 130 interrupted.
    """
    raise typer.Exit(run_backfill(load_project_settings(), dry_run=dry_run, as_json=as_json))
