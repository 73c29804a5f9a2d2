"""One request to Storage: what its handler works with, and the parts of its body."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mqtt_service.devstack.keys import JwtKeys
from mqtt_service.devstack.storage.database import StorageDatabase
from mqtt_service.devstack.storage.errors import invalid_request
from mqtt_service.devstack.storage.files import FileStore


@dataclass(frozen=True)
class StorageRequest:
    """A request; `owner` is the user who calls; `is_known` is false where no token came and none has to."""

    http: Request
    database: StorageDatabase
    files: FileStore
    keys: JwtKeys
    owner: str | None
    is_known: bool

    @property
    def bucket(self) -> str:
        """The id of the bucket in the path."""
        return str(self.http.path_params["bucket"])

    @property
    def name(self) -> str:
        """The name of the object in the path."""
        return str(self.http.path_params["name"])

    async def document(self, *required: str) -> dict[str, Any]:
        """Return the JSON object of the body, which has these keys. Raises StorageError."""
        try:
            document = await self.http.json()
        except ValueError as error:
            raise invalid_request("Body is not valid JSON but content-type is set to it") from error
        if not isinstance(document, dict):
            raise invalid_request("body must be object")
        for key in required:
            if key not in document:
                raise invalid_request(f"body must have required property '{key}'")
        return document


Handler = Callable[[StorageRequest], Awaitable[Response]]


def text_of(document: dict[str, Any], key: str, default: str | None = None) -> str:
    """Return a text of a JSON object. Raises StorageError."""
    value = document.get(key, default)
    if not isinstance(value, str):
        raise invalid_request(f"body/{key} must be string")
    return value


def number_of(document: dict[str, Any], key: str, default: int | None, least: int) -> int:
    """Return a whole number of a JSON object; digits in a text count as one. Raises StorageError."""
    value = document.get(key, default)
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid_request(f"body/{key} must be integer")
    if value < least:
        raise invalid_request(f"body/{key} must be >= {least}")
    return value


def texts_of(document: dict[str, Any], key: str) -> list[str]:
    """Return a list of texts of a JSON object, at least one. Raises StorageError."""
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid_request(f"body/{key} must be array of strings")
    if not value:
        raise invalid_request(f"body/{key} must NOT have fewer than 1 items")
    return value


def to_json(value: object) -> object:
    """Return a value of a row as answers show it: moments as Storage writes them, ids as text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value if value is None or isinstance(value, bool | int | str | list | dict) else str(value)
