"""Who may do what: the roles of a Supabase project, owners, row-level security and the project's policies."""

from collections.abc import Iterator
from dataclasses import dataclass

from mqtt_service.adoption.database import fetch, listed
from mqtt_service.adoption.findings import Aspect, Finding, Level
from mqtt_service.adoption.project import Project

ROLES = ("anon", "authenticated", "service_role")


@dataclass(frozen=True, slots=True)
class RightsRow:
    """What the role that we are may do here."""

    role: str
    missing_roles: list[str]
    makes_schemas: bool
    makes_tables: bool
    becomes_service_role: bool
    service_role_passes: bool


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """The project's policies on a table."""

    table_name: str
    names: list[str]


# pg_has_role fails for a role that does not exist, and does not know 'set' before Postgres 16.
_RIGHTS = """
select current_user::text as role,
  array(select r from unnest(%(roles)s::text[]) as r where to_regrole(r) is null) as missing_roles,
  has_database_privilege(current_database(), 'create') or to_regnamespace('mqtt_private') is not null
    as makes_schemas,
  has_schema_privilege('public', 'create') as makes_tables,
  case when to_regrole('service_role') is null then false
    when current_setting('server_version_num')::int < 160000 then pg_has_role('service_role', 'member')
    else pg_has_role('service_role', 'set') end as becomes_service_role,
  coalesce((select rolbypassrls from pg_roles where rolname = 'service_role'), false) as service_role_passes
"""

_POLICIES = r"""
select schemaname || '.' || tablename as table_name, array_agg(policyname::text order by policyname) as names
from pg_policies
where schemaname || '.' || tablename = any (%(names)s) and policyname not like 'mqtt\_%%'
group by 1 order by 1
"""


def inspect(project: Project) -> Iterator[Finding]:
    """Say what forbids the migrations, then who sees what."""
    for rights in fetch(project.connection, RightsRow, _RIGHTS, roles=list(ROLES)):
        yield from _rights(rights)
        yield from _owners(project, rights.role)
    for name in project.shared:
        yield from _protection(project, name)
    for policy in fetch(project.connection, PolicyRow, _POLICIES, names=project.shared):
        yield Finding(
            Aspect.ACCESS,
            "policies",
            policy.table_name,
            f"keeps the project's policies: {listed(policy.names, 10)}",
        )


def _rights(rights: RightsRow) -> Iterator[Finding]:
    if rights.missing_roles:
        yield _by_hand(
            "role_missing",
            ", ".join(rights.missing_roles),
            "is no role here: this database is not that of a Supabase project, or not yet",
        )
        return
    if not rights.makes_schemas or not rights.makes_tables:
        yield _by_hand(
            "may_not_create",
            rights.role,
            "may not make the schema mqtt_private, or tables in public: connect as postgres",
        )
    if not rights.becomes_service_role:
        yield Finding(
            Aspect.ACCESS,
            "no_member_of_service_role",
            rights.role,
            "is no member of service_role, so the trial cannot act as the worker: connect as postgres",
            Level.LOOK,
        )
    if not rights.service_role_passes:
        yield _by_hand(
            "service_role_bound",
            "service_role",
            "does not pass by row-level security, so the worker would see no row",
            "alter role service_role bypassrls;",
        )


def _owners(project: Project, role: str) -> Iterator[Finding]:
    for table in project.tables.values():
        if table.is_table and not table.is_owned:
            yield _by_hand(
                "not_owner",
                table.name,
                f"belongs to {table.owner}, and {role} is no member of that role:"
                f" the migrations fail with `must be owner of table`. Connect as {table.owner}",
            )


def _protection(project: Project, name: str) -> Iterator[Finding]:
    table = project.tables[name]
    if not table.is_protected:
        yield Finding(
            Aspect.ACCESS,
            "unprotected",
            name,
            "has no row-level security, and is left so; members get no grant on it until it has",
            Level.LOOK,
            f"alter table {name} enable row level security;",
        )
    if table.is_forced:
        yield Finding(
            Aspect.ACCESS,
            "forced",
            name,
            "forces row-level security on its owner too, and so on functions that run as the owner",
            Level.LOOK,
        )


def _by_hand(kind: str, subject: str, text: str, sql: str | None = None) -> Finding:
    return Finding(Aspect.ACCESS, kind, subject, text, Level.BY_HAND, sql)
