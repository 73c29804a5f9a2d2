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
