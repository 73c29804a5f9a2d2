"""What goes wrong in the REST interface, with PostgREST's codes, words and HTTP statuses.

The table of statuses is that of PostgREST 14 ("Errors" in its reference).
"""

import difflib
from collections.abc import Iterable

import psycopg


class ApiError(Exception):
    """An error as a client sees it: an HTTP status and PostgREST's four fields."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: object = None,
        hint: str | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint
        super().__init__(message)

    @property
    def body(self) -> dict[str, object]:
        """The JSON document of the answer."""
        return {"code": self.code, "details": self.details, "hint": self.hint, "message": self.message}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        headers = {"Proxy-Status": f"PostgREST; error={self.code}"}
        if self.status == 401:  # noqa: PLR2004 - Unauthorized
            reason = f' error="invalid_token", error_description="{self.message}"'
            headers["WWW-Authenticate"] = "Bearer" + (reason if self.code.startswith("PGRST3") else "")
        return headers


class SchemaMissError(ApiError):
    """What was asked for is not in what we know of the database; that may be out of date."""


def bad_query(what: str, text: str, column: int, problem: str) -> ApiError:
    """Return the error for a query string that cannot be read; `column` counts from 1."""
    message = f'"failed to parse {what} ({text})" (line 1, column {column})'
    return ApiError(400, "PGRST100", message, details=problem)


def bad_body(problem: str) -> ApiError:
    """Return the error for a request body that cannot be used."""
    return ApiError(400, "PGRST102", problem)


def not_supported(feature: str) -> ApiError:
    """Return the error for what PostgREST does and this stand-in does not."""
    return ApiError(400, "PGRST127", "Feature not implemented", details=feature)


def unsatisfiable(details: str) -> ApiError:
    """Return the error for a range of rows that does not exist."""
    return ApiError(416, "PGRST103", "Requested range not satisfiable", details=details)


def not_single(rows: int) -> ApiError:
    """Return the error for any number of rows but one where one object was asked for."""
    message = "Cannot coerce the result to a single JSON object"
    return ApiError(406, "PGRST116", message, details=f"The result contains {rows} rows")


def no_table(table: str, known: Iterable[str]) -> ApiError:
    """Return the error for a table that is not in the exposed schema."""
    near = _nearest(table, known)
    hint = f"Perhaps you meant the table 'public.{near}'" if near else None
    message = f"Could not find the table 'public.{table}' in the schema cache"
    return SchemaMissError(404, "PGRST205", message, hint=hint)


def no_column(table: str, column: str) -> ApiError:
    """Return the error for a column to be written that a table does not have."""
    message = f"Could not find the '{column}' column of '{table}' in the schema cache"
    return SchemaMissError(400, "PGRST204", message)


def no_relationship(origin: str, target: str, hint: str | None) -> ApiError:
    """Return the error for two tables that no foreign key joins."""
    using = f"' using the hint '{hint}" if hint else ""
    return SchemaMissError(
        400,
        "PGRST200",
        f"Could not find a relationship between '{origin}' and '{target}' in the schema cache",
        details=f"Searched for a foreign key relationship between '{origin}' and '{target}{using}' "
        "in the schema 'public', but no matches were found.",
    )


def no_function(name: str, arguments: list[str], known: Iterable[str], *, is_post: bool) -> ApiError:
    """Return the error for a function that does not exist with these arguments."""
    listed = ", ".join(sorted(arguments))
    given = f"({listed})" if arguments else " without parameters"
    plural = "s" if len(arguments) > 1 else ""
    searched = f" with parameter{plural} {listed}" if arguments else " without parameters"
    single = " or with a single unnamed json/jsonb parameter" if is_post else ""
    near = _nearest(name, known)
    return SchemaMissError(
        404,
        "PGRST202",
        f"Could not find the function public.{name}{given} in the schema cache",
        details=f"Searched for the function public.{name}{searched}{single}, "
        "but no matches were found in the schema cache.",
        hint=f"Perhaps you meant to call the function public.{near}" if near else None,
    )


def ambiguous_function(signatures: list[str]) -> ApiError:
    """Return the error for arguments that fit several functions."""
    return ApiError(
        300,
        "PGRST203",
        f"Could not choose the best candidate function between: {', '.join(signatures)}",
        hint="Try renaming the parameters or the function itself in the database "
        "so function overloading can be resolved",
    )


def no_where(verb: str) -> ApiError:
    """Return the error of the extension safeupdate, which hosted projects load for the API."""
    return ApiError(400, "21000", f"{verb} requires a WHERE clause")


def from_postgres(error: psycopg.Error, *, is_anonymous: bool) -> ApiError:
    """Return what a client sees of an error of the database."""
    if error.sqlstate is None:
        message = "Database client error. Retrying the connection."
        return ApiError(503, "PGRST001", message, details=str(error) or None)
    words = error.diag.message_primary or str(error)
    status = _status(error.sqlstate, words, is_anonymous=is_anonymous)
    return ApiError(
        status, error.sqlstate, words, details=error.diag.message_detail, hint=error.diag.message_hint
    )


_STATUS_BY_CODE = {
    "23503": 409, "23505": 409, "25006": 405, "53400": 500, "57P01": 503, "P0001": 400,
    "42883": 404, "42P01": 404, "42P17": 500,
}  # fmt: skip
_STATUS_BY_CLASS = {
    "08": 503, "09": 500, "0L": 403, "0P": 403, "25": 500, "28": 403, "2D": 500, "38": 500, "39": 500,
    "3B": 500, "40": 500, "53": 503, "54": 500, "55": 500, "57": 500, "58": 500, "F0": 500, "HV": 500,
    "P0": 500, "XX": 500,
}  # fmt: skip


def _status(code: str, message: str, *, is_anonymous: bool) -> int:
    if code == "42501":
        return 401 if is_anonymous else 403
    if code == "21000":
        return 400 if message.endswith("requires a WHERE clause") else 500
    if code == "22023" and message.startswith("role") and message.endswith("does not exist"):
        return 401
    if code.startswith("PT") and code[2:].isdigit():
        return int(code[2:])
    return _STATUS_BY_CODE.get(code) or _STATUS_BY_CLASS.get(code[:2], 400)


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.75)), None)
