"""What is counted of commands and answers on their way through the gateways."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import respx
from supabase import AsyncClient

from mqtt_service.adapters.supabase.acknowledgements import AcknowledgementRow
from mqtt_service.adapters.supabase.commands import RetryPolicy, Settlement
from mqtt_service.adapters.supabase.measured import MeasuredAcknowledgementGateway, MeasuredCommandGateway
from mqtt_service.adapters.supabase.queue_measures import MEASURES, QueueGauge
from mqtt_service.adapters.supabase.transport import DatabaseFunctions, connect
from mqtt_service.errors import SupabaseUnavailableError
from mqtt_service.metrics import REGISTRY
from tests.unit.adapters.supabase.claims import CLAIM, EMPTY, URL
from tests.unit.adapters.supabase.test_commands import ROW

COMMAND = UUID(str(ROW["command_id"]))
POLICY = RetryPolicy(max_retries=3, retry_delay=30, command_ttl=86400)
SETTLE = f"{URL}/rest/v1/rpc/fn_settle_commands"
ACKNOWLEDGE = f"{URL}/rest/v1/rpc/fn_acknowledge_commands"
MEASURE = f"{URL}/rest/v1/rpc/fn_measure_queue"


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    made = await connect(URL, "sb_secret_test")
    yield made
    await made.postgrest.aclose()


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def outcomes(outcome: str, kind: str = "reboot") -> float:
    return value("mqtt_service_command_outcomes_total", type=kind, outcome=outcome)


async def claimed(client: AsyncClient, **columns: object) -> MeasuredCommandGateway:
    gateway = MeasuredCommandGateway(DatabaseFunctions(client), "w1", POLICY)
    respx.post(CLAIM).respond(json={**EMPTY, "commands": [{**ROW, **columns}]})
    await gateway.claim(limit=10, lease=30, held=[])
    return gateway


@respx.mock
@pytest.mark.parametrize(
    ("outcome", "final", "counted"),
    [
        ("sent", False, "sent"),
        ("failed", False, "failed"),
        ("failed", True, "failed_for_good"),
        ("released", False, "released"),
    ],
)
async def test_attempts_are_counted_by_type_and_outcome(
    client: AsyncClient, outcome: str, final: bool, counted: str
) -> None:
    gateway = await claimed(client, waited_seconds=2.0)
    before, seconds = outcomes(counted), value("mqtt_service_command_send_seconds_sum", type="reboot")
    answer = {"command_id": str(COMMAND), "result": "settled", "status": outcome, "final": final}
    respx.post(SETTLE).respond(json=[answer])
    assert gateway.in_hand == 1
    await gateway.settle([Settlement(COMMAND, 1, outcome)])  # type: ignore[arg-type]  # the table names outcomes
    assert (outcomes(counted), gateway.in_hand) == (before + 1, 0)
    took = value("mqtt_service_command_send_seconds_sum", type="reboot") - seconds
    assert (took >= 2.0) == (outcome == "sent")


@respx.mock
@pytest.mark.parametrize(("result", "left"), [("stale", 0), ("refused", 1)])
async def test_what_was_not_settled_is_not_counted(client: AsyncClient, result: str, left: int) -> None:
    gateway = await claimed(client)
    before = outcomes("sent")
    respx.post(SETTLE).respond(json=[{"command_id": str(COMMAND), "result": result}])
    await gateway.settle([Settlement(COMMAND, 1, "sent")])
    assert (outcomes("sent"), gateway.in_hand) == (before, left)


@respx.mock
async def test_answers_are_counted_by_type_with_how_long_the_device_took(client: AsyncClient) -> None:
    gateway = MeasuredAcknowledgementGateway(DatabaseFunctions(client), "w1", POLICY)
    row = AcknowledgementRow("r1", "device", "AA", "success", None, None, None, {})
    before, seconds = (
        outcomes("device_acknowledged"),
        value("mqtt_service_command_answer_seconds_sum", type="reboot"),
    )
    answer = {"ref": "r1", "result": "acknowledged", "command_type": "reboot", "seconds_since_sent": 7.5}
    respx.post(ACKNOWLEDGE).respond(json=[answer, {**answer, "result": "duplicate"}])
    await gateway.acknowledge([row, row])
    assert outcomes("device_acknowledged") == before + 1
    assert value("mqtt_service_command_answer_seconds_sum", type="reboot") == seconds + 7.5


@respx.mock
async def test_an_answer_of_the_migrations_before_is_counted_too(client: AsyncClient) -> None:
    gateway = MeasuredAcknowledgementGateway(DatabaseFunctions(client), "w1", POLICY)
    before = outcomes("device_acknowledged")
    respx.post(ACKNOWLEDGE).respond(json=[{"ref": "r1", "result": "acknowledged", "command_type": "reboot"}])
    await gateway.acknowledge([AcknowledgementRow("r1", "device", "AA", "success", None, None, None, {})])
    assert outcomes("device_acknowledged") == before + 1


@respx.mock
async def test_the_database_is_asked_for_the_queue_every_ten_seconds_at_most(client: AsyncClient) -> None:
    now = [0.0]
    gauge = QueueGauge(DatabaseFunctions(client), lambda: now[0])
    measures = {
        "due": 3,
        "scheduled": 2,
        "leased": 1,
        "retry": 0,
        "held": 0,
        "sent": 5,
        "oldest_due_seconds": 61.5,
    }
    route = respx.post(MEASURE).respond(json=measures)
    for now[0] in (0.0, 9.9, 10.0):
        await gauge.refresh()
    assert route.call_count == 2
    assert value("mqtt_service_queued_commands", state="due") == 3
    assert value("mqtt_service_oldest_due_command_seconds") == 61.5
    route.respond(503)
    now[0] = 20.0
    await gauge.refresh()
    due = value("mqtt_service_queued_commands", state="due")
    assert due != due  # noqa: PLR0124 - not a number: nobody knows


@respx.mock
@pytest.mark.parametrize(("status", "outcome"), [(200, "answered"), (503, "failed")])
async def test_calls_are_measured_by_function_and_outcome(
    client: AsyncClient, status: int, outcome: str
) -> None:
    labels = {"function": "fn_measure_queue", "outcome": outcome}
    before = value("mqtt_service_supabase_call_seconds_count", **labels)
    respx.post(MEASURE).respond(status, json={})
    with pytest.raises(SupabaseUnavailableError):  # {} is not what it should be
        await DatabaseFunctions(client).call("fn_measure_queue", MEASURES)
    assert value("mqtt_service_supabase_call_seconds_count", **labels) == before + 1
