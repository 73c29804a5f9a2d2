"""The connection to the project's database: what is wrong with its URL or its way there is one line each.

No message holds any part of the URL but the host, the port, the database and the user; a password that was
pasted without its percent-encoding is found out before libpq can quote it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import class_row

from mqtt_service.errors import ConfigurationError

Connection = psycopg.Connection[tuple[Any, ...]]
Query = LiteralString | sql.SQL | sql.Composed
Row = TypeVar("Row")

CONNECT_SECONDS = 10
TRANSACTION_POOLER_PORT = "6543"

_HOST = re.compile(r"[\w.:%,/\[\]-]*")
_NAMES = "the URL of the database (--database-url or SUPABASE_DB_URL)"
_ENCODE = f"{_NAMES} cannot be read: write each of @ : / ? # % in the password as %40 %3A %2F %3F %23 %25"
_SESSION = "use the session pooler's string of the dashboard (Connect → Session pooler, port 5432)"

# What a server or a pooler says, and what to do about it; the first that is found goes.
_ADVICE = (
    ("password authentication failed", "the password or the user is wrong"),
    ("no password supplied", "the URL holds no password"),
    ("tenant or user not found", "the pooler does not know this user: it is postgres.<project ref>"),
    ("could not translate host", f"no such host; a direct address may have IPv6 alone: {_SESSION}"),
    ("name or service not known", f"no such host; a direct address may have IPv6 alone: {_SESSION}"),
    ("failed to resolve host", f"no such host; a direct address may have IPv6 alone: {_SESSION}"),
    (
        "network is unreachable",
        f"this machine does not reach it; a direct address has IPv6 alone: {_SESSION}",
    ),
    ("connection refused", "nothing listens there: check host and port"),
    ("timeout", "no answer: check the host, and whether a firewall is between"),
    ("does not exist", "there is no such database or user"),
    ("too many", "the database has no connection left: try again later"),
    ("max clients reached", "the pooler has no connection left: try again later"),
    ("ssl", "the server and this client do not agree on TLS: check sslmode"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the database is, and as whom we are there; `version` such as 15.8."""

    host: str
    port: int
    database: str
    user: str
    version: str


def connect(url: str) -> Connection:
    """Connect; raises ConfigurationError with one line where that cannot be done."""
    target = _read(url)
    try:
        return psycopg.connect(
            url,
            connect_timeout=int(target.get("connect_timeout") or CONNECT_SECONDS),
            application_name="mqtt-service migrations --check",
            prepare_threshold=None,
        )
    except psycopg.Error as error:
        where = f"{target.get('host') or 'the default host'}:{target.get('port') or 5432}"
        raise ConfigurationError([f"no connection to {where}: {_advice(str(error))}"]) from None


def place_of(connection: Connection) -> Place:
    """Return where this connection leads."""
    info = connection.info
    number = info.server_version
    return Place(info.host, info.port, info.dbname, info.user, f"{number // 10000}.{number % 10000}")


def _read(url: str) -> dict[str, Any]:
    if not url.strip():
        raise ConfigurationError([f"{_NAMES} is not set"])
    try:
        target = conninfo_to_dict(url)
    except psycopg.Error:  # whose words can quote the password
        raise ConfigurationError([_ENCODE]) from None
    host, port, name = (str(target.get(part) or "") for part in ("host", "port", "dbname"))
    if not _HOST.fullmatch(host) or not re.fullmatch(r"[\d,]*", port) or "@" in name:
        raise ConfigurationError([_ENCODE])
    if port == TRANSACTION_POOLER_PORT:
        raise ConfigurationError(
            [f"port {port} is the pooler in transaction mode, which migrations do not go through: {_SESSION}"]
        )
    return target


def _advice(words: str) -> str:
    lowered = words.lower()
    for sign, advice in _ADVICE:
        if sign in lowered:
            return advice
    return words.strip().splitlines()[-1] if words.strip() else "the server said nothing"


def fetch(connection: Connection, row: type[Row], query: Query, **parameters: object) -> list[Row]:
    """Return the rows of a query, each as one of the dataclass `row`, whose fields are its columns."""
    with connection.cursor(row_factory=class_row(row)) as cursor:
        return cursor.execute(query, parameters or None).fetchall()


def value(connection: Connection, query: Query, **parameters: object) -> Any:  # noqa: ANN401 - what the query selects
    """Return the one value of a query."""
    row = connection.execute(query, parameters or None).fetchone()
    return row[0] if row else None


def values(connection: Connection, query: Query, **parameters: object) -> list[Any]:
    """Return the first value of each row of a query."""
    return [row[0] for row in connection.execute(query, parameters or None).fetchall()]


def identifier(name: str) -> sql.Composable:
    """A name with its schema, quoted."""
    return sql.Identifier(*name.split(".", 1))


def in_public(name: str) -> str:
    """The name with its schema, public where it has none."""
    return name if "." in name else f"public.{name}"


@contextmanager
def read_only(connection: Connection) -> Iterator[None]:
    """One read-only transaction that sees one moment, and waits for no lock for long; rolled back."""
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("set local search_path = pg_catalog")
            connection.execute("set local lock_timeout = '2s'")
            connection.execute("set local statement_timeout = '30s'")
            yield
    finally:
        if not connection.closed:
            connection.read_only = None
            connection.isolation_level = None


def listed(words: Sequence[str], limit: int = 5) -> str:
    """`a, b and 3 more`."""
    shown = list(words[:limit])
    more = len(words) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
