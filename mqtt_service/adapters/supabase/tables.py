"""Reads and writes tables of the project over the REST API, for a person who waits: pages, retries, errors.

What the worker does goes through database functions (`transport`); this is for the command line.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import httpx
from postgrest.exceptions import APIError
from pydantic import AfterValidator, BeforeValidator, TypeAdapter
from supabase import AsyncClient

from mqtt_service.adapters.supabase import api_errors
from mqtt_service.adapters.supabase.transport import validated
from mqtt_service.backoff import retry_briefly
from mqtt_service.errors import PermanentError, ProjectMisconfiguredError, ServiceError

T = TypeVar("T")

# The API cuts an answer at its own limit (1,000 rows unless the project says less) and does not say so.
PAGE = 1000
# Ids in one address: some proxies take no more than 8 kB.
IDS_IN_ONE_ADDRESS = 150

START_OF_TIME, END_OF_TIME = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

Query = Any  # the builders of the library share no base


def _finite(value: object) -> object:
    """Postgres's own infinities as the ends of Python's calendar."""
    infinities = {"infinity": END_OF_TIME, "-infinity": START_OF_TIME}
    return infinities.get(value, value) if isinstance(value, str) else value


def _some_time(value: object) -> object:
    return START_OF_TIME if value is None else _finite(value)


def _aware(moment: datetime) -> datetime:
    # A table that was there before may hold times without a zone: Supabase's databases run in UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


# A table that was there before may allow null where ours do not.
Moment = Annotated[datetime, BeforeValidator(_finite), AfterValidator(_aware)]
# Of null here, nobody knows when it was: before all that is known.
SomeTime = Annotated[datetime, BeforeValidator(_some_time), AfterValidator(_aware)]
Number = Annotated[int, BeforeValidator(lambda value: 0 if value is None else value)]
Flag = Annotated[bool, BeforeValidator(lambda value: False if value is None else value)]
Word = Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))]


def columns_of(row: type[object]) -> str:
    """The columns that a dataclass of a row needs, as the API takes them."""
    return ",".join(field.name for field in fields(row))  # type: ignore[arg-type]  # rows are dataclasses


class Tables:
    """The tables of one project.

    Each call is tried a few times. It raises SupabaseUnavailableError where waiting longer can help,
    ProjectMisconfiguredError where a person must act, and PermanentError with the database's words and its
    hint where a row is refused.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def table(self, name: str) -> Query:
        """A new query on a table; it asks nothing until it is handed to one of the methods below."""
        return self._client.table(name)

    def rpc(self, function: str, parameters: dict[str, object]) -> Query:
        """A new call of a database function that may be repeated."""
        return self._client.rpc(function, parameters)

    async def run(self, make: Callable[[], Query], what: str, answer: TypeAdapter[T]) -> T:
        """The answer to one query in the shape of `answer`; `what` names the table or function in errors."""
        async for attempt in retry_briefly():
            with attempt:
                return validated(answer, await _execute(make(), what), what)
        raise AssertionError("retry_briefly() ends only by a result or an error")

    async def every(
        self, make: Callable[[], Query], what: str, rows: TypeAdapter[list[T]], key: str
    ) -> list[T]:
        """All rows, page by page in the order of `key`, which is unique."""
        found: list[T] = []
        while True:
            last = getattr(found[-1], key) if found else None

            def page(last: object = last) -> Query:
                query = make().order(key).limit(PAGE)
                return query if last is None else query.gt(key, str(last))

            more = await self.run(page, what, rows)
            if not more:
                return found
            found += more

    async def latest(
        self,
        make: Callable[[], Query],
        what: str,
        rows: TypeAdapter[list[T]],
        *,
        time: str,
        key: str,
        limit: int,
    ) -> list[T]:
        """At most `limit` rows, the latest by `time` first; rows that appear meanwhile do no harm."""
        found: dict[object, T] = {}
        offset = 0
        while len(found) < limit:
            size = min(PAGE, limit - len(found))

            def page(offset: int = offset, size: int = size) -> Query:
                query = make().order(time, desc=True, nullsfirst=False).order(key, desc=True)
                return query.range(offset, offset + size - 1)

            more = await self.run(page, what, rows)
            if not more:
                break
            offset += len(more)
            found.update({getattr(row, key): row for row in more if getattr(row, key) not in found})
        return list(found.values())

    async def by_ids(
        self,
        make: Callable[[], Query],
        what: str,
        rows: TypeAdapter[list[T]],
        key: str,
        ids: Sequence[object],
    ) -> list[T]:
        """The rows with these ids, in no order; those that are gone are missing."""
        found: list[T] = []
        for start in range(0, len(ids), IDS_IN_ONE_ADDRESS):
            part = [str(one) for one in ids[start : start + IDS_IN_ONE_ADDRESS]]

            def select(part: list[str] = part) -> Query:
                return make().in_(key, part)

            more: list[T] = await self.run(select, what, rows)
            found += more
        return found


async def _execute(query: Query, what: str) -> object:
    try:
        response = await query.execute()
    except httpx.HTTPError as error:
        raise api_errors.from_network_error(error, what) from error
    except APIError as error:
        raise _refused(error, what) from error
    data: object = response.data
    return data


def _refused(error: APIError, what: str) -> ServiceError:
    """As for the worker's calls; where the row itself is refused, in the database's own words."""
    translated = api_errors.from_api_error(error, what)
    if not isinstance(translated, PermanentError) or isinstance(translated, ProjectMisconfiguredError):
        return translated
    message = (error.message or str(translated)).removesuffix(".")
    return PermanentError(f"{message}. {error.hint}" if error.hint else message)
