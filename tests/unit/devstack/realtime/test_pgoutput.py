"""The decoder of pgoutput, on messages put together by hand from the Postgres manual."""

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.devstack.realtime.pgoutput import Action, Change, Decoder
from mqtt_service.errors import RemoteProtocolError

COMMITTED = datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
MICROSECONDS = int((COMMITTED - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)

BEGIN = b"B" + struct.pack("!qqi", 1, MICROSECONDS, 77)
RELATION = (
    b"R" + struct.pack("!I", 42) + b"public\0notes\0d" + struct.pack("!H", 2)
    + b"\1id\0" + struct.pack("!Ii", 23, -1)
    + b"\0body\0" + struct.pack("!Ii", 25, -1)
)  # fmt: skip


def row(*values: str | bytes | None) -> bytes:
    """Text, None for null, b"u" for a value left alone."""
    parts = [struct.pack("!H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, bytes):
            parts.append(value)
        else:
            parts.append(b"t" + struct.pack("!I", len(value.encode())) + value.encode())
    return b"".join(parts)


def change(kind: bytes, rest: bytes) -> Change:
    decoder = Decoder()
    assert decoder.decode(BEGIN) is None
    assert decoder.decode(RELATION) is None
    decoded = decoder.decode(kind + struct.pack("!I", 42) + rest)
    assert decoded is not None
    return decoded


def test_an_insert_carries_its_table_its_row_and_the_time_of_commit() -> None:
    decoded = change(b"I", b"N" + row("1", "grün"))
    assert (decoded.action, decoded.new, decoded.old) == (Action.INSERT, {"id": "1", "body": "grün"}, None)
    assert (decoded.relation.schema, decoded.relation.table) == ("public", "notes")
    assert decoded.committed_at == COMMITTED
    assert [column.type_oid for column in decoded.relation.columns] == [23, 25]


def test_an_update_that_keeps_the_key_has_no_old_row() -> None:
    decoded = change(b"U", b"N" + row("1", None))
    assert (decoded.new, decoded.old) == ({"id": "1", "body": None}, None)


def test_an_update_of_the_key_has_the_old_key_alone() -> None:
    decoded = change(b"U", b"K" + row("1", None) + b"N" + row("2", "b"))
    assert (decoded.new, decoded.old) == ({"id": "2", "body": "b"}, {"id": "1"})


def test_an_update_under_full_identity_has_the_whole_old_row() -> None:
    decoded = change(b"U", b"O" + row("1", "a") + b"N" + row("1", "b"))
    assert decoded.old == {"id": "1", "body": "a"}


def test_a_large_value_that_was_left_alone_is_absent() -> None:
    assert change(b"U", b"N" + row("1", b"u")).new == {"id": "1"}


def test_a_delete_has_the_old_key_and_no_new_row() -> None:
    decoded = change(b"D", b"K" + row("1", None))
    assert (decoded.action, decoded.new, decoded.old) == (Action.DELETE, None, {"id": "1"})


@pytest.mark.parametrize("other", [b"C" + bytes(25), b"O" + bytes(9), b"T" + bytes(9), b"Y" + bytes(9)])
def test_messages_that_change_no_row_are_passed_over(other: bytes) -> None:
    assert Decoder().decode(other) is None


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"?",
        b"B\0",
        b"I" + struct.pack("!I", 9) + b"N" + row("1"),
        RELATION[:-1],
        RELATION[:12],
        b"B" + b"\x7f" * 16,
    ],
)
def test_broken_messages_are_refused(broken: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Decoder().decode(broken)


@given(kind=st.sampled_from([b"B", b"R", b"I", b"U", b"D"]), rest=st.binary(max_size=60))
def test_any_bytes_are_a_change_or_nothing_or_a_typed_error(kind: bytes, rest: bytes) -> None:
    decoder = Decoder()
    decoder.decode(RELATION)
    try:
        decoded = decoder.decode(kind + rest)
    except RemoteProtocolError:
        return
    assert decoded is None or decoded.relation.table == "notes"


def test_changes_of_a_table_that_nobody_wants_are_passed_over_unread() -> None:
    decoder = Decoder(lambda relation: relation.table != "notes")
    for message in (BEGIN, RELATION, b"I" + struct.pack("!I", 42) + b"N and then nothing that could be read"):
        assert decoder.decode(message) is None
