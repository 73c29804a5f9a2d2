"""What of the project's own acts when our tables are written: triggers, checks, exclusions and rules."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from psycopg import sql

from mqtt_service.adoption.database import fetch, identifier, listed, values
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.project import Project


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """A trigger; `timing` is such as `after insert or update for each row`.

    `search_path`: the one that its function sets for itself. `reaches_out`: its source calls what acts
    outside of the database, which no rollback takes back.
    """

    table_name: str
    name: str
    timing: str
    function: str
    search_path: str | None
    is_definer: bool
    is_deferred: bool
    is_disabled: bool
    reaches_out: bool


@dataclass(frozen=True, slots=True)
class CheckRow:
    """A check or an exclusion; `column` where it is about one alone."""

    table_name: str
    name: str
    definition: str
    expression: str | None
    column: str | None


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rewrite rule."""

    table_name: str
    name: str


_TRIGGERS = r"""
select n.nspname || '.' || c.relname as table_name, t.tgname::text as name,
  concat(
    case when t.tgtype & 2 > 0 then 'before ' when t.tgtype & 64 > 0 then 'instead of ' else 'after ' end,
    concat_ws(' or ',
      case when t.tgtype & 4 > 0 then 'insert' end, case when t.tgtype & 16 > 0 then 'update' end,
      case when t.tgtype & 8 > 0 then 'delete' end, case when t.tgtype & 32 > 0 then 'truncate' end),
    case when t.tgtype & 1 > 0 then ' for each row' else ' for each statement' end) as timing,
  pn.nspname || '.' || p.proname as function,
  (select substr(setting, 13) from unnest(p.proconfig) as s (setting) where setting like 'search_path=%%')
    as search_path,
  p.prosecdef as is_definer, t.tgdeferrable as is_deferred, t.tgenabled in ('D', 'R') as is_disabled,
  -- pg_net's calls wait in a table, and are rolled back with it
  p.prosrc ~* '(?<!\mnet\.)\m(dblink|http)\w*\s*\('
    or l.lanname in ('plpython3u', 'plperlu', 'pltclu', 'plsh') as reaches_out
from pg_trigger t
join pg_class c on c.oid = t.tgrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_proc p on p.oid = t.tgfoid
join pg_namespace pn on pn.oid = p.pronamespace
join pg_language l on l.oid = p.prolang
where not t.tgisinternal and n.nspname || '.' || c.relname = any (%(names)s) and pn.nspname <> 'mqtt_private'
  and t.tgname not like 'mqtt\_%%'
order by t.tgname, timing, function, table_name
"""

_CHECKS = """
select n.nspname || '.' || c.relname as table_name, k.conname::text as name,
  pg_get_constraintdef(k.oid) as definition, pg_get_expr(k.conbin, k.conrelid) as expression,
  case when cardinality(k.conkey) = 1 then (
    select attname::text from pg_attribute where attrelid = k.conrelid and attnum = k.conkey[1]) end as column
from pg_constraint k
join pg_class c on c.oid = k.conrelid
join pg_namespace n on n.oid = c.relnamespace
where k.contype in ('c', 'x') and n.nspname || '.' || c.relname = any (%(names)s)
order by 1, 2
"""

_RULES = """
select n.nspname || '.' || c.relname as table_name, r.rulename::text as name
from pg_rewrite r
join pg_class c on c.oid = r.ev_class
join pg_namespace n on n.oid = c.relnamespace
where r.rulename <> '_RETURN' and n.nspname || '.' || c.relname = any (%(names)s)
order by 1, 2
"""


def inspect(project: Project) -> Iterator[Finding]:
    """Name each, one finding for those that are the same on several tables."""
    triggers = read_triggers(project)
    for _, alike in groupby(triggers, lambda t: (t.name, t.timing, t.function, t.is_disabled)):
        yield _trigger(list(alike))
    for check in fetch(project.connection, CheckRow, _CHECKS, names=project.shared):
        if not _is_ours(project, check):
            yield _check(project, check)
    for rule in fetch(project.connection, RuleRow, _RULES, names=project.shared):
        yield Finding(
            Aspect.TRIGGERS,
            "rule",
            f"rule {rule.name} on {rule.table_name}",
            "rewrites what is written to the table, so that a row of ours may land elsewhere or not at all",
            Level.LOOK,
        )


def read_triggers(project: Project) -> list[TriggerRow]:
    """The project's own triggers on our tables, by name."""
    return fetch(project.connection, TriggerRow, _TRIGGERS, names=project.shared)


def _trigger(alike: Sequence[TriggerRow]) -> Finding:
    one = alike[0]
    remarks = [
        "it is disabled" if one.is_disabled else "",
        "it may fire at the end of the transaction" if one.is_deferred else "",
        "its function is security definer" if one.is_definer else "",
        f"its function has a search_path of its own ({one.search_path or 'empty'})"
        if one.search_path is not None
        else "",
        "it may act outside of the database, which is not taken back" if one.reaches_out else "",
    ]
    tables = listed([each.table_name.removeprefix("public.") for each in alike], 20)
    return Finding(
        Aspect.TRIGGERS,
        "trigger_reaches_out" if one.reaches_out else "trigger",
        f"trigger {one.name} on {tables}",
        "; ".join(
            [
                f"fires {one.timing}, and calls {one.function.removeprefix('public.')}()",
                *filter(None, remarks),
            ]
        ),
        Level.LOOK if one.reaches_out else Level.NOTE,
    )


def _is_ours(project: Project, check: CheckRow) -> bool:
    """Once the migrations are applied, a check of ours has the name that Postgres gives to a column's."""
    column = project.intended.tables[check.table_name].get(check.column or "")
    expected = f"{check.table_name.removeprefix('public.')}_{check.column}_check"
    return project.is_applied and column is not None and check.name == expected


def _check(project: Project, check: CheckRow) -> Finding:
    refused = _refused_words(project, check)
    text = f"holds: {check.definition}"
    if refused:
        text += f"; will be widened by {listed(refused, 10)}"
    subject = f"check {check.name} on {check.table_name.removeprefix('public.')}"
    return Finding(Aspect.TRIGGERS, "check_widened" if refused else "check", subject, text)


def _refused_words(project: Project, check: CheckRow) -> list[str]:
    """Which of our words for its column the check does not let through."""
    columns, name = project.columns[check.table_name], check.column or ""
    ours = project.intended.tables[check.table_name].get(name)
    if check.expression is None or ours is None or not ours.words or columns[name].base != "text":
        return []
    query = sql.SQL("select {0} from unnest(%(words)s::text[]) as t ({0}) where not ({1})").format(
        identifier(name), sql.SQL(check.expression.replace("%", "%%"))
    )
    return values(project.connection, query, words=list(ours.words))
