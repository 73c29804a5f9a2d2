"""Run amqtt with the configuration file named on the command line, until SIGTERM.

amqtt speaks MQTT 3.1.1 alone. It means to refuse other versions, but first reads a CONNECT of MQTT 5 as if it
were one of 3.1.1 and waits for bytes that never come, so a client that would fall back hears nothing. Here it
refuses at once, as MQTT 3.1.1 requires (section 3.1.2.2).
"""

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any, Self

from amqtt.broker import Broker
from amqtt.mqtt.connect import ConnectPacket, ConnectPayload

MQTT_3_1_1 = 4


class VersionedPayload(ConnectPayload):  # type: ignore[misc]  # amqtt has no types
    """The rest of a CONNECT, which is read only if its layout is known."""

    @classmethod
    async def from_stream(cls, reader: Any, fixed: Any, header: Any) -> Self:  # noqa: ANN401 - amqtt's signature
        """Read it, or leave it if it is of another version; amqtt looks at the version after this."""
        if header is not None and header.proto_level != MQTT_3_1_1:
            return cls(client_id="unread")
        payload: Self = await super().from_stream(reader, fixed, header)
        return payload


async def serve(config: dict[str, Any]) -> None:
    """Run the broker until SIGTERM."""
    ConnectPacket.PAYLOAD = VersionedPayload
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    broker = Broker(config)
    await broker.start()
    await stopping.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("transitions").setLevel(logging.WARNING)
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
