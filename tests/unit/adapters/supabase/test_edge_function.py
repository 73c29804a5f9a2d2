"""The call of an edge function: what goes out, and what each answer means. A scripted transport."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from mqtt_service.adapters.supabase.edge_function import EdgeFunction, request_body
from mqtt_service.errors import PermanentError, SupabaseUnavailableError

URL = "http://supabase.test"
FUNCTION = f"{URL}/functions/v1/mqtt_device_handler"
TOPIC = "device/AABBCCDDEEFF/status"
KEY = "sb_secret_test"


@pytest.fixture
async def function() -> AsyncIterator[EdgeFunction]:
    made = EdgeFunction(URL, KEY, "mqtt_device_handler", timeout=5)
    yield made
    await made.close()


@respx.mock
async def test_a_message_goes_out_as_topic_and_payload_with_the_key(function: EdgeFunction) -> None:
    route = respx.post(FUNCTION).respond(204)
    await function.hand_over(TOPIC, b'{"status": "alive"}')
    request = route.calls.last.request
    assert json.loads(request.content) == {"topic": TOPIC, "payload": {"status": "alive"}}
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["apikey"] == KEY


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a": {"b": [1, null]}}', {"payload": {"a": {"b": [1, None]}}}),
        (b'\xef\xbb\xbf {"a": 1}\n', {"payload": {"a": 1}}),
        ('{"ort": "Käfig"}'.encode(), {"payload": {"ort": "Käfig"}}),
        (rb'{"a": "\ud800"}', {"payload": {"a": "\ud800"}}),
        (b"[1, 2]", {"payload": "[1, 2]"}),
        (b'"alive"', {"payload": '"alive"'}),
        (b"alive", {"payload": "alive"}),
        (b"", {"payload": ""}),
        (b'{"a": NaN}', {"payload": '{"a": NaN}'}),
        (b'{"a": 1, "a": 2}', {"payload": '{"a": 1, "a": 2}'}),
        (b'\x00\n"\\', {"payload": '\x00\n"\\'}),
        (b"\xff\xd8\xff", {"payload": "/9j/", "payload_encoding": "base64"}),
    ],
)
def test_a_payload_is_the_object_that_it_is_else_text_else_base64(
    payload: bytes, expected: dict[str, object]
) -> None:
    assert json.loads(request_body(TOPIC, payload)) == {"topic": TOPIC, **expected}


def test_an_object_is_passed_on_to_the_letter() -> None:
    assert b'{"big": 12345678901234567890123, "exact": 0.10}' in request_body(
        TOPIC, b'{"big": 12345678901234567890123, "exact": 0.10}'
    )


def test_what_is_nested_without_end_is_passed_on_as_text() -> None:
    payload = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    assert json.loads(request_body(TOPIC, payload))["payload"] == payload.decode()


@respx.mock
@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 546])
async def test_an_answer_that_waiting_can_mend_brings_its_wish_along(
    function: EdgeFunction, status: int
) -> None:
    respx.post(FUNCTION).respond(status, headers={"Retry-After": "7"}, json={"error": "busy"})
    with pytest.raises(SupabaseUnavailableError, match=f"answered {status}: busy") as caught:
        await function.hand_over(TOPIC, b"{}")
    assert caught.value.retry_after == 7


@respx.mock
@pytest.mark.parametrize(
    ("status", "says"),
    [
        (302, "answered 302"),
        (400, "answered 400: no such sensor"),
        (401, "--no-verify-jwt"),
        (404, "EDGE_FUNCTION"),
        (409, "answered 409"),
        (413, "answered 413"),
        (422, "answered 422"),
    ],
)
async def test_any_other_answer_is_a_refusal_that_says_what_to_do(
    function: EdgeFunction, status: int, says: str
) -> None:
    respx.post(FUNCTION).respond(
        status, headers={"Location": "http://elsewhere.test"}, json={"error": "no such sensor"}
    )
    with pytest.raises(PermanentError, match=says):
        await function.hand_over(TOPIC, b"{}")
    assert len(respx.calls) == 1


@respx.mock
@pytest.mark.parametrize("status", [200, 500])
async def test_a_message_that_supabase_could_not_relay_is_tried_again(
    function: EdgeFunction, status: int
) -> None:
    respx.post(FUNCTION).respond(status, headers={"x-relay-error": "true"}, text="no worker")
    with pytest.raises(SupabaseUnavailableError, match="no worker"):
        await function.hand_over(TOPIC, b"{}")


@respx.mock
@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("no answer"),
        httpx.RemoteProtocolError("Server disconnected"),
        httpx.LocalProtocolError(f"Illegal header value {KEY}"),
    ],
)
async def test_a_fault_of_the_network_is_tried_again_and_shows_no_key(
    function: EdgeFunction, fault: httpx.HTTPError
) -> None:
    respx.post(FUNCTION).mock(side_effect=fault)
    with pytest.raises(SupabaseUnavailableError, match="mqtt_device_handler") as caught:
        await function.hand_over(TOPIC, b"{}")
    assert KEY not in str(caught.value)


@respx.mock
async def test_what_a_function_says_of_itself_is_cut_short(function: EdgeFunction) -> None:
    respx.post(FUNCTION).respond(400, json={"error": {"stack": "x" * 10_000}})
    with pytest.raises(PermanentError) as caught:
        await function.hand_over(TOPIC, b"{}")
    assert len(str(caught.value)) < 300


@respx.mock
async def test_a_web_page_is_no_function_that_has_the_message(function: EdgeFunction) -> None:
    respx.post(FUNCTION).respond(200, html="<!doctype html><title>Sign in</title>")
    with pytest.raises(SupabaseUnavailableError, match="not the Supabase API"):
        await function.hand_over(TOPIC, b"{}")
