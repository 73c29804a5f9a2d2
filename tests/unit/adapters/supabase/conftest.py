"""The gateway that the tests of this folder call."""

from collections.abc import AsyncIterator

import pytest

from mqtt_service.adapters.supabase.commands import CommandGateway
from mqtt_service.adapters.supabase.transport import connect
from tests.unit.adapters.supabase.claims import URL, gateway_of


@pytest.fixture
async def gateway() -> AsyncIterator[CommandGateway]:
    client = await connect(URL, "sb_secret_test")
    yield gateway_of(client)
    await client.postgrest.aclose()
