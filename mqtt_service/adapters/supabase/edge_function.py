"""Calls of a project's edge function: one MQTT message in, our errors out.

The client has connections of its own, so that a function that hangs does not use up those of the database.
"""

import asyncio
import base64
import json

import httpx
from supabase import AsyncClient, AsyncClientOptions, FunctionsHttpError, FunctionsRelayError

from mqtt_service.adapters.supabase.api_errors import describe, refuse_page, retry_after
from mqtt_service.errors import PermanentError, RemoteProtocolError, ServiceError, SupabaseUnavailableError
from mqtt_service.protocol.wire_json import parse_object

_RETRYABLE = frozenset({408, 425, 429})
_MAX_REASON = 200

_ADVICE = {
    401: "deploy it with --no-verify-jwt, since the secret key is no JWT, and check SUPABASE_SECRET_KEY",
    404: "deploy it, or correct EDGE_FUNCTION",
}


class EdgeFunction:
    """One edge function of a project; `timeout` seconds bound a call from its start to its whole answer."""

    def __init__(self, url: str, key: str, name: str, *, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        # Redirects are not followed: the key would go along, and a POST can come out as a GET.
        self._http = httpx.AsyncClient(
            timeout=timeout, follow_redirects=False, event_hooks={"response": [_refuse_page]}
        )
        options = AsyncClientOptions(httpx_client=self._http, auto_refresh_token=False, persist_session=False)
        self._functions = AsyncClient(url, key, options).functions

    async def hand_over(self, topic: str, payload: bytes) -> None:
        """Pass a message on; return once the function has answered 2xx.

        Raises SupabaseUnavailableError where trying again can help (whether the function has the message is
        then unknown) and PermanentError where it refuses this call.
        """
        request = {"headers": {"Content-Type": "application/json"}, "body": request_body(topic, payload)}
        try:
            async with asyncio.timeout(self._timeout):
                await self._functions.invoke(self._name, request)
        except TimeoutError as error:
            raise self._unavailable(f"did not answer within {self._timeout:g} s") from error
        except httpx.HTTPError as error:
            raise self._unavailable(f"cannot be reached: {describe(error)}") from error
        except FunctionsRelayError as error:
            raise self._unavailable(f"cannot be reached by Supabase: {_short(error.message)}") from error
        except FunctionsHttpError as error:
            raise self._refusal(error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _refusal(self, error: FunctionsHttpError) -> ServiceError:
        status, cause = error.status, error.__cause__
        said = f"answered {status}: {_short(error.message)}"
        if status in _RETRYABLE or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            answer = cause.response if isinstance(cause, httpx.HTTPStatusError) else None
            return self._unavailable(said, retry_after(answer) if answer is not None else None)
        advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
        return PermanentError(f"the edge function {self._name} {said}{advice}")

    def _unavailable(self, what: str, pause: float | None = None) -> SupabaseUnavailableError:
        return SupabaseUnavailableError(f"the edge function {self._name} {what}", pause)


def request_body(topic: str, payload: bytes) -> bytes:
    """The body of a call, `{topic, payload}`, in JSON.

    `payload` is the message itself where that is a JSON object, else its text as a string. Bytes that are not
    UTF-8 are passed as base64, and `payload_encoding` says so.
    """
    fields = {"topic": json.dumps(topic), **_payload(payload)}
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}").encode()


def _payload(payload: bytes) -> dict[str, str]:
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        return {
            "payload": json.dumps(base64.b64encode(payload).decode("ascii")),
            "payload_encoding": '"base64"',
        }
    try:
        parse_object(payload, largest=len(payload))
    except RemoteProtocolError:
        return {"payload": json.dumps(text)}
    return {"payload": text}


async def _refuse_page(response: httpx.Response) -> None:
    """A web page with 2xx is no function that has the message; an error has a meaning of its own."""
    if response.is_success:
        refuse_page(response)


def _short(message: object) -> str:
    """A function can answer anything, of any length."""
    return str(message)[:_MAX_REASON]
