"""What the steps of the trial share: the device that they are about, and calls as the worker makes them."""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from mqtt_service.adoption.database import Connection, Query, value

WORKER = "mqtt-service-check"

Answer = dict[str, Any]


class RefusedError(Exception):
    """Our function refused, and passed on the database's words alone; `write` may raise the error itself."""

    def __init__(self, message: str, write: sql.Composed) -> None:
        super().__init__(message)
        self.write = write


class NoDeviceError(Exception):
    """There is no device for the steps that follow."""


@dataclass
class Flow:
    """The device and the rows that the steps hand on to each other.

    `is_made`: the device registered itself in this trial. `commands`: those that were claimed. `remarks`:
    what the project's tables refused without harm to the rest.
    """

    connection: Connection
    topic_id: str = ""
    device_id: str = ""
    is_made: bool = False
    commands: list[Answer] = field(default_factory=list)
    command_id: str = ""
    image_id: str = ""
    remarks: list[str] = field(default_factory=list)

    def call(self, function: str, *arguments: object, **named: object) -> Any:  # noqa: ANN401 - jsonb
        """Call a function of ours; lists and dicts go as jsonb."""
        given: list[sql.Composable] = [sql.Literal(_encoded(argument)) for argument in arguments]
        given += [sql.SQL("{} => {}").format(sql.Identifier(name), named[name]) for name in named]
        query = sql.SQL("select public.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(given))
        return value(self.connection, query)

    def insert(self, table: str, key: str, **columns: object) -> str:
        """Insert a row, as a client of the API does, and return its key."""
        query = insertion(table, **columns) + sql.SQL(" returning {}").format(sql.Identifier(key))
        return str(value(self.connection, query))

    def one(self, query: Query, **parameters: object) -> Any:  # noqa: ANN401 - what it selects
        """Return the one value of a query of our own, or None."""
        return value(self.connection, query, **parameters)


Act = Callable[[Flow], str | None]
"""A step. Returns why it was left out, which is no fault, or nothing. Raises RefusedError, or psycopg's."""


def insertion(table: str, **columns: object) -> sql.Composed:
    """A statement that inserts this row."""
    return sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier("public", table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(map(sql.Literal, columns.values())),
    )


def change(table: str, key: str, identity: str, assignments: str) -> sql.Composed:
    """A statement that updates the row of this key."""
    return sql.SQL("update {} set {} where {} = {}").format(
        sql.Identifier("public", table), sql.SQL(assignments), sql.Identifier(key), identity
    )


def unique_ref() -> str:
    """A name for a message that no other has."""
    return f"{WORKER}-{secrets.token_hex(4)}"


def first(answers: Sequence[Answer] | None) -> Answer:
    """The only answer of a call about one thing."""
    return answers[0] if answers else {}


def words(answer: Answer) -> str:
    """Why a function did not do it, in its own words."""
    return str(answer.get("error") or f"the answer was {answer.get('result', 'nothing')}")


def _encoded(argument: object) -> object:
    return json.dumps(argument) if isinstance(argument, list | dict) else argument
