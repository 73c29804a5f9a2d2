"""The verbs `rollout` and `window`, each with verbs of its own."""

from typing import Annotated
from uuid import UUID

import typer

from mqtt_service.cli.options import (
    COMMANDS,
    AsJson,
    TargetCompany,
    TargetDevices,
    TargetProgram,
    TargetSite,
    TargetTags,
    TargetWhere,
    complete_types,
)
from mqtt_service.config import load_project_settings
from mqtt_service.fleet.rollouts import (
    RolloutRequest,
    WindowRequest,
    run_rollout_change,
    run_rollout_list,
    run_rollout_start,
    run_rollout_status,
    run_window_add,
    run_window_list,
    run_window_remove,
)
from mqtt_service.fleet.schedules import TargetWords

app = typer.Typer()
rollout = typer.Typer(
    no_args_is_help=True,
    help="Commands released little by little: start, list, status, pause, resume, approve, cancel.",
)
window = typer.Typer(no_args_is_help=True, help="Maintenance windows: add, list, remove.")
app.add_typer(rollout, name="rollout", rich_help_panel=COMMANDS)
app.add_typer(window, name="window", rich_help_panel=COMMANDS)

Rollout = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its id, how that begins, or its name.")]


@rollout.command()
def start(  # noqa: PLR0913 - each is an option of the command line
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    command_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Such as update_firmware.", autocompletion=complete_types)
    ],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="The payload, as for send.")
    ] = None,
    *,
    payload: Annotated[str | None, typer.Option(help="The payload as one JSON object.")] = None,
    release: Annotated[UUID | None, typer.Option(help="A firmware release's id.")] = None,
    device: TargetDevices = None,
    site: TargetSite = None,
    program: TargetProgram = None,
    company: TargetCompany = None,
    tags: TargetTags = None,
    where: TargetWhere = None,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Also for devices that come to fit later.")
    ] = False,
    rate: Annotated[int | None, typer.Option(min=1, max=10000, help="Devices a minute; 50.")] = None,
    growth: Annotated[
        float | None,
        typer.Option(min=1, max=10, help="Times this, when a minute has succeeded; 1."),
    ] = None,
    max_rate: Annotated[int | None, typer.Option(min=1, max=10000, help="The most a minute; 1000.")] = None,
    stop_at: Annotated[
        float | None, typer.Option(min=0, max=100, help="Per cent of failures above which it stops; 10.")
    ] = None,
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="… once so many devices have ended; 10.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="IN", help="How long each command lives: 30m, 2h, 1d.")
    ] = None,
    priority: Annotated[int, typer.Option(min=-32768, max=32767, help="Higher goes first.")] = 0,
    needs_approval: Annotated[
        bool, typer.Option("--needs-approval", help="Wait until another admin approves it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a rollout, after saying for how many devices it is."""
    target = TargetWords(device or (), site, program, company, tags or (), where)
    request = RolloutRequest(
        name, command_type, target, pairs or (), payload, release, continuous, rate, growth, max_rate,
        stop_at, stop_after, expires, priority, needs_approval, yes, typer.confirm,
    )  # fmt: skip
    raise typer.Exit(run_rollout_start(load_project_settings(), request, as_json=as_json))


@rollout.command("list")
def rollout_list(*, as_json: AsJson = False) -> None:
    """List rollouts, the latest first."""
    raise typer.Exit(run_rollout_list(load_project_settings(), as_json=as_json))


@rollout.command()
def status(
    rollout: Rollout,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw its progress until it is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a rollout's devices by state, and those that failed or got no command."""
    raise typer.Exit(run_rollout_status(load_project_settings(), rollout, watch=watch, as_json=as_json))


@rollout.command()
def pause(rollout: Rollout, *, as_json: AsJson = False) -> None:
    """Release no more; what was released goes on."""
    raise typer.Exit(run_rollout_change(load_project_settings(), rollout, "pause", as_json=as_json))


@rollout.command()
def resume(rollout: Rollout, *, as_json: AsJson = False) -> None:
    """Go on with one that was paused, or has stopped; then failures count anew."""
    raise typer.Exit(run_rollout_change(load_project_settings(), rollout, "resume", as_json=as_json))


@rollout.command()
def approve(
    rollout: Rollout,
    *,
    by: Annotated[UUID, typer.Option(metavar="USER_ID", help="Who approves it, and did not make it.")],
    as_json: AsJson = False,
) -> None:
    """Approve one that waits for a second person; with the secret key, say who that is."""
    raise typer.Exit(run_rollout_change(load_project_settings(), rollout, "approve", by=by, as_json=as_json))


@rollout.command()
def cancel(rollout: Rollout, *, as_json: AsJson = False) -> None:
    """End one, and cancel its commands that were not sent yet."""
    raise typer.Exit(run_rollout_change(load_project_settings(), rollout, "cancel", as_json=as_json))


@window.command("add")
def window_add(
    cron: Annotated[str, typer.Argument(metavar="CRON", help="When it opens, such as '0 2 * * SUN'.")],
    duration: Annotated[str, typer.Argument(metavar="DURATION", help="For how long: 90m, 2h.")],
    *,
    site: Annotated[str | None, typer.Option(help="A site's id or name.")] = None,
    rollout: Annotated[str | None, typer.Option(help="Or a rollout's.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="An IANA name; without it the site's zone holds, else UTC.")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", help="What it holds of a site; update_firmware, update_config and reboot.",
            autocompletion=complete_types,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Add a window: outside of it, commands that change devices wait."""
    request = WindowRequest(cron, duration, site, rollout, timezone, types or ())
    raise typer.Exit(run_window_add(load_project_settings(), request, as_json=as_json))


@window.command("list")
def window_list(*, as_json: AsJson = False) -> None:
    """List windows: whose they are, what they hold, and when they open."""
    raise typer.Exit(run_window_list(load_project_settings(), as_json=as_json))


@window.command("remove")
def window_remove(
    window: Annotated[str, typer.Argument(metavar="WINDOW", help="Its id, or how that begins.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Remove a window; what it holds goes out."""
    raise typer.Exit(run_window_remove(load_project_settings(), window, as_json=as_json))
