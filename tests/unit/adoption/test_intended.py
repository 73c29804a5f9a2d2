"""What is read from migration files, however they are written."""

from mqtt_service.adoption.intended import Column, Function, Intended, Parameter, read_intended
from mqtt_service.migrations import Migration


def read(*texts: str) -> Intended:
    return read_intended([Migration(f"{number}_x.sql", text) for number, text in enumerate(texts)])


def test_a_table_is_read_with_its_key_and_without_its_constraints() -> None:
    intended = read("""
        call mqtt_private.create_table('public.things', 'thing_id', $$
          thing_id uuid primary key default gen_random_uuid(), -- a device's, (not ours)
          name text not null check (name <> ''),
          constraint things_key unique nulls not distinct (thing_id, name)
        $$);
        call mqtt_private.create_table('mqtt_private.words', null, 'word text default ''a, b''');
    """)
    assert list(intended.tables["public.things"].values()) == [
        Column("thing_id", "uuid", required=True, default="gen_random_uuid()", definition=None),
        Column("name", "text", required=True, default=None, definition=None),
    ]
    assert list(intended.tables["mqtt_private.words"].values()) == [
        Column("word", "text", required=False, default="'a, b'", definition=None)
    ]
    assert intended.keys == {"public.things": "thing_id"}
    assert intended.shared == ("public.things",)


def test_columns_are_added_with_the_words_of_their_check_and_of_later_calls() -> None:
    intended = read(
        "call mqtt_private.create_table('public.things', null, 'thing_id uuid primary key');"
        "alter table public.things add column if not exists state text not null default 'a, b'"
        " check (state in ('a, b', 'c')), add column if not exists size numeric(4, 1);",
        "call mqtt_private.allow_values('public.things', 'state', '{c,d}');",
    )
    columns = intended.tables["public.things"]
    assert columns["state"].words == ("a, b", "c", "d")
    assert columns["state"].is_widened
    assert columns["state"].default == "'a, b'"
    assert columns["state"].definition == "text not null default 'a, b' check (state in ('a, b', 'c'))"
    assert columns["size"] == Column(
        "size", "numeric(4, 1)", required=False, default=None, definition="numeric(4, 1)"
    )


def test_comments_are_not_read() -> None:
    intended = read(
        "/* create table public.no (a int); */ -- create table public.no (a int);\n select '--x';"
    )
    assert intended.tables == {}
    assert "'--x'" in intended.text


def test_the_last_of_a_functions_definitions_is_read() -> None:
    intended = read(
        "create function public.fn(p_a text) returns text language sql as $$ select 1 $$;",
        "drop function if exists public.fn(text);"
        "create or replace function public.fn(p_a text, p_b double precision default 1, out c int)"
        " returns setof int language sql as $$ select 1 $$;",
    )
    assert intended.functions == (
        Function(
            "public.fn",
            (Parameter("p_a", "text"), Parameter("p_b", "double precision", has_default=True)),
            "setof int",
        ),
    )
    assert intended.dropped == {("public.fn", ("text",))}


def test_a_function_that_is_dropped_and_made_again_may_change_its_result() -> None:
    intended = read("drop function if exists public.fn(); create function public.fn() returns int as $$ $$;")
    assert intended.functions == (Function("public.fn", (), "int", drops_first=True),)
    assert intended.dropped == frozenset()


def test_the_tables_that_functions_write_are_known() -> None:
    assert read("insert into public.a (b) select 1; insert into storage.c values (1);").written == {
        "public.a",
        "storage.c",
    }
