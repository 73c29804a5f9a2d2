"""Who may join a private channel: the policies on `realtime.messages` say it of the token's claims."""

from collections.abc import Mapping
from typing import Any

import psycopg

from mqtt_service.devstack.realtime.messages_table import NoPartitionError, readable
from mqtt_service.devstack.realtime.subscriptions import Identity
from mqtt_service.errors import PermanentError


class TopicRefusedError(PermanentError):
    """A topic that a token may not read now; the words are those of the real service."""

    def __init__(self, code: str, text: str) -> None:
        self.text = text
        super().__init__(f"{code}: {text}")


class TopicAccess:
    """Asks the database at `url` (a superuser's)."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def reads_broadcasts(self, claims: Mapping[str, Any], topic: str, *, presence: bool) -> bool:
        """Return whether broadcasts are delivered; False where the policies let it read presence alone.

        Raises TopicRefusedError where they let it read neither, or cannot be asked.
        """
        extensions = {"broadcast", "presence"} if presence else {"broadcast"}
        try:
            async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                found = await readable(connection, Identity.of(claims), topic, extensions)
        except NoPartitionError as error:
            text = "Realtime was unable to find the expected messages partition"
            raise TopicRefusedError("MissingPartition", text) from error
        except psycopg.Error as error:
            text = "Realtime was unable to connect to the project database"
            raise TopicRefusedError("UnableToConnectToProject", text) from error
        if not found:
            text = f"You do not have permissions to read from this Channel topic: {topic}"
            raise TopicRefusedError("Unauthorized", text)
        return "broadcast" in found
