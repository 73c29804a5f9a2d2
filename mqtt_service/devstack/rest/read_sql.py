"""SQL that reads: a Plan becomes one statement, whose one row holds the whole answer.

The row is (total, rows, body, inserted): the count that was asked for or null, the rows in the body, the body
as JSON text, and for upserts the rows that are new.
"""

from collections.abc import Callable, Sequence

from psycopg import sql

from mqtt_service.devstack.rest.clauses import (
    NOTHING,
    Sql,
    column_sql,
    exposed,
    filter_sql,
    order_sql,
    qualified,
    where_sql,
    window_sql,
)
from mqtt_service.devstack.rest.plan import EmbedPlan, Plan
from mqtt_service.devstack.rest.request import Condition, Filter, Group, Shape

SOURCE = sql.Identifier("pgrst_source")


def read_statement(plan: Plan, shape: Shape, *, total: Sql | None = None) -> sql.Composed:
    """Return the statement that reads a table; `total` is the query to count, if any."""
    return answer_statement(rows_sql(plan, table_sql(plan)), None, body_sql(shape), total=total)


def answer_statement(source: Sql, plan: Plan | None, body: Sql, *, total: Sql | None = None) -> sql.Composed:
    """Return the statement that runs `source` (a read, a write or a call) and reads `plan` from its rows.

    Without a plan its rows are taken as they are.
    """
    rows = SOURCE if plan is None else sql.SQL("({})").format(rows_sql(plan, SOURCE))
    return sql.SQL("with pgrst_source as ({}){} select {} from {} as _postgrest_t").format(
        source, _count_cte(total), _result(total, body), rows
    )


def table_sql(plan: Plan) -> Sql:
    """Return the table that `plan` reads."""
    return exposed(plan.table or "")


def body_sql(shape: Shape) -> Sql:
    """Return the rows as JSON text: an array, or the first as an object."""
    return json_sql(sql.SQL("json_agg(_postgrest_t)"), first=shape.single, strip_nulls=shape.strip_nulls)


def json_sql(values: Sql, *, first: bool, strip_nulls: bool = False) -> Sql:
    """Return an aggregate as JSON text, or its first element."""
    values = values + sql.SQL("->0") if first else values
    values = sql.SQL("json_strip_nulls({})").format(values) if strip_nulls else values
    return sql.SQL("coalesce({}, {})::text").format(values, sql.Literal("null" if first else "[]"))


def count_sql(plan: Plan, source: Sql, conditions: Sequence[Sql] = (), *, origin: Sql | None = None) -> Sql:
    """Return a query with as many rows as `plan` has without its window."""
    parts = [*(_count_condition(plan, source, one) for one in plan.filters), *conditions]
    parts += [
        sql.SQL("exists ({})").format(_embedded_count(embed, source)) for embed in plan.embeds if embed.inner
    ]
    return sql.SQL("select 1 from {}{}").format(origin or source, where_sql(parts))


def rows_sql(plan: Plan, source: Sql, *, origin: Sql | None = None, conditions: Sequence[Sql] = ()) -> Sql:
    """Return the query for the rows of `plan`.

    `source` qualifies its columns and `origin` is what stands in the from clause, where the two differ.
    """
    return sql.SQL("select {} from {}{}{}{}{}").format(
        _select_list(plan, source),
        origin or source,
        sql.Composed([_join(embed, source) for embed in plan.embeds]),
        where_sql([*_conditions(plan, source), *conditions]),
        order_sql(source, plan.orders, _aliases(plan)),
        window_sql(plan.window),
    )


def _select_list(plan: Plan, source: Sql) -> Sql:
    items = [column_sql(source, column) for column in plan.columns]
    for embed in plan.embeds:
        if not embed.plan.columns and not embed.plan.embeds:
            continue  # `rel()` filters, and shows nothing
        alias, key = sql.Identifier(embed.alias), sql.Identifier(embed.key)
        if embed.relationship.to_one:
            items.append(sql.SQL("row_to_json({}.*)::jsonb as {}").format(alias, key))
        else:
            items.append(sql.SQL("coalesce({}.{}, '[]') as {}").format(alias, alias, key))
    if not items and plan.embeds:
        return sql.SQL("1 as present")
    return sql.SQL(", ").join(items) if items else qualified(source, "*")


def _join(embed: EmbedPlan, source: Sql) -> Sql:
    alias, own, origin, conditions = _embedded(embed, source)
    rows = rows_sql(embed.plan, own, origin=origin, conditions=conditions)
    on: Sql = sql.SQL("true")
    if not embed.relationship.to_one:
        rows = sql.SQL("select json_agg({})::jsonb as {} from ({}) as {}").format(alias, alias, rows, alias)
        on = sql.SQL("{} is not null").format(alias) if embed.inner else on
    kind = sql.SQL(" inner" if embed.inner else " left")
    return sql.SQL("{} join lateral ({}) as {} on {}").format(kind, rows, alias, on)


def _embedded_count(embed: EmbedPlan, source: Sql) -> Sql:
    _, own, origin, conditions = _embedded(embed, source)
    return count_sql(embed.plan, own, conditions, origin=origin)


def _embedded(embed: EmbedPlan, source: Sql) -> tuple[Sql, Sql, Sql, list[Sql]]:
    """Return the alias of the rows, the name of the table within, its from clause and what joins it."""
    relationship = embed.relationship
    own = sql.Identifier(f"{embed.alias}_table")
    origin = sql.SQL("{} as {}").format(exposed(relationship.target), own)
    if relationship.junction is None:
        return sql.Identifier(embed.alias), own, origin, _equal(relationship.pairs, source, own)
    junction = sql.Identifier(f"{embed.alias}_junction")
    origin = sql.SQL("{}, {} as {}").format(origin, exposed(relationship.junction.table), junction)
    conditions = _equal(relationship.junction.to_origin, junction, source)
    return (
        sql.Identifier(embed.alias), own, origin, conditions + _equal(relationship.junction.to_target,
        junction, own)
    )  # fmt: skip


def _equal(pairs: Sequence[tuple[str, str]], left: Sql, right: Sql) -> list[Sql]:
    return [sql.SQL("{} = {}").format(qualified(left, one), qualified(right, other)) for one, other in pairs]


def _conditions(plan: Plan, source: Sql) -> list[Sql]:
    return [filter_sql(source, one, _aliases(plan)) for one in plan.filters]


def _count_condition(plan: Plan, source: Sql, one: Filter) -> Sql:
    """Return a condition for a query without the joins: `is null` on an embedded resource looks for it."""
    embed = plan.find_embed(one.field.name) if isinstance(one, Condition) else None
    if embed is None or isinstance(one, Group):
        return filter_sql(source, one, _aliases(plan))
    wanted = (one.value == "null") == one.negated
    return sql.SQL("{}exists ({})").format(sql.SQL("" if wanted else "not "), _embedded_count(embed, source))


def _aliases(plan: Plan) -> Callable[[str], str | None]:
    def alias(name: str) -> str | None:
        embed = plan.find_embed(name)
        return embed.alias if embed else None

    return alias


def _count_cte(total: Sql | None) -> Sql:
    return NOTHING if total is None else sql.SQL(", pgrst_count as ({})").format(total)


def _result(total: Sql | None, body: Sql) -> Sql:
    count = sql.SQL("null::bigint" if total is None else "(select count(*) from pgrst_count)")
    inserted = sql.SQL("nullif(current_setting('pgrst.inserted', true), '')::int")
    return sql.SQL("{} as total, count(*) as rows, {} as body, {} as inserted").format(count, body, inserted)
