"""Options that several verbs have, and what a shell completes."""

from typing import Annotated

import typer

from mqtt_service.fleet.words import LOST, OPEN, STATUSES
from mqtt_service.protocol.commands import BUILT_IN_TYPES

# The headings of the help.
COMMANDS = "Commands to devices"
DEVICES = "Devices"


def complete_types(incomplete: str) -> list[str]:
    """The built-in types that begin like this."""
    return [name for name in BUILT_IN_TYPES if name.startswith(incomplete)]


def complete_statuses(incomplete: str) -> list[str]:
    """The statuses that begin like this."""
    return [name for name in (*STATUSES, OPEN, LOST) if name.startswith(incomplete)]


AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output; times in UTC.")]
Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Its id, MAC, code or name.")]

_WHO = "For which devices (parts of one target: a device must fit all)"

# The parts of a target.
TargetDevices = Annotated[
    list[str] | None,
    typer.Option("--device", "-d", help="A device's id, MAC, code or name.", rich_help_panel=_WHO),
]
TargetSite = Annotated[str | None, typer.Option("--site", help="A site's id or name.", rich_help_panel=_WHO)]
TargetProgram = Annotated[str | None, typer.Option("--program", help="A program's.", rich_help_panel=_WHO)]
TargetCompany = Annotated[str | None, typer.Option("--company", help="A company's.", rich_help_panel=_WHO)]
TargetTags = Annotated[
    list[str] | None, typer.Option("--tag", help="A tag that they have.", rich_help_panel=_WHO)
]
TargetWhere = Annotated[
    str | None,
    typer.Option(
        "--where", help='Further parts as JSON: {"firmware": {"<": "1.10.0"}}.', rich_help_panel=_WHO
    ),
]
