"""A fleet that only the database knows, of any size, to look at in the console."""

from pathlib import Path
from typing import Any

import psycopg

_ADD = Path(__file__).with_suffix(".sql").read_bytes()
_REMOVE = b"""
delete from device_commands where device_id::text like 'f1ee7000-%';
delete from devices where device_id::text like 'f1ee7000-%';
delete from sites where site_id::text like 'f1ee7000-%';
"""


def device_id(number: int) -> str:
    """The id of a device of the fleet, counted from 1."""
    return f"f1ee7000-0000-4000-8000-{number:012}"


def add_fleet(database: psycopg.Connection[Any], *, devices: int, commands: int, sites: int = 0) -> None:
    """Add so many sites to company A, then devices at all of its sites, and commands.

    They are written past the triggers, so that no worker and no page is told of each.
    """
    with database.transaction():
        database.execute("set local session_replication_role = replica")
        for name, value in {"devices": devices, "commands": commands, "sites": sites}.items():
            database.execute("select set_config(%s, %s, true)", (f"fleet.{name}", str(value)))
        database.execute(_ADD)
    database.execute("analyze devices, device_commands")  # in a project it comes by itself


def remove_fleet(database: psycopg.Connection[Any]) -> None:
    """Remove all of it."""
    with database.transaction():
        database.execute("set local session_replication_role = replica")
        database.execute(_REMOVE)
