"""The project as it is: those of its tables that the migrations share, read from the catalog once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mqtt_service.adoption.database import Connection, fetch, value
from mqtt_service.adoption.intended import Intended


@dataclass(frozen=True, slots=True)
class TableRow:
    """A relation that has the name of one of our tables. `rows`: an estimate, -1 where nobody has counted."""

    name: str
    kind: str
    rows: int
    bytes: int
    owner: str
    is_owned: bool
    is_protected: bool
    is_forced: bool

    @property
    def is_table(self) -> bool:
        """Whether it is a table, partitioned or not."""
        return self.kind in {"r", "p"}


@dataclass(frozen=True, slots=True)
class ColumnRow:
    """A column of such a table. `type` has its modifiers; `base` has none, and is what a domain is made of.

    `kind` is pg_type.typtype: e is an enum, whose words are `labels`, d a domain.
    """

    table_name: str
    name: str
    type: str
    base: str
    kind: str
    labels: Sequence[str]
    is_required: bool
    default: str | None
    is_generated: bool
    is_identity: bool
    is_unique: bool
    is_reference: bool


@dataclass(frozen=True)
class Project:
    """What every aspect looks at. `is_applied`: these migrations, or older ones, were applied before."""

    connection: Connection
    intended: Intended
    tables: Mapping[str, TableRow]
    columns: Mapping[str, Mapping[str, ColumnRow]]
    is_applied: bool

    @property
    def shared(self) -> list[str]:
        """Our tables in the schema public that are there."""
        return [name for name in self.intended.shared if name in self.tables and self.tables[name].is_table]


_TABLES = """
select n.nspname || '.' || c.relname as name, c.relkind::text as kind, c.reltuples::bigint as rows,
  pg_table_size(c.oid) as bytes, pg_get_userbyid(c.relowner)::text as owner,
  pg_has_role(c.relowner, 'usage') as is_owned, c.relrowsecurity as is_protected,
  c.relforcerowsecurity as is_forced
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname || '.' || c.relname = any (%(names)s) and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""

_COLUMNS = """
select n.nspname || '.' || c.relname as table_name, a.attname::text as name,
  format_type(a.atttypid, a.atttypmod) as type,
  format_type(case t.typtype when 'd' then t.typbasetype else t.oid end, null) as base,
  t.typtype::text as kind,
  array(select enumlabel::text from pg_enum where enumtypid = t.oid order by enumsortorder) as labels,
  a.attnotnull or t.typnotnull as is_required,
  coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault) as default,
  a.attgenerated <> '' as is_generated, a.attidentity <> '' as is_identity,
  exists (
    select from pg_index
    where indrelid = c.oid and indisunique and indnkeyatts = 1 and indkey[0] = a.attnum) as is_unique,
  exists (select from pg_constraint where conrelid = c.oid and contype = 'f' and a.attnum = any (conkey))
    as is_reference
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where n.nspname || '.' || c.relname = any (%(names)s) and c.relkind in ('r', 'p')
order by c.oid, a.attnum
"""


def read_project(connection: Connection, intended: Intended) -> Project:
    """Read the catalog, in the transaction that is open."""
    names = list(intended.tables)
    columns: dict[str, dict[str, ColumnRow]] = {}
    for column in fetch(connection, ColumnRow, _COLUMNS, names=names):
        columns.setdefault(column.table_name, {})[column.name] = column
    return Project(
        connection,
        intended,
        {table.name: table for table in fetch(connection, TableRow, _TABLES, names=names)},
        columns,
        bool(value(connection, "select to_regnamespace('mqtt_private') is not null")),
    )
