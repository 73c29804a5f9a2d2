"""What the REST interface knows of the database: tables, foreign keys and functions of the schema `public`.

It is read from the catalog once and kept until a session says `notify pgrst`, as PostgREST does; a request
for something unknown has it read again as well.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

EXPOSED = "public"


@dataclass(frozen=True)
class TableColumn:
    """A column; `type` and `default` are SQL, as Postgres itself writes them."""

    name: str
    type: str
    default: str | None


@dataclass(frozen=True)
class Table:
    """A table or view with its columns by name."""

    name: str
    columns: Mapping[str, TableColumn]
    primary_key: tuple[str, ...]


@dataclass(frozen=True)
class Junction:
    """The table in the middle of a many-to-many relationship, its columns paired with those of each side."""

    table: str
    to_origin: tuple[tuple[str, str], ...]
    to_target: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Relationship:
    """How rows of `origin` lead to rows of `target`; `pairs` are (column of origin, column of target)."""

    origin: str
    target: str
    constraint: str
    pairs: tuple[tuple[str, str], ...]
    to_one: bool
    is_forward: bool
    junction: Junction | None = None

    def answers_to(self, name: str, hint: str | None) -> bool:
        """Return whether a client that says `name!hint` can mean this relationship."""
        if hint is not None:
            words = {self.constraint, self.junction.table if self.junction else None}
            return name == self.target and (hint in words or hint in self._single_columns())
        if self.origin == self.target:
            return (
                not self.to_one
                if name == self.target
                else self.is_forward and name in self._single_columns()[:1]
            )
        return name in {self.target, self.constraint} or name in self._single_columns()[:1]

    def _single_columns(self) -> tuple[str, ...]:
        return self.pairs[0] if len(self.pairs) == 1 and self.junction is None else ()


@dataclass(frozen=True)
class Parameter:
    """An argument that a function takes; `name` is empty where it has none."""

    name: str
    type: str
    required: bool
    variadic: bool


@dataclass(frozen=True)
class Function:
    """A function; `table` is the exposed table whose rows it returns, if any."""

    name: str
    parameters: tuple[Parameter, ...]
    returns_set: bool
    returns_rows: bool
    returns_void: bool
    table: str | None
    volatile: bool

    @property
    def signature(self) -> str:
        """The form in which an error names it."""
        listed = ", ".join(f"{parameter.name} => {parameter.type}" for parameter in self.parameters)
        return f"{EXPOSED}.{self.name}({listed})"


@dataclass(frozen=True)
class Schema:
    """The schema at one time."""

    tables: Mapping[str, Table]
    relationships: Mapping[str, tuple[Relationship, ...]]
    functions: Mapping[str, tuple[Function, ...]]


_TABLES = """
select c.relname as name,
    coalesce((
        select jsonb_agg(jsonb_build_object(
            'name', a.attname,
            'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
            'default', case when a.attgenerated = '' then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end
        ) order by a.attnum)
        from pg_catalog.pg_attribute a
        left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ), '[]') as columns,
    coalesce((
        select jsonb_agg(a.attname order by array_position(i.indkey::int2[], a.attnum))
        from pg_catalog.pg_index i
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
        where i.indrelid = c.oid and i.indisprimary
    ), '[]') as primary_key
from pg_catalog.pg_class c
where c.relnamespace = %(schema)s::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""

_FOREIGN_KEYS = """
select k.conname as name, o.relname as origin, t.relname as target,
    (
        select jsonb_agg(jsonb_build_array(oa.attname, ta.attname) order by p.position)
        from unnest(k.conkey, k.confkey) with ordinality as p (origin, target, position)
        join pg_catalog.pg_attribute oa on oa.attrelid = k.conrelid and oa.attnum = p.origin
        join pg_catalog.pg_attribute ta on ta.attrelid = k.confrelid and ta.attnum = p.target
    ) as pairs,
    exists (
        select from pg_catalog.pg_constraint u
        where u.conrelid = k.conrelid and u.contype in ('p', 'u') and u.conkey <@ k.conkey
    ) as is_unique
from pg_catalog.pg_constraint k
join pg_catalog.pg_class o on o.oid = k.conrelid
join pg_catalog.pg_class t on t.oid = k.confrelid
where k.contype = 'f' and k.conparentid = 0
    and o.relnamespace = %(schema)s::regnamespace and t.relnamespace = %(schema)s::regnamespace
order by k.conname
"""

_FUNCTIONS = """
select p.proname as name, p.proretset as returns_set, p.provolatile = 'v' as is_volatile,
    p.prorettype = 'void'::regtype as returns_void,
    t.typtype = 'c' or coalesce(p.proargmodes::text[] && array['t', 'b', 'o'], false) as returns_rows,
    (
        select c.relname from pg_catalog.pg_class c
        where c.oid = t.typrelid and c.relnamespace = %(schema)s::regnamespace and c.relkind <> 'c'
    ) as table,
    coalesce((
        select jsonb_agg(jsonb_build_object(
            'name', coalesce(a.name, ''),
            'type', pg_catalog.format_type(a.type, null),
            'required', a.position <= p.pronargs - p.pronargdefaults,
            'variadic', a.mode = 'v'
        ) order by a.position)
        from (
            select x.name, x.type, x.mode, row_number() over (order by x.ordinal) as position
            from unnest(
                p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes::text[]
            ) with ordinality as x (name, type, mode, ordinal)
            where x.type is not null and coalesce(x.mode, 'i') in ('i', 'b', 'v')
        ) a
    ), '[]') as parameters
from pg_catalog.pg_proc p
join pg_catalog.pg_type t on t.oid = p.prorettype
where p.pronamespace = %(schema)s::regnamespace and p.prokind = 'f'
    and t.typname not in ('trigger', 'event_trigger')
order by p.oid
"""


async def read_schema(connection: psycopg.AsyncConnection[Any]) -> Schema:
    """Read the catalog; any role may."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        tables, keys, functions = [
            await (await cursor.execute(query, {"schema": EXPOSED})).fetchall()
            for query in (_TABLES, _FOREIGN_KEYS, _FUNCTIONS)
        ]
    known = {row["name"]: _table(row) for row in tables}
    return Schema(known, relationships_of(keys, known), _functions(functions))


def _table(row: Mapping[str, Any]) -> Table:
    columns = {column["name"]: TableColumn(**column) for column in row["columns"]}
    return Table(row["name"], columns, tuple(row["primary_key"]))


def relationships_of(
    keys: list[dict[str, Any]], tables: Mapping[str, Table]
) -> dict[str, tuple[Relationship, ...]]:
    """By table, what can be embedded: over foreign keys, and through junctions; as PostgREST finds it."""
    relationships: dict[str, list[Relationship]] = defaultdict(list)
    forward_keys: dict[str, list[Relationship]] = defaultdict(list)
    # Each query sees its own moment: a migration may have added the table of a key since that of the tables.
    for key in (key for key in keys if key["origin"] in tables and key["target"] in tables):
        pairs = tuple((origin, target) for origin, target in key["pairs"])
        reversed_pairs = tuple((target, origin) for origin, target in pairs)
        forward = Relationship(key["origin"], key["target"], key["name"], pairs, to_one=True, is_forward=True)
        backward = Relationship(
            key["target"],
            key["origin"],
            key["name"],
            reversed_pairs,
            to_one=key["is_unique"],
            is_forward=False,
        )
        relationships[forward.origin].append(forward)
        relationships[backward.origin].append(backward)
        forward_keys[forward.origin].append(forward)
    for table, sides in forward_keys.items():
        for one in sides:
            for other in sides:
                if one is not other and _joins(tables[table], one, other):
                    relationships[one.target].append(_through(table, one, other))
    return {origin: tuple(found) for origin, found in relationships.items()}


def _joins(table: Table, one: Relationship, other: Relationship) -> bool:
    """Return whether both foreign keys are in the primary key, which makes their table a junction."""
    columns = {column for column, _ in one.pairs + other.pairs}
    return columns <= set(table.primary_key)


def _through(table: str, one: Relationship, other: Relationship) -> Relationship:
    junction = Junction(table, one.pairs, other.pairs)
    return Relationship(
        one.target, other.target, "", (), to_one=False, is_forward=False, junction=junction
    )  # fmt: skip


def _functions(rows: list[dict[str, Any]]) -> dict[str, tuple[Function, ...]]:
    functions: dict[str, list[Function]] = defaultdict(list)
    for row in rows:
        functions[row["name"]].append(
            Function(
                name=row["name"],
                parameters=tuple(Parameter(**parameter) for parameter in row["parameters"]),
                returns_set=row["returns_set"],
                returns_rows=row["returns_rows"],
                returns_void=row["returns_void"],
                table=row["table"],
                volatile=row["is_volatile"],
            )
        )
    return {name: tuple(overloads) for name, overloads in functions.items()}
