"""Whatever a worker of the first release calls is still there once the newer migrations are applied.

PostgREST finds a function by the names of the parameters that a call brings: one answers if it has all of
them, and a default for each that is missing.
"""

from dataclasses import dataclass

import psycopg
import pytest
from psycopg.rows import class_row

from mqtt_service.devstack.migrations import PLATFORM
from tests.integration.database.test_migrations import FIRST_SET, LATER

_CALLS = """
select p.proname as name, p.oid::regprocedure::text as signature,
    coalesce(p.proargnames[1:p.pronargs], '{}') as parameters, p.pronargdefaults as defaults,
    pg_catalog.format_type(p.prorettype, null) as answer, p.proretset as many
from pg_catalog.pg_proc p
where p.pronamespace = 'public'::regnamespace and p.proname like 'fn\\_%'
  and p.prorettype <> 'trigger'::regtype and has_function_privilege('service_role', p.oid, 'execute')
order by 2
"""


@dataclass(frozen=True)
class Callable:
    """A function that a worker may call; the last `defaults` of its parameters have one."""

    name: str
    signature: str
    parameters: list[str]
    defaults: int
    answer: str
    many: bool

    @property
    def required(self) -> set[str]:
        """The parameters without a default."""
        return set(self.parameters[: len(self.parameters) - self.defaults])

    def answers(self, old: "Callable") -> bool:
        """Whether it is found for each call that the older one was found for, and returns the same type."""
        return (
            self.name == old.name
            and self.required <= old.required
            and set(old.parameters) <= set(self.parameters)
            and (self.answer, self.many) == (old.answer, old.many)
        )


def test_each_function_answers_the_calls_of_the_first_release(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(PLATFORM.read_bytes())
        for file in FIRST_SET:
            connection.execute(file.read_bytes())
        before = calls(connection)
        for file in LATER:
            connection.execute(file.read_bytes())
        now = calls(connection)
    assert len(before) > 15
    for old in before:
        found = [new.signature for new in now if new.answers(old)]
        assert len(found) == 1, f"{old.signature} is answered by {found or 'none'}"


@pytest.mark.parametrize(
    ("parameters", "defaults", "answer", "found"),
    [
        (["p_a", "p_b"], 1, "jsonb", True),
        (["p_a", "p_b"], 0, "jsonb", False),
        (["p_b"], 1, "jsonb", False),
        (["p_a"], 0, "text", False),
    ],
)
def test_a_parameter_without_a_default_or_another_answer_is_noticed(
    parameters: list[str], defaults: int, answer: str, found: bool
) -> None:
    old = Callable("fn", "fn(int)", ["p_a"], 0, "jsonb", many=False)
    assert Callable("fn", "fn(…)", parameters, defaults, answer, many=False).answers(old) is found


def calls(connection: psycopg.Connection) -> list[Callable]:
    with connection.cursor(row_factory=class_row(Callable)) as cursor:
        return cursor.execute(_CALLS).fetchall()
