"""An error of the database, and the function in which it arose."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from mqtt_service.adoption.database import Connection, fetch, in_public


@dataclass(frozen=True, slots=True)
class Raised:
    """What Postgres said of an error; `query` is the statement inside of a function that raised it."""

    sqlstate: str | None
    message: str
    hint: str | None = None
    context: str = ""
    query: str = ""
    table: str | None = None
    column: str | None = None
    constraint: str | None = None

    @classmethod
    def of(cls, error: psycopg.Error) -> "Raised":
        """Take it from psycopg: the server's words, else the client's."""
        diag = error.diag
        return cls(
            error.sqlstate,
            diag.message_primary or str(error).strip() or type(error).__name__,
            diag.message_hint,
            diag.context or "",
            diag.internal_query or "",
            f"{diag.schema_name or 'public'}.{diag.table_name}" if diag.table_name else None,
            diag.column_name,
            diag.constraint_name,
        )


@dataclass(frozen=True, slots=True)
class Source:
    """The function in which an error arose, and the triggers that call it on the table that was written.

    `path`: a search_path of its own. `tables`: those that have such a trigger.
    """

    signature: str
    schema: str
    path: str | None
    triggers: Sequence[str]
    tables: Sequence[str]


# The lines of a context, innermost first: `PL/pgSQL function note() line 3 at SQL statement`.
_FUNCTION = re.compile(
    r'^(?:PL/\w+|SQL) function "?([\w."]+?)"?(?:\(| statement| during| line)', re.MULTILINE
)
# The statement that a trigger fired in, which may begin with its queries; `for update` writes nothing.
_WRITE = re.compile(
    r'SQL statement "\s*(?:with\b.*?)?'
    r"(insert into|(?<!for )(?<!key )update|delete from)\s+(?:only\s+)?([\w.]+)",
    re.DOTALL,
)
_EVENTS = {"insert into": 4, "update": 16, "delete from": 8}  # the bits of pg_trigger.tgtype

_SOURCES = """
with firing as (
  select tgfoid, tgname, tgrelid from pg_trigger
  where not tgisinternal and (%(table)s::text is null or tgrelid = to_regclass(%(table)s))
    and (%(event)s = 0 or tgtype & %(event)s > 0)
)
select p.oid::regprocedure::text as signature, n.nspname::text as schema,
  (select substr(setting, 13) from unnest(p.proconfig) as s (setting) where setting like 'search_path=%%')
    as path,
  array(select distinct tgname::text from firing where tgfoid = p.oid order by 1) as triggers,
  array(select distinct tgrelid::regclass::text from firing where tgfoid = p.oid order by 1) as tables
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where p.proname = %(name)s and (%(schema)s::text is null or n.nspname = %(schema)s)
order by exists (select from firing where tgfoid = p.oid) desc limit 1
"""


def find_source(connection: Connection, raised: Raised) -> Source | None:
    """Return the innermost function of the context; what its trigger fired for stands right after it."""
    function = _FUNCTION.search(raised.context)
    if function is None or function[1] == "inline_code_block":
        return None
    schema, _, name = function[1].replace('"', "").rpartition(".")
    write = _WRITE.search(raised.context, function.end())
    sources = fetch(
        connection,
        Source,
        _SOURCES,
        name=name,
        schema=schema or None,
        table=in_public(write[2]) if write else None,
        event=_EVENTS[write[1]] if write else 0,
    )
    return sources[0] if sources else None
