"""Functions of ours that are there already, under the same signature or another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mqtt_service.adoption.columns import type_names
from mqtt_service.adoption.database import fetch
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.intended import Function
from mqtt_service.adoption.project import Project


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """A function of the database, with the types of its inputs; `optional` of them have a default.

    `all_names` and `modes` count the outputs too; None: it has no names, or inputs alone.
    """

    name: str
    kind: str
    signature: str
    types: Sequence[str]
    all_names: Sequence[str] | None
    modes: Sequence[str] | None
    optional: int
    result: str
    is_owned: bool

    @property
    def names(self) -> list[str]:
        """The names of its inputs."""
        names = self.all_names or [""] * len(self.types)
        modes = self.modes or ["i"] * len(names)
        return [name for name, mode in zip(names, modes, strict=True) if mode in {"i", "b", "v"}]

    @property
    def needed(self) -> set[str]:
        """The inputs that a call must name."""
        return set(self.names[: len(self.names) - self.optional])


_FUNCTIONS = """
select n.nspname || '.' || p.proname as name, p.prokind::text as kind, p.oid::regprocedure::text as signature,
  array(
    select format_type(t, null) from unnest(p.proargtypes) with ordinality as a (t, place) order by place)
    as types,
  p.proargnames as all_names, p.proargmodes::text[] as modes,
  p.pronargdefaults::int as optional, coalesce(pg_get_function_result(p.oid), '') as result,
  pg_has_role(p.proowner, 'usage') as is_owned
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname || '.' || p.proname = any (%(names)s)
order by 1, 3
"""


def inspect(project: Project) -> Iterator[Finding]:
    """Compare the functions of the API by name, signature and result; say which are missing."""
    ours = [function for function in project.intended.functions if function.name.startswith("public.")]
    kinds = type_names(project.connection, project.intended)
    names = sorted({function.name for function in ours} | {name for name, _ in project.intended.dropped})
    there = fetch(project.connection, FunctionRow, _FUNCTIONS, names=names)
    missing = []
    for function in ours:
        rows = [row for row in there if row.name == function.name]
        types = _types(function.types, kinds)
        if not any(list(row.types) == types for row in rows):
            missing.append(function.name.removeprefix("public."))
        for row in rows:
            if list(row.types) == types:
                yield from _same(project, function, row, kinds)
            elif not any(
                list(row.types) == _types(other.types, kinds) for other in ours if other.name == row.name
            ):
                yield from _other(project, function, row, kinds)
    if missing:
        yield Finding(
            Aspect.FUNCTIONS,
            "functions_missing",
            "the API",
            f"will get the worker's functions: {', '.join(missing)}",
        )


def _types(types: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    return [kinds.get(each, each) for each in types]


def _same(project: Project, ours: Function, row: FunctionRow, kinds: Mapping[str, str]) -> Iterator[Finding]:
    """One of our name and signature: `create or replace` changes it, unless Postgres forbids that."""
    if row.kind != "f":
        yield _refusal(row, "is an aggregate or a procedure", "routine")
    elif (difference := _difference(ours, row, kinds)) and not ours.drops_first:
        yield _refusal(row, f"is there with another {difference}", "function")
    elif not row.is_owned:
        yield Finding(
            Aspect.FUNCTIONS,
            "function_not_owned",
            row.signature,
            "is there and belongs to a role that this one is no member of: connect as its owner, or drop it",
            Level.BY_HAND,
        )
    elif not project.is_applied:
        yield Finding(
            Aspect.FUNCTIONS, "function_replaced", row.signature, "is there, and will be replaced by ours"
        )


def _difference(ours: Function, row: FunctionRow, kinds: Mapping[str, str]) -> str | None:
    """What of it `create or replace` may not change."""
    result = kinds.get(ours.returns)
    if result is not None and row.result != result:
        return f"result ({row.result}, ours {result})"
    if any(name and name != mine.name for name, mine in zip(row.names, ours.parameters, strict=True)):
        return "parameter name"
    if row.optional > sum(parameter.has_default for parameter in ours.parameters):
        return "number of defaults"
    return None


def _refusal(row: FunctionRow, what: str, kind: str) -> Finding:
    return Finding(
        Aspect.FUNCTIONS,
        "function_refuses",
        row.signature,
        f"{what}, and Postgres refuses to replace it: drop it, and first what uses it",
        Level.BY_HAND,
        f"drop {kind} {row.signature};",
    )


def _other(project: Project, ours: Function, row: FunctionRow, kinds: Mapping[str, str]) -> Iterator[Finding]:
    """One of our name with another signature stays, unless the files drop it."""
    dropped = [types for name, types in project.intended.dropped if name == row.name]
    if any(list(row.types) == _types(types, kinds) for types in dropped):
        yield Finding(
            Aspect.FUNCTIONS,
            "function_dropped",
            row.signature,
            "is an older one of ours, and will be dropped",
        )
    elif _answers(ours, row):
        yield Finding(
            Aspect.FUNCTIONS,
            "function_ambiguous",
            row.signature,
            "stays beside ours and fits the worker's calls too, so that the API refuses them: drop it",
            Level.BY_HAND,
            f"drop function {row.signature};",
        )
    else:
        yield Finding(
            Aspect.FUNCTIONS,
            "function_stays",
            row.signature,
            "stays beside ours, which has another signature; no call of the worker fits it",
        )


def _answers(ours: Function, row: FunctionRow) -> bool:
    """Whether some call by name fits both: it names all that either needs, and nothing that one lacks."""
    names = {parameter.name for parameter in ours.parameters}
    needed = {parameter.name for parameter in ours.parameters if not parameter.has_default}
    return (needed | row.needed) <= (names & set(row.names))
