"""What goes wrong in Storage, as a client of the real server sees it.

The status that is meant stands in the body, as text; the HTTP status of the answer is 400, or 500 and above
where it is the server's fault.
"""

from collections.abc import Callable

import psycopg

_SERVER_STATUSES = {500, 544}  # the real server shows these two as they are, and all others as 400
_BAD_REQUEST = 400


class StorageError(Exception):
    """An error as a client sees it: the status that is meant, the old and the new word for it, a message."""

    def __init__(self, status: int, code: str, message: str, error: str | None = None) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.error = error or code
        super().__init__(message)

    @property
    def http_status(self) -> int:
        """The status of the HTTP answer."""
        return self.status if self.status in _SERVER_STATUSES else _BAD_REQUEST

    @property
    def body(self) -> dict[str, str]:
        """The JSON document of the answer."""
        return {
            "statusCode": str(self.status),
            "error": self.error,
            "message": self.message,
            "code": self.code,
        }


def invalid_request(message: str) -> StorageError:
    """Return the error for a request whose parts do not fit their schema."""
    return StorageError(400, "InvalidRequest", message, "Error")


def no_content(message: str = "No content provided") -> StorageError:
    """Return the error for an upload that holds no file."""
    return StorageError(400, "InvalidRequest", message)


def no_bucket() -> StorageError:
    """Return the error for a bucket that is not there, or not for the caller to see."""
    return StorageError(404, "NoSuchBucket", "Bucket not found", "Bucket not found")


def no_object() -> StorageError:
    """Return the error for an object that is not there, or not for the caller to see."""
    return StorageError(404, "NoSuchKey", "Object not found", "not_found")


def duplicate(code: str = "KeyAlreadyExists") -> StorageError:
    """Return the error for a name that is taken."""
    return StorageError(409, code, "The resource already exists", "Duplicate")


def denied(message: str = "Access denied") -> StorageError:
    """Return the error for what the caller may not do, or for a token that does not hold."""
    return StorageError(403, "AccessDenied", message, "Unauthorized")


def too_large() -> StorageError:
    """Return the error for a file, or a limit, beyond the limit."""
    return StorageError(
        413, "EntityTooLarge", "The object exceeded the maximum allowed size", "Payload too large"
    )


def wrong_mime_type(mime_type: str) -> StorageError:
    """Return the error for a type that the bucket does not take."""
    message = f"mime type {mime_type} is not supported"
    return StorageError(415, "InvalidMimeType", message, "invalid_mime_type")


def invalid_key(name: str) -> StorageError:
    """Return the error for a name that no object can have."""
    return StorageError(400, "InvalidKey", f"Invalid key: {name}")


def invalid_bucket_name() -> StorageError:
    """Return the error for a name that no bucket can have."""
    return StorageError(400, "InvalidBucketName", "Bucket name invalid", "Invalid Input")


def timed_out() -> StorageError:
    """Return the error for a database that does not answer."""
    return StorageError(544, "DatabaseTimeout", "The connection to the database timed out")


def from_postgres(error: psycopg.Error) -> StorageError:
    """Return what a client sees of an error of the database."""
    words = error.diag.message_primary or str(error)
    if error.sqlstate == "42501":
        is_policy = "row-level security" in words
        return denied("new row violates row-level security policy" if is_policy else words)
    if error.sqlstate == "23503" and "is still referenced" in (error.diag.message_detail or ""):
        message = "The resource could not be updated or removed due to a foreign key constraint"
        return StorageError(409, "ResourceReferenced", message)
    known = _BY_SQLSTATE.get(error.sqlstate)
    return (
        known(words)
        if known
        else StorageError(500, "DatabaseError", f"database error, code: {error.sqlstate}")
    )


_BY_SQLSTATE: dict[str | None, Callable[[str], StorageError]] = {
    "23505": lambda _: duplicate("ResourceAlreadyExists"),
    "23503": lambda _: StorageError(404, "InvalidRequest", "The related resource does not exist"),
    "22P02": lambda words: StorageError(400, "InvalidParameter", words),
    "57014": lambda _: timed_out(),
    None: lambda _: timed_out(),  # the connection broke
}
