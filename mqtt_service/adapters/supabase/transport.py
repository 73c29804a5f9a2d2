"""Calls of the project's database functions over the REST API: errors, time-outs, validated answers.

One gateway module a subject builds on this: `commands`, `acknowledgements`, `devices`, `visits`, `images` and
`workers`. They take and return frozen dataclasses; dicts stop here and there.
"""

import json
import time
from typing import Any, TypeVar
from uuid import UUID

import httpx
from postgrest.exceptions import APIError
from pydantic import TypeAdapter, ValidationError
from supabase import AsyncClient, AsyncClientOptions

from mqtt_service.adapters.supabase import api_errors
from mqtt_service.errors import PermanentError, ServiceError, SupabaseUnavailableError
from mqtt_service.metrics import CALL_SECONDS, child

T = TypeVar("T")

# For a function whose answer says nothing.
NO_ANSWER = TypeAdapter(object)

_LONGEST_CONNECT = 5.0


async def connect(url: str, key: str, timeout: float = 10.0) -> AsyncClient:  # noqa: ASYNC109 - of later requests
    """Create the one Supabase client of this process; it makes no request yet.

    A request waits up to `timeout` seconds for its answer; one with hundreds of rows takes tens of
    milliseconds.

    The HTTP client is ours for its time-outs, and so that a status is judged before the library reads it. It
    speaks no HTTP/2: there, all requests share one connection, so that an answer to any of them resets
    the time-out of all, and one that is never answered waits for ever while others are answered.
    """
    http = httpx.AsyncClient(
        http2=False,
        timeout=httpx.Timeout(timeout, connect=min(timeout, _LONGEST_CONNECT)),
        follow_redirects=True,
        event_hooks={"response": [api_errors.refuse_by_status]},
    )
    options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False, persist_session=False)
    return await AsyncClient.create(url, key, options)


class DatabaseFunctions:
    """Calls the project's database functions.

    Every call is safe to repeat when its outcome is unknown (the SQL says why at each function). Each raises
    SupabaseUnavailableError where waiting can help, ProjectMisconfiguredError where a person must act, and
    PermanentError where the call itself is refused.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._under_way: dict[object, None] = {}  # in the order in which they began

    @property
    def oldest_call(self) -> object | None:
        """A token of the call that has been under way for longest; None where there is none."""
        return next(iter(self._under_way), None)

    async def call(self, function: str, answer: TypeAdapter[T], **parameters: object) -> T:
        """Call a function and return what it answers, in the shape that `answer` describes."""
        query = self._client.rpc(function, parameters)
        return validated(answer, await self._execute(query, function, parameters), function)

    async def call_page(
        self, function: str, answer: TypeAdapter[T], *, key: str, after: UUID | None, limit: int
    ) -> T:
        """Call a function that returns a table: at most `limit` rows in the order of `key`, after `after`."""
        query = self._client.rpc(function).order(key).limit(limit)
        if after is not None:
            query = query.gt(key, str(after))
        return validated(answer, await self._execute(query, function, {}), function)

    async def _execute(self, query: Any, function: str, parameters: object) -> object:  # noqa: ANN401 - the builders share no base
        token = object()
        self._under_way[token] = None
        started, outcome = time.perf_counter(), "failed"
        try:
            response = await query.execute()
            outcome = "answered"
        except httpx.HTTPError as error:
            raise api_errors.from_network_error(error, function) from error
        except APIError as error:
            raise api_errors.from_api_error(error, function) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise _not_json(function, parameters, error) from error
        finally:
            del self._under_way[token]
            child(CALL_SECONDS, function, outcome).observe(time.perf_counter() - started)
        data: object = response.data
        return data


def validated(answer: TypeAdapter[T], data: object, function: str) -> T:
    """`data` in the shape of `answer`; a proxy's page or a cut body is no answer, so the call is repeated.

    Raises SupabaseUnavailableError for any other shape.
    """
    try:
        return answer.validate_python(data)
    except ValidationError as error:
        if api_errors.is_page(data):
            message = f"a web page was the answer to {function}: {api_errors.NOT_THE_API}"
            raise SupabaseUnavailableError(message) from error
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole answer"
        raise SupabaseUnavailableError(
            f"the answer to {function} is not what it should be ({where}: {first['msg']}); if this stays, "
            "check that SUPABASE_URL is the project's URL; then the migrations in the database and this "
            "version do not belong together"
        ) from error


def _not_json(function: str, parameters: object, error: Exception) -> ServiceError:
    """What it means that the parameters could not be written as JSON, or the answer not be read."""
    try:
        json.dumps(parameters, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as fault:
        return PermanentError(f"{function} cannot be asked: {fault}")
    return SupabaseUnavailableError(f"the answer to {function} cannot be read: {error}")
