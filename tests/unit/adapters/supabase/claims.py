"""A gateway for commands over a scripted transport, and the answer to an idle claim."""

from supabase import AsyncClient

from mqtt_service.adapters.supabase.commands import CommandGateway, RetryPolicy
from mqtt_service.adapters.supabase.transport import DatabaseFunctions

URL = "http://supabase.test"
CLAIM = f"{URL}/rest/v1/rpc/fn_claim_commands"
EMPTY: dict[str, object] = {
    "now": "2026-01-02T03:04:05+00:00",
    "commands": [],
    "failed": [],
    "expired": [],
    "welcome_due": False,
    "more": False,
    "seconds_to_next_due": None,
}


def gateway_of(client: AsyncClient) -> CommandGateway:
    policy = RetryPolicy(max_retries=3, retry_delay=30, command_ttl=86400)
    return CommandGateway(DatabaseFunctions(client), "w1", policy)
