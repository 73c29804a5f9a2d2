"""The verb `config`: the settings in effect; and the verbs below it, on devices' configuration."""

from typing import Annotated

import typer

from mqtt_service.cli.options import AsJson, Device
from mqtt_service.config import load_project_settings

_WHO = "For which devices (parts of one target: a device must fit all)"

app = typer.Typer()
config = typer.Typer(
    invoke_without_command=True,
    help="The settings in effect; and devices' configuration: set, show.",
)
app.add_typer(config, name="config")


@config.callback()
def settings(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Print the settings in effect, secrets masked, and where each comes from.

    Exit status: 0, or 2 where a setting is wrong. With `set` or `show`: what devices are to have.
    """
    if context.invoked_subcommand is not None:
        return
    from mqtt_service.doctor.run import run_config  # noqa: PLC0415 - a worker shares this command line

    raise typer.Exit(run_config(as_json=as_json))


@config.command("set")
def config_set(  # noqa: PLR0913 - each is an option of the command line
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As the payload of send.")
    ] = None,
    *,
    payload: Annotated[str | None, typer.Option(help="All keys as one JSON object.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Keys that are not named are desired no more.")
    ] = False,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help="A device's id, MAC, code or name.", rich_help_panel=_WHO),
    ] = None,
    site: Annotated[str | None, typer.Option(help="A site's id or name.", rich_help_panel=_WHO)] = None,
    program: Annotated[str | None, typer.Option(help="A program's.", rich_help_panel=_WHO)] = None,
    company: Annotated[str | None, typer.Option(help="A company's.", rich_help_panel=_WHO)] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag that they have.", rich_help_panel=_WHO)
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help='Further parts as JSON: {"firmware": {"<": "1.10.0"}}.', rich_help_panel=_WHO),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set what devices are to have; each gets what differs when it wakes."""
    from mqtt_service.fleet.configuration import ConfigRequest, run_config_set  # noqa: PLC0415 - as above
    from mqtt_service.fleet.schedules import TargetWords  # noqa: PLC0415 - as above

    target = TargetWords(device or (), site, program, company, tags or (), where)
    request = ConfigRequest(target, pairs or (), payload, replace)
    raise typer.Exit(run_config_set(load_project_settings(), request, as_json=as_json))


@config.command("show")
def config_show(device: Device, *, as_json: AsJson = False) -> None:
    """Show what a device is to have, what it has confirmed, and what happens next."""
    from mqtt_service.fleet.configuration import run_config_show  # noqa: PLC0415 - as above

    raise typer.Exit(run_config_show(load_project_settings(), device, as_json=as_json))
