"""The bucket of the devices' pictures: made where Storage is, left as it is where it was there before."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.applying import SUPABASE

MIGRATIONS = sorted((SUPABASE / "migrations").glob("*.sql"))
[IMAGE_STORAGE] = [file for file in MIGRATIONS if file.name.endswith("_storage_and_realtime.sql")]
COMPANY_A = "a0000000-0000-4000-8000-000000000001"
COMPANY_B = "b0000000-0000-4000-8000-000000000001"
VIEWER_A = "a0000000-0000-4000-8000-0000000000e1"

BUCKET = "select public, file_size_limit, allowed_mime_types from storage.buckets where id = 'device-images'"
POLICIES = (
    "select policyname::text from pg_policies"
    " where schemaname = 'storage' and policyname !~ '_firmware$' order by 1"
)


def apply(connection: psycopg.Connection, *files: object) -> None:
    for file in MIGRATIONS:
        if not files or file in files:
            connection.execute(file.read_bytes())


@contextmanager
def acting_as(database: psycopg.Connection, role: str, user: str | None = None) -> Iterator[None]:
    """Act in this role, with these claims, in a transaction that is undone."""
    claims = f'{{"sub": "{user}", "role": "{role}"}}' if user else "{}"
    with database.transaction(force_rollback=True):
        database.execute("select set_config('role', %s, true)", [role])
        database.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        yield


def visible(database: psycopg.Connection) -> list[str]:
    """Return the names of the objects that can be seen."""
    rows = database.execute("select name from storage.objects order by name").fetchall()
    return [name for (name,) in rows]


def test_the_first_folder_decides_who_sees_a_picture(seeded: psycopg.Connection) -> None:
    names = [
        f"{COMPANY_A}/s/d/a.jpg",
        f"{COMPANY_B}/s/d/b.jpg",
        "unassigned/s/d/c.jpg",
        f"x/{COMPANY_A}/d.jpg",
    ]
    for name in names:
        seeded.execute("insert into storage.objects (bucket_id, name) values ('device-images', %s)", [name])
    seeded.execute("insert into storage.buckets (id, name) values ('other', 'other')")
    seeded.execute("insert into storage.objects (bucket_id, name) values ('other', %s)", [names[0]])
    for role, user, seen in (
        ("authenticated", VIEWER_A, 1),
        ("authenticated", str(uuid4()), 0),
        ("anon", None, 0),
        ("service_role", None, 5),
    ):
        with acting_as(seeded, role, user):
            assert visible(seeded) == sorted([*names, names[0]])[:seen]


@pytest.mark.parametrize("role", ["authenticated", "anon"])
def test_people_write_no_pictures(seeded: psycopg.Connection, role: str) -> None:
    insert = "insert into storage.objects (bucket_id, name) values ('device-images', %s)"
    seeded.execute(insert, [f"{COMPANY_A}/a.jpg"])
    with acting_as(seeded, role, VIEWER_A):
        for statement in ("update storage.objects set name = 'x'", "delete from storage.objects"):
            assert seeded.execute(statement.encode()).rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            seeded.execute(insert, [f"{COMPANY_A}/b.jpg"])


def test_a_database_without_storage_gets_nothing_until_it_has_one(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute("drop schema storage cascade")
        notices: list[str | None] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        apply(connection)
        assert "there is no schema storage: pictures cannot be kept here" in notices
        assert connection.execute("select to_regnamespace('storage')").fetchone() == (None,)
        connection.execute(PLATFORM.read_bytes())
        apply(connection, IMAGE_STORAGE)
        assert connection.execute(BUCKET).fetchone() == (False, 20 * 1024 * 1024, ["image/jpeg"])


def test_a_bucket_and_policies_that_were_there_before_stay_as_they_are(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        connection.execute(
            "insert into storage.buckets (id, name, public, file_size_limit)"
            " values ('device-images', 'device-images', true, 7);"
            " create policy theirs on storage.objects for select to anon using (true)"
        )
        warnings: list[str | None] = []
        connection.add_notice_handler(
            lambda notice: warnings.append(notice.message_primary) if notice.severity == "WARNING" else None
        )
        apply(connection)
        assert connection.execute(BUCKET).fetchone() == (True, 7, None)
        assert connection.execute(POLICIES).fetchall() == [("mqtt_members_read_images",), ("theirs",)]
        assert "the bucket device-images was there before and is public, and still is" in warnings


def test_applied_again_it_changes_no_setting(database: psycopg.Connection) -> None:
    database.execute("update storage.buckets set file_size_limit = 5000000 where id = 'device-images'")
    apply(database, IMAGE_STORAGE)
    assert database.execute(BUCKET).fetchone() == (False, 5_000_000, ["image/jpeg"])
    assert database.execute(POLICIES).fetchall() == [("mqtt_members_read_images",)]
