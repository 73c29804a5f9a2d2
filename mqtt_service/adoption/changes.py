"""What applying the files changes: the catalog before and after, compared object by object.

Where nothing changes, all files are applied, whatever the history says of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mqtt_service.adoption.database import Connection, fetch, value

Snapshot = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Change:
    """One object that is not as the files make it, or not there."""

    what: Literal["added", "changed", "removed"]
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Fact:
    """An object of the catalog, and all that is defined of it."""

    kind: str
    name: str
    definition: str | None


# All in the two schemas, the project's and ours: what the files leave alone is the same before and after.
_CATALOG = """
with relation as (
  select c.*, n.nspname || '.' || c.relname as name
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname in ('public', 'mqtt_private')
), routine as (
  select p.* from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname in ('public', 'mqtt_private') and p.prokind in ('f', 'p')
)
select case relkind when 'S' then 'sequence' when 'c' then 'type' else 'table' end as kind, name,
  concat_ws(' ', relrowsecurity, relforcerowsecurity) as definition
from relation where relkind in ('r', 'p', 'S', 'c')
union all
select 'column', r.name || '.' || a.attname,
  concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
    a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid))
from relation r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
where r.relkind in ('r', 'p', 'c')
union all
select 'constraint', k.conname || ' on ' || r.name, pg_get_constraintdef(k.oid)
from pg_constraint k join relation r on r.oid = k.conrelid where k.contype <> 'n'
union all
select 'index', n.nspname || '.' || x.relname, pg_get_indexdef(i.indexrelid) || ' ' || i.indisvalid
from pg_index i join relation r on r.oid = i.indrelid
join pg_class x on x.oid = i.indexrelid join pg_namespace n on n.oid = x.relnamespace
union all
select 'trigger', t.tgname || ' on ' || r.name, pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
from pg_trigger t join relation r on r.oid = t.tgrelid where not t.tgisinternal
union all
select 'policy', policyname || ' on ' || schemaname || '.' || tablename,
  concat_ws(' ', permissive, roles::text, cmd, qual, with_check)
from pg_policies where schemaname in ('public', 'mqtt_private', 'storage')
union all
select 'function', oid::regprocedure::text, md5(pg_get_functiondef(oid)) from routine
union all
select 'grant', 'to ' || coalesce(g.grantee::regrole::text, 'public') || ' on ' || g.name,
  string_agg(g.privilege_type, ' ' order by g.privilege_type)
from (
  select r.name, nullif(a.grantee, 0) as grantee, a.privilege_type
  from relation r, aclexplode(coalesce(
    r.relacl, acldefault(case r.relkind when 'S' then 's' else 'r' end::"char", r.relowner))) a
  where r.relkind in ('r', 'p', 'S')
  union all
  select p.oid::regprocedure::text, nullif(a.grantee, 0), a.privilege_type
  from routine p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
  union all
  select r.name || '.' || c.attname, nullif(a.grantee, 0), a.privilege_type
  from relation r join pg_attribute c on c.attrelid = r.oid, aclexplode(c.attacl) a
  union all
  select 'schema ' || n.nspname, nullif(a.grantee, 0), a.privilege_type
  from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
  where n.nspname in ('public', 'mqtt_private')) g
group by g.name, g.grantee
union all
select 'publication', t.schemaname || '.' || t.tablename || ' in ' || t.pubname,
  concat_ws(' ', t.rowfilter, (
    select m.prattrs::text from pg_publication_rel m join pg_publication p on p.oid = m.prpubid
    where p.pubname = t.pubname and m.prrelid = format('%I.%I', t.schemaname, t.tablename)::regclass))
from pg_publication_tables t where t.schemaname = 'public'
"""

_BUCKETS = """
select 'bucket' as kind, id as name, concat_ws(' ', public, file_size_limit, allowed_mime_types) as definition
from storage.buckets
"""


def snapshot(connection: Connection) -> Snapshot:
    """Return every object that the files could touch; the search path must be pg_catalog, for full names."""
    facts = fetch(connection, Fact, _CATALOG)
    if value(connection, "select to_regclass('storage.buckets') is not null"):
        facts += fetch(connection, Fact, _BUCKETS)
    return {(fact.kind, fact.name): fact.definition or "" for fact in facts}


def compare(before: Snapshot, after: Snapshot) -> tuple[Change, ...]:
    """Return what is different, by kind and name."""
    changes = [Change("added", *key) for key in after.keys() - before.keys()]
    changes += [Change("removed", *key) for key in before.keys() - after.keys()]
    changes += [Change("changed", *key) for key in before.keys() & after.keys() if before[key] != after[key]]
    return tuple(sorted(changes, key=lambda change: (change.kind, change.name)))
