"""The backfill against a scripted API: pages, faults, and what it tells of each device."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from mqtt_service import backoff
from mqtt_service.adapters.supabase.devices import ProvisioningGateway
from mqtt_service.adapters.supabase.transport import DatabaseFunctions, connect
from mqtt_service.devices.backfill import Backfill, Outcome, complete_lineage, count_issues, find_incomplete
from mqtt_service.errors import PermanentError, SupabaseUnavailableError

URL = "http://supabase.test"
FIND = f"{URL}/rest/v1/rpc/fn_find_devices_with_incomplete_lineage"
INITIALIZE = f"{URL}/rest/v1/rpc/fn_initialize_device_after_mapping"
SITE = "00000000-0000-4000-8000-0000000000a1"


@pytest.fixture
async def gateway() -> AsyncIterator[ProvisioningGateway]:
    client = await connect(URL, "sb_secret_test")
    yield ProvisioningGateway(DatabaseFunctions(client))
    await client.postgrest.aclose()


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(backoff, "_LONGEST_BRIEF_DELAY", 0.0)


def device_row(number: int, **changes: object) -> dict[str, object]:
    return {
        "device_id": f"00000000-0000-4000-8000-{number:012d}",
        "device_code": f"DEVICE-{number}",
        "device_name": None,
        "device_mac": f"{number:012X}",
        "issue": "not_active",
        "fixable": True,
        "assigned_site_id": SITE,
        "assigned_program_id": None,
        **changes,
    }


class Table:
    """What the API's two functions answer, a page at most `max_rows` long."""

    def __init__(self, rows: list[dict[str, object]], max_rows: int) -> None:
        self.rows = rows
        self.max_rows = max_rows
        self.refusals: dict[object, str] = {}

    def find(self, request: httpx.Request) -> httpx.Response:
        after = request.url.params.get("device_id", "gt.").removeprefix("gt.")
        assert request.url.params["order"].startswith("device_id")
        page = [row for row in self.rows if str(row["device_id"]) > after]
        return httpx.Response(200, json=page[: min(self.max_rows, int(request.url.params["limit"]))])

    def initialize(self, request: httpx.Request) -> httpx.Response:
        device_id = json.loads(request.content)["p_device_id"]
        if device_id in self.refusals:
            return httpx.Response(200, json={"success": False, "error": self.refusals[device_id]})
        self.rows = [row for row in self.rows if row["device_id"] != device_id]
        return httpx.Response(200, json={"success": True, "message": "active", "welcome_due": True})

    def serve(self) -> "Table":
        respx.post(FIND).mock(side_effect=self.find)
        respx.post(INITIALIZE).mock(side_effect=self.initialize)
        return self


async def run(gateway: ProvisioningGateway) -> Backfill:
    backfill = Backfill(found=await find_incomplete(gateway))
    heard: list[Outcome] = []
    await complete_lineage(gateway, backfill, heard.append)
    assert heard == backfill.outcomes
    return backfill


@respx.mock
@pytest.mark.parametrize("max_rows", [1, 2, 3, 7, 1000])
async def test_a_page_that_the_api_cuts_short_is_not_taken_for_the_last(
    gateway: ProvisioningGateway, max_rows: int
) -> None:
    Table([device_row(number) for number in range(7)], max_rows).serve()
    assert [device.device_code for device in await find_incomplete(gateway)] == [
        f"DEVICE-{number}" for number in range(7)
    ]


@respx.mock
async def test_devices_come_grouped_by_issue(gateway: ProvisioningGateway) -> None:
    issues = ["not_active", "missing_company", "not_active"]
    Table([device_row(number, issue=issue) for number, issue in enumerate(issues)], 2).serve()
    found = await find_incomplete(gateway)
    assert [device.issue for device in found] == ["missing_company", "not_active", "not_active"]
    assert count_issues(found) == {"not_active": 2, "missing_company": 1}


@respx.mock
async def test_each_device_is_fixed_or_failed_or_skipped_with_the_reason(
    gateway: ProvisioningGateway,
) -> None:
    table = Table(
        [
            device_row(1),
            device_row(2),
            device_row(3, fixable=False, assigned_site_id=None, issue="no_active_assignment"),
            device_row(4, fixable=False, issue="missing_program"),
        ],
        1000,
    ).serve()
    table.refusals[device_row(2)["device_id"]] = "the site is of another company"
    backfill = await run(gateway)
    results = {outcome.device.device_code: (outcome.result, outcome.reason) for outcome in backfill.outcomes}
    assert results["DEVICE-1"] == ("fixed", None)
    assert results["DEVICE-2"] == ("failed", "the site is of another company")
    assert results["DEVICE-3"] == ("skipped", "it is assigned to no site: map it to one")
    assert results["DEVICE-4"][0] == "skipped"
    assert "missing_program" in str(results["DEVICE-4"][1])
    assert not backfill.succeeded
    assert [device.device_code for device in backfill.remaining or ()] == ["DEVICE-4", "DEVICE-3", "DEVICE-2"]


@respx.mock
async def test_a_run_that_leaves_only_what_cannot_be_fixed_has_succeeded(
    gateway: ProvisioningGateway,
) -> None:
    Table([device_row(1), device_row(2, fixable=False)], 1000).serve()
    assert (await run(gateway)).succeeded


@respx.mock
async def test_a_lost_response_is_asked_for_again(gateway: ProvisioningGateway) -> None:
    table = Table([device_row(1)], 1000).serve()
    faults: list[httpx.Response | httpx.ReadError] = [httpx.ReadError("gone"), httpx.Response(503)]

    def in_turn(request: httpx.Request) -> httpx.Response:
        fault = faults.pop(0) if faults else table.initialize(request)
        if isinstance(fault, httpx.ReadError):
            raise fault
        return fault

    respx.post(INITIALIZE).mock(side_effect=in_turn)
    assert (await run(gateway)).succeeded


@respx.mock
async def test_it_stops_when_the_database_answers_no_more(gateway: ProvisioningGateway) -> None:
    Table([device_row(number) for number in range(100)], 1000).serve()
    route = respx.post(INITIALIZE).mock(side_effect=httpx.ConnectError("refused"))
    backfill = Backfill(found=await find_incomplete(gateway))
    with pytest.raises(SupabaseUnavailableError, match="run it again later"):
        await complete_lineage(gateway, backfill, lambda outcome: None)
    assert 0 < len(backfill.with_result("failed")) < 100
    assert backfill.remaining is None
    assert route.call_count < 100


@respx.mock
async def test_a_refused_key_ends_the_search_at_once(gateway: ProvisioningGateway) -> None:
    route = respx.post(FIND).respond(401, json={"message": "Invalid API key"})
    with pytest.raises(PermanentError, match="SUPABASE_SECRET_KEY"):
        await find_incomplete(gateway)
    assert route.call_count == 1
