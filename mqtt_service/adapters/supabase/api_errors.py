"""Errors of the Supabase API as ours: where waiting can help, and what the operator must do about others.

The codes are PostgREST's (its documentation, "Errors") and Postgres's (Appendix A); the statuses from 520 on
are those of the network in front of a hosted project.
"""

import re
from math import isfinite

import httpx
from postgrest.exceptions import APIError

from mqtt_service.errors import (
    MigrationMissingError,
    PermanentError,
    ProjectMisconfiguredError,
    RowLockedError,
    ServiceError,
    SupabaseUnavailableError,
)

_RETRYABLE_STATUS = frozenset({408, 425, 429, 502, 503, 504, *range(520, 528)})
# Serialisation failure, deadlock, statement time-out, too many connections, and a server that
# restarts; PGRST000 to 003 say that the API itself has no database connection.
_RETRYABLE_CODES = frozenset(
    {"40001", "40P01", "57014", "57P01", "57P02", "57P03", "53300", "08006", "08001", "08003"}
    | {"PGRST000", "PGRST001", "PGRST002", "PGRST003"}
)
# Postgres's, for an object that is missing or forbidden: ours, or one that a trigger of the project names.
_PROJECT_CODES = frozenset({"42501", "42703", "42704", "42883", "42P01"})
_LOCK_NOT_AVAILABLE = "55P03"
_MISSING_CODES = frozenset({"PGRST202", "PGRST205", "42883", "42P01"})

# Caused by the data of this call, as is whatever a trigger of the project raises. Excluded are errors of
# connections and transactions, roles and schemas, missing or forbidden objects, resources, and the server.
_DATA_CODE = re.compile(r"(?!08|25|28|3D|3F|40|42|53|55|57|58|F0|HV|XX)[0-9A-Z]{5}|PGRST1\d\d|413")
_MAX_RETRY_AFTER = 120.0

_SET_KEY = "set SUPABASE_SECRET_KEY to the project's secret (service_role) key"
_APPLY_MIGRATIONS = "apply the files in supabase/migrations to the project (supabase/README.md)"
NOT_THE_API = (
    "this is not the Supabase API: set SUPABASE_URL to the project's URL, like https://<project>.supabase.co "
    "(not the dashboard's, nor a website's), and see that no proxy or sign-in page of the network "
    "answers for it"
)
_HTML = re.compile(r"\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)


async def refuse_by_status(response: httpx.Response) -> None:
    """Raise the errors that status and type alone tell; an httpx response hook, which can read Retry-After.

    Raises SupabaseUnavailableError for statuses where waiting can help, and for a web page, which no API of
    Supabase answers with: it may be a sign-in page of the network. Raises ProjectMisconfiguredError for a
    refused key.
    """
    if response.status_code in _RETRYABLE_STATUS:
        raise SupabaseUnavailableError(
            f"Supabase answered {response.status_code} {response.reason_phrase}".rstrip(),
            retry_after=retry_after(response),
        )
    refuse_page(response)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise ProjectMisconfiguredError(f"Supabase refused the key (401): {_SET_KEY}")


def refuse_page(response: httpx.Response) -> None:
    """Raise SupabaseUnavailableError where a web page was answered, but for that of a redirect."""
    is_page = response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml"))
    if is_page and not response.has_redirect_location:
        raise SupabaseUnavailableError(f"a web page was answered ({response.status_code}): {NOT_THE_API}")


def is_page(text: object) -> bool:
    """Whether an answer is a web page, though nothing said so of it."""
    return isinstance(text, str) and _HTML.match(text) is not None


def retry_after(response: httpx.Response) -> float | None:
    """Retry-After in seconds, bounded; its other form, a date, is not used by Supabase."""
    header = response.headers.get("Retry-After")
    try:
        seconds = float(header) if header else None
    except ValueError:
        return None
    return None if seconds is None or not isfinite(seconds) else min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def from_network_error(error: httpx.HTTPError, call: str) -> SupabaseUnavailableError:
    """Every failure to send or receive: whether the call had its effect is unknown."""
    return SupabaseUnavailableError(
        f"no answer from Supabase to {call}: {describe(error)}; check SUPABASE_URL and the network"
    )


def describe(error: httpx.HTTPError) -> str:
    """What the error says; a LocalProtocolError only by name, since it can quote a header, and so the key."""
    message = "" if isinstance(error, httpx.LocalProtocolError) else str(error)
    return message or type(error).__name__


def _names_what_is_the_projects(message: str, call: str) -> bool:
    """Whether an object that is missing or forbidden is none of those that the migrations make."""
    named = re.search(r'(?:function|relation|schema|table|type|column) "?([\w.]+)', message)
    return named is not None and not named[1].removeprefix("public.").startswith((call, "mqtt_private"))


def from_api_error(error: APIError, call: str) -> ServiceError:
    """Translate what PostgREST answered to `call` into one of our errors."""
    code, message = str(error.code or ""), error.message or "no message"
    if code == _LOCK_NOT_AVAILABLE:
        return RowLockedError(
            f"{call} met a row that another transaction of the project holds: end it if it stays ({message})"
        )
    if code in _RETRYABLE_CODES or (code.startswith("5") and len(code) == 3):  # noqa: PLR2004 - an HTTP status
        return SupabaseUnavailableError(f"Supabase could not run {call} now: {message} ({code})")
    if code in _PROJECT_CODES and _names_what_is_the_projects(message, call):
        return ProjectMisconfiguredError(
            f"{call} failed on something of the project itself: {message} ({code}); mend the trigger, check "
            "or policy that names it, or grant it to service_role (mqtt-service migrations --check finds it)"
        )
    if code in _MISSING_CODES:
        return MigrationMissingError(f"{call} is missing in the database: {_APPLY_MIGRATIONS} ({message})")
    if _DATA_CODE.fullmatch(code):
        return PermanentError(f"Supabase refused {call}: {message} ({code})")
    if not code or is_page(error.details):
        # PostgREST and Postgres give every error a code; a gateway and other services do not.
        reason = f"{call} was refused without a code ({message}): {NOT_THE_API}"
    elif code == "42501":
        reason = f"the key may not use {call}: {_SET_KEY}, then {_APPLY_MIGRATIONS} ({message})"
    else:
        reason = (
            f"Supabase refuses {call}: {message} ({code or 'no code'}); "
            "check SUPABASE_URL and the state of the project"
        )
    return ProjectMisconfiguredError(reason)
