"""The verbs `schedule` and `tag`, each with verbs of its own."""

from typing import Annotated

import typer

from mqtt_service.cli.options import (
    COMMANDS,
    DEVICES,
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
from mqtt_service.fleet.schedules import (
    ScheduleRequest,
    TargetWords,
    run_schedule_add,
    run_schedule_change,
    run_schedule_list,
    run_tag,
    run_tag_list,
)

app = typer.Typer()
schedule = typer.Typer(no_args_is_help=True, help="Recurring commands: add, list, pause, resume, remove.")
tag = typer.Typer(no_args_is_help=True, help="Tags of devices: add, remove, list.")
app.add_typer(schedule, name="schedule", rich_help_panel=COMMANDS)
app.add_typer(tag, name="tag", rich_help_panel=DEVICES)

Schedule = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its id, how that begins, or its name.")]
Tag = Annotated[str, typer.Argument(metavar="TAG", help="A word; upper and lower case differ.")]
Devices = Annotated[list[str], typer.Argument(metavar="DEVICE...", help="Ids, MACs, codes or names.")]


@schedule.command("add")
def schedule_add(  # noqa: PLR0913 - each is an option of the command line
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    command_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Such as capture_image.", autocompletion=complete_types)
    ],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="The payload, as for send.")
    ] = None,
    *,
    payload: Annotated[str | None, typer.Option(help="The payload as one JSON object.")] = None,
    cron: Annotated[str | None, typer.Option(help="Five fields, such as '30 6 * * MON-FRI'.")] = None,
    at_wakes: Annotated[
        bool, typer.Option("--at-wakes", help="Instead of --cron: at each wake of the site.")
    ] = False,
    timezone: Annotated[
        str | None, typer.Option(help="An IANA name; without it the site's zone holds, else UTC.")
    ] = None,
    device: TargetDevices = None,
    site: TargetSite = None,
    program: TargetProgram = None,
    company: TargetCompany = None,
    tags: TargetTags = None,
    where: TargetWhere = None,
    expires: Annotated[
        str | None, typer.Option(metavar="IN", help="How long each command lives: 30m, 2h, 1d.")
    ] = None,
    missed: Annotated[str, typer.Option(help="Times that no worker saw to: run_once or skip.")] = "run_once",
    priority: Annotated[int, typer.Option(min=-32768, max=32767, help="Higher goes first.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Queue a command again and again; what can never work is refused with the reason."""
    target = TargetWords(device or (), site, program, company, tags or (), where)
    request = ScheduleRequest(
        name, command_type, target, pairs or (), payload, cron, at_wakes, timezone, expires, missed, priority
    )
    raise typer.Exit(run_schedule_add(load_project_settings(), request, as_json=as_json))


@schedule.command("list")
def schedule_list(*, as_json: AsJson = False) -> None:
    """List recurring commands: when they run next, and what became of the last time."""
    raise typer.Exit(run_schedule_list(load_project_settings(), as_json=as_json))


@schedule.command()
def pause(schedule: Schedule, *, as_json: AsJson = False) -> None:
    """Pause one; what is due meanwhile is not made up."""
    raise typer.Exit(run_schedule_change(load_project_settings(), schedule, "pause", as_json=as_json))


@schedule.command()
def resume(schedule: Schedule, *, as_json: AsJson = False) -> None:
    """Resume one, with the next time after now."""
    raise typer.Exit(run_schedule_change(load_project_settings(), schedule, "resume", as_json=as_json))


@schedule.command()
def remove(schedule: Schedule, *, as_json: AsJson = False) -> None:
    """Remove one; what it has queued stays."""
    raise typer.Exit(run_schedule_change(load_project_settings(), schedule, "remove", as_json=as_json))


@tag.command("add")
def tag_add(tag: Tag, device: Devices, *, as_json: AsJson = False) -> None:
    """Give devices a tag."""
    raise typer.Exit(run_tag(load_project_settings(), tag, device, add=True, as_json=as_json))


@tag.command("remove")
def tag_remove(tag: Tag, device: Devices, *, as_json: AsJson = False) -> None:
    """Take a tag off devices."""
    raise typer.Exit(run_tag(load_project_settings(), tag, device, add=False, as_json=as_json))


@tag.command("list")
def tag_list(*, as_json: AsJson = False) -> None:
    """List tags, and the devices that have each."""
    raise typer.Exit(run_tag_list(load_project_settings(), as_json=as_json))
