"""Code of the project that runs inside our statements finds its names: no search_path is there by chance."""

import re

import psycopg
import pytest

from tests.integration.database.applying import MIGRATIONS

SHARED = re.compile(
    r"(?<!')\bpublic\.(?:companies|company_members|pilot_programs|sites|devices|device_(?!command_types)\w+)\b"
    r"|format\('public\.%I"
)
WRITES = re.compile(r"\b(?:insert into|update|delete from) public\.")


@pytest.fixture
def functions(database: psycopg.Connection) -> list[tuple[str, str, bool, str]]:
    """Name, source, whether it is a definer's, and search_path."""
    return database.execute(
        "select p.proname, p.prosrc, p.prosecdef, coalesce(substr(setting, 13), 'none') from pg_proc p"
        " left join unnest(p.proconfig) as s (setting) on setting like 'search_path=%'"
        " where p.pronamespace in ('public'::regnamespace, 'mqtt_private'::regnamespace)"
        " and p.prokind = 'f' and p.proname like 'fn\\_%'"
    ).fetchall()


def test_a_function_that_touches_a_shared_table_resolves_names_as_an_api_request_does(
    functions: list[tuple[str, str, bool, str]],
) -> None:
    touching = [function for function in functions if SHARED.search(function[1]) and not function[2]]
    assert len(touching) > 40
    catalog_only = {"fn_is_demanded"}  # it reads what the table is, and none of its rows
    assert [name for name, _, _, path in touching if path != "public, extensions"] == sorted(catalog_only)


def test_a_definers_function_has_an_empty_path_or_says_why_not(
    functions: list[tuple[str, str, bool, str]],
) -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in MIGRATIONS)
    definers = [function for function in functions if function[2]]
    assert definers
    for name, source, _, path in definers:
        assert path == ("public, extensions, pg_temp" if WRITES.search(source) else '""'), name
        [comment] = re.findall(
            rf"((?:^--[^\n]*\n)+)create or replace function [\w.]*\b{name}\(", text, re.MULTILINE
        )
        assert "Security definer" in comment, name


def test_every_function_has_a_path_of_its_own(functions: list[tuple[str, str, bool, str]]) -> None:
    allowed = {'""', "public, extensions", "public, extensions, pg_temp"}
    assert [name for name, _, _, path in functions if path not in allowed] == []
