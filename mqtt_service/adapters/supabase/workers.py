"""Workers in the database: which process is the newest that uses a MQTT client id."""

from pydantic import TypeAdapter

from mqtt_service import __version__
from mqtt_service.adapters.supabase.transport import DatabaseFunctions

_INSTANCE = TypeAdapter(dict[str, str])


class WorkerGateway:
    """Announces one worker process."""

    def __init__(self, database: DatabaseFunctions, worker: str) -> None:
        self._database = database
        self._worker = worker

    async def announce(self, client_id: str, *, started_ago: float) -> str:
        """Announce this process, `started_ago` seconds old, under a client id; returns the newest's name."""
        answer = await self._database.call(
            "fn_announce_worker",
            _INSTANCE,
            p_client_id=client_id,
            p_worker=self._worker,
            p_started_ago=started_ago,
            p_version=__version__,
        )
        return answer["worker"]
