"""The verbs about commands: `send`, `commands`, `show`, `cancel`, `retry`."""

from typing import Annotated

import typer

from mqtt_service.cli.options import COMMANDS, AsJson, complete_statuses, complete_types
from mqtt_service.config import load_project_settings
from mqtt_service.errors import UsageError
from mqtt_service.fleet.cancelling import CancelRequest, run_cancel_many
from mqtt_service.fleet.choosing import Selection
from mqtt_service.fleet.commands import CANCEL, RETRY, ListRequest, run_commands, run_move, run_show
from mqtt_service.fleet.schedules import TargetWords
from mqtt_service.fleet.send import SendRequest, run_send

_ALL_OF = "All that wait (these narrow each other; it says how many, and asks)"
_WHO = "For which devices (one of these; each may be given several times)"

app = typer.Typer()

CommandIds = Annotated[
    list[str], typer.Argument(metavar="COMMAND...", help="Ids of commands, or how they begin.")
]


@app.command(rich_help_panel=COMMANDS)
def send(  # noqa: PLR0913 - each is an option of the command line
    command_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Such as capture_image.", autocompletion=complete_types)
    ],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="The payload. A value is read as JSON where it is JSON (30, true, a list), else as text; "
            "write '\"30\"' for a text of digits.",
        ),
    ] = None,
    *,
    payload: Annotated[str | None, typer.Option(help="The payload as one JSON object.")] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help="A device's id, MAC, code or name.", rich_help_panel=_WHO),
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="All active ones of a site: its id or name.", rich_help_panel=_WHO),
    ] = None,
    program: Annotated[
        list[str] | None, typer.Option(help="Those of a program.", rich_help_panel=_WHO)
    ] = None,
    company: Annotated[
        list[str] | None, typer.Option(help="Those of a company.", rich_help_panel=_WHO)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Those of the whole project.", rich_help_panel=_WHO)
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Not before: 2h (from now), 18:30 (the next one) or ISO 8601."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="IN", help="Give up after this time, counted from --at: 30m, 2h, 1d."),
    ] = None,
    priority: Annotated[int, typer.Option(min=-32768, max=32767, help="Higher goes first.")] = 0,
    release: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Of update_firmware: a published release, not a payload."),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Watch until all are acknowledged; status 1 if one is not."),
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="IN", help="Stop waiting after this time, with status 1."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before more than one device.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a command for one device or many; what can never work is refused with the reason."""
    selection = Selection(device or (), site or (), program or (), company or (), everything)
    request = SendRequest(
        command_type,
        selection,
        pairs or (),
        payload,
        at,
        expires,
        priority,
        wait,
        timeout,
        yes,
        release,
        lambda question: typer.confirm(question, err=True),
    )
    raise typer.Exit(run_send(load_project_settings(), request, as_json=as_json))


@app.command(rich_help_panel=COMMANDS)
def commands(
    *,
    status: Annotated[
        list[str] | None,
        typer.Option(
            help="A status; or open: pending, sent; or lost: failed for good, rejected, expired.",
            autocompletion=complete_statuses,
        ),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", "-d", help="A device's id, MAC, code or name.")
    ] = None,
    command_type: Annotated[
        list[str] | None, typer.Option("--type", help="A command type.", autocompletion=complete_types)
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Issued since: 2h (ago) or ISO 8601.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest first.")] = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Look every two seconds until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """List commands, the latest first: what is under way, what failed, and why."""
    request = ListRequest(status or (), device or (), command_type or (), since, limit, watch)
    raise typer.Exit(run_commands(load_project_settings(), request, as_json=as_json))


@app.command(rich_help_panel=COMMANDS)
def show(
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="Its id, or how it begins.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Tell a command's story: where it is, why, and what happens next and when."""
    raise typer.Exit(run_show(load_project_settings(), command, as_json=as_json))


@app.command(rich_help_panel=COMMANDS)
def cancel(  # noqa: PLR0913 - each is an option of the command line
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", help="Ids of commands, or how they begin."),
    ] = None,
    *,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help="A device's id, MAC, code or name.", rich_help_panel=_ALL_OF),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Those of a site.", rich_help_panel=_ALL_OF)] = None,
    program: Annotated[str | None, typer.Option(help="Those of a program.", rich_help_panel=_ALL_OF)] = None,
    company: Annotated[str | None, typer.Option(help="Those of a company.", rich_help_panel=_ALL_OF)] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Those that have all these tags.", rich_help_panel=_ALL_OF)
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="What a recurring command has queued: its id or name.", rich_help_panel=_ALL_OF),
    ] = None,
    command_type: Annotated[
        str | None,
        typer.Option(
            "--type", help="Of this type alone.", rich_help_panel=_ALL_OF, autocompletion=complete_types
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", rich_help_panel=_ALL_OF)] = False,
    as_json: AsJson = False,
) -> None:
    """Withdraw commands that are pending or failed: some by their ids, or all that wait for devices."""
    target = TargetWords(device or (), site, program, company, tag or ())
    request = CancelRequest(
        target, schedule, command_type, yes, lambda question: typer.confirm(question, err=True)
    )
    many = request.names_devices or schedule is not None
    if bool(command) == many:
        raise UsageError("name commands by their ids, or say whose: --site, --tag, --device, --schedule, …")
    if command:
        raise typer.Exit(run_move(load_project_settings(), command, CANCEL, as_json=as_json))
    raise typer.Exit(run_cancel_many(load_project_settings(), request, as_json=as_json))


@app.command(rich_help_panel=COMMANDS)
def retry(command: CommandIds, *, as_json: AsJson = False) -> None:
    """Try failed commands once more, now; their time to live begins again."""
    raise typer.Exit(run_move(load_project_settings(), command, RETRY, as_json=as_json))
