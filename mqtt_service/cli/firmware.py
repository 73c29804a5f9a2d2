"""The verb `firmware`, with verbs of its own."""

from pathlib import Path
from typing import Annotated

import typer

from mqtt_service.cli.options import DEVICES, AsJson
from mqtt_service.config import load_project_settings
from mqtt_service.fleet.firmware import PublishRequest, run_firmware_list, run_firmware_remove, run_publish

app = typer.Typer()
firmware = typer.Typer(no_args_is_help=True, help="Firmware releases: publish, list, remove.")
app.add_typer(firmware, name="firmware", rich_help_panel=DEVICES)

Hardware = Annotated[
    str | None, typer.Option(help="devices.hardware_version that it is for; without it: any.")
]
Company = Annotated[str | None, typer.Option(help="A company's id or name, where there is more than one.")]


@firmware.command()
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The binary.")],
    *,
    version: Annotated[str, typer.Option(help="As devices report it, such as 1.4.0.")],
    hardware: Hardware = None,
    notes: Annotated[str | None, typer.Option(help="What is new.")] = None,
    company: Company = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file and publish it; the same file again changes nothing, another one is refused."""
    request = PublishRequest(file, version, hardware, notes, company)
    raise typer.Exit(run_publish(load_project_settings(), request, as_json=as_json))


@firmware.command("list")
def firmware_list(*, as_json: AsJson = False) -> None:
    """List releases, the newest first."""
    raise typer.Exit(run_firmware_list(load_project_settings(), as_json=as_json))


@firmware.command("remove")
def firmware_remove(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Such as 1.4.0.")],
    *,
    hardware: Hardware = None,
    company: Company = None,
    as_json: AsJson = False,
) -> None:
    """Remove a release and its file; commands that wait for it fail, and say so."""
    settings = load_project_settings()
    raise typer.Exit(run_firmware_remove(settings, version, hardware, company, as_json=as_json))
