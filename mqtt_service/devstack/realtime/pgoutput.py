"""The binary messages of Postgres's logical decoding plugin `pgoutput`, protocol version 1: pure.

Bytes in, row changes out. Values stay as Postgres wrote them, as text; json_values makes JSON of them.
See "Logical Replication Message Formats" in the Postgres manual.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mqtt_service.errors import RemoteProtocolError

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_UNCHANGED = b"u"  # a large value that an update left alone


class Action(StrEnum):
    """What happened to a row."""

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"


@dataclass(frozen=True)
class Column:
    """A column of a published table; `in_key` when it belongs to the replica identity."""

    name: str
    type_oid: int
    in_key: bool


@dataclass(frozen=True)
class Relation:
    """A published table, as it was when the change was made."""

    oid: int
    schema: str
    table: str
    columns: tuple[Column, ...]

    @property
    def type_oids(self) -> Mapping[str, int]:
        """The type of each column."""
        return {column.name: column.type_oid for column in self.columns}


Row = Mapping[str, str | None]
"""Column → text, or None for null. A large value that an update left alone is absent."""


@dataclass(frozen=True)
class Change:
    """One row change; `new` is absent for a DELETE, `old` unless Postgres wrote an old key or row."""

    action: Action
    relation: Relation
    committed_at: datetime
    new: Row | None = None
    old: Row | None = None


@dataclass
class Decoder:
    """Remembers the tables and the transaction that a stream has announced.

    `wants`: whether a table's changes are of use; others are passed over unread.
    """

    wants: Callable[[Relation], bool] = lambda _: True
    _relations: dict[int, Relation] = field(default_factory=dict)
    _committed_at: datetime = _POSTGRES_EPOCH

    def decode(self, data: bytes) -> Change | None:
        """Return the row change in one message, or None for one of another kind or of a table nobody wants.

        Raises RemoteProtocolError for bytes that are no pgoutput message.
        """
        reader = _Reader(data)
        kind = reader.take(1)
        match kind:
            case b"B":
                reader.take(8)
                self._committed_at = _instant(reader.integer(8))
            case b"R":
                relation = _read_relation(reader)
                self._relations[relation.oid] = relation
            case b"I" | b"U" | b"D":
                return self._read_change(kind, reader)
            case b"C" | b"O" | b"T" | b"Y" | b"M":
                pass  # commit, origin, truncate, type and message: nothing a subscriber hears of
            case _:
                raise RemoteProtocolError(f"pgoutput sent a message of the unknown kind {kind!r}.")
        return None

    def _read_change(self, kind: bytes, reader: "_Reader") -> Change | None:
        oid = reader.integer(4)
        relation = self._relations.get(oid)
        if relation is None:
            raise RemoteProtocolError(f"pgoutput changed a row of table {oid}, which it never described.")
        if not self.wants(relation):
            return None
        part = reader.take(1)
        old = None
        if part in {b"K", b"O"}:
            old = _read_row(reader, relation, key_only=part == b"K")
            part = reader.take(1) if kind != b"D" else b""
        new = _read_row(reader, relation, key_only=False) if part == b"N" else None
        action = {b"I": Action.INSERT, b"U": Action.UPDATE, b"D": Action.DELETE}[kind]
        return Change(action, relation, self._committed_at, new, old)


class _Reader:
    """Takes fields off the front of a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        end = self._at + length
        if length < 0 or end > len(self._data):
            raise RemoteProtocolError(f"A pgoutput message ends too early, at byte {len(self._data)}.")
        taken, self._at = self._data[self._at : end], end
        return taken

    def integer(self, length: int) -> int:
        return int.from_bytes(self.take(length), signed=True)

    def unsigned(self, length: int) -> int:
        return int.from_bytes(self.take(length))

    def string(self) -> str:
        end = self._data.find(b"\0", self._at)
        text = self.take(end - self._at)
        self._at += 1
        return _text(text)


def _read_relation(reader: _Reader) -> Relation:
    oid = reader.integer(4)
    schema, table = reader.string() or "pg_catalog", reader.string()
    reader.take(1)  # the replica identity setting; what it means for a row shows in each change
    columns = []
    for _ in range(reader.unsigned(2)):
        in_key = reader.integer(1) == 1
        name, type_oid = reader.string(), reader.unsigned(4)
        reader.take(4)  # the type modifier
        columns.append(Column(name, type_oid, in_key))
    return Relation(oid, schema, table, tuple(columns))


def _read_row(reader: _Reader, relation: Relation, *, key_only: bool) -> Row:
    row: dict[str, str | None] = {}
    count = reader.unsigned(2)
    if count > len(relation.columns):
        raise RemoteProtocolError(f"pgoutput sent {count} values for {relation.schema}.{relation.table}.")
    for column in relation.columns[:count]:
        kind = reader.take(1)
        value = _read_value(kind, reader)
        if kind != _UNCHANGED and (column.in_key or not key_only):
            row[column.name] = value
    return row


def _read_value(kind: bytes, reader: _Reader) -> str | None:
    match kind:
        case b"n" | b"u":
            return None
        case b"t":
            return _text(reader.take(reader.unsigned(4)))
    raise RemoteProtocolError(f"pgoutput sent a value of the unknown kind {kind!r}.")


def _instant(microseconds: int) -> datetime:
    try:
        return _POSTGRES_EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise RemoteProtocolError("pgoutput sent a time of commit beyond all calendars.") from error


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("pgoutput sent text that is not UTF-8: use a UTF-8 database.") from error
