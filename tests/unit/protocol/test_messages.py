"""Whatever a device sends becomes one message or one typed error, and can be stored."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mqtt_service.errors import RemoteProtocolError
from mqtt_service.protocol.lenient_json import Repair
from mqtt_service.protocol.messages import (
    Acknowledgement,
    Heartbeat,
    LastWill,
    Outcome,
    ServiceMessage,
    parse_ack,
    parse_heartbeat,
)
from mqtt_service.protocol.topics import Topic
from mqtt_service.protocol.wire_json import DEEPEST, LARGEST_MESSAGE

MAC = "AA:BB:CC:DD:EE:FF"
ACK = Topic("device", MAC, "ack")
STATUS = Topic("ESP32CAM", "b8f862f9cfb8", "status")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
known_keys = st.sampled_from(
    [
        *(
            "device_id",
            "command_id",
            "command_ack",
            "message",
            "reason",
            "ACK_OK",
            "missing_chunks",
            "status",
        ),
        *("alive", "pendingImg", "pending_count", "pending_list", "battery_voltage", "wifi_rssi"),
    ]
)
likely_documents = st.dictionaries(known_keys | st.text(max_size=3), json_values, max_size=6)


def ack(document: object, topic: Topic = ACK) -> Acknowledgement:
    answer = parse_ack(topic, json.dumps(document).encode())
    assert isinstance(answer, Acknowledgement)
    return answer


def heartbeat(document: object) -> Heartbeat:
    return hello(json.dumps(document).encode())


def hello(payload: bytes) -> Heartbeat:
    said = parse_heartbeat(STATUS, payload)
    assert isinstance(said, Heartbeat)
    return said


@given(st.binary())
@example(b"[" * 60_000)
@example(b'{"command_ack":' * 4_000)
@example(b'{"command_ack":"ok","n":' + b"9" * 50_000 + b"}")
@example(b'{"command_ack":"ok","n":1e999}')
def test_any_bytes_are_a_message_or_a_remote_fault(payload: bytes) -> None:
    for read, topic in ((parse_ack, ACK), (parse_heartbeat, STATUS)):
        with suppress(RemoteProtocolError):
            assert read(topic, payload).device == topic.device


@given(likely_documents)
def test_any_document_is_a_message_that_can_be_stored_or_a_remote_fault(document: dict[str, Any]) -> None:
    payload = json.dumps(document).encode()
    try:
        answer = parse_ack(ACK, payload)
    except RemoteProtocolError:
        answer = None
    if isinstance(answer, Acknowledgement):
        stored = json.dumps(dict(answer.response), ensure_ascii=False, allow_nan=False)
        assert "\\u0000" not in stored
        stored.encode()
    said = parse_heartbeat(STATUS, payload)
    if isinstance(said, LastWill):
        return
    assert said.pending_count >= 0
    assert len(said.pending_names) <= 10


def test_the_plain_form_is_about_the_command_sent_last() -> None:
    answer = ack({"device_id": MAC, "command_ack": "acknowledged"})
    assert (answer.outcome, answer.command_id, answer.command_type, answer.message) == (
        "success",
        None,
        None,
        None,
    )
    assert (answer.root, answer.device) == ("device", MAC)


def test_the_typed_form_is_about_the_command_of_that_type() -> None:
    detail = {"type": "set_wake_schedule", "status": "success", "message": "will do"}
    answer = ack({"device_id": MAC, "command_ack": detail})
    assert (answer.outcome, answer.command_type, answer.message) == (
        "success",
        "set_wake_schedule",
        "will do",
    )


def test_the_named_form_is_about_that_command() -> None:
    document = {"device_id": MAC, "command_id": "0f9c", "command_ack": "failed", "reason": "sd card full"}
    answer = ack(document)
    assert (answer.outcome, answer.command_id, answer.message) == ("failed", "0f9c", "sd card full")
    assert answer.response == document


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        *(
            (word, "success")
            for word in ("acknowledged", "ok", "success", "done", "true", True, " OK ", "Done")
        ),
        *((word, "failed") for word in ("failed", "error", "Error")),
        *((word, "rejected") for word in ("rejected", "unsupported")),
    ],
)
def test_each_word_has_its_meaning_in_both_forms(word: object, outcome: Outcome) -> None:
    assert ack({"command_ack": word}).outcome == outcome
    assert ack({"command_ack": {"status": word}}).outcome == outcome


@pytest.mark.parametrize("word", ["", "maybe", False, None, 1, [], {}, {"status": None}, {"type": "reboot"}])
def test_any_other_word_is_a_remote_fault(word: object) -> None:
    with pytest.raises(RemoteProtocolError, match="neither done nor failed"):
        ack({"command_ack": word})


@pytest.mark.parametrize("command_id", [7, True, [], {}, "x" * 256])
def test_an_unreadable_command_id_never_means_the_command_sent_last(command_id: object) -> None:
    with pytest.raises(RemoteProtocolError, match="not one that this service sends"):
        ack({"command_ack": "ok", "command_id": command_id})


@pytest.mark.parametrize("command_id", [None, ""])
def test_an_empty_command_id_is_none(command_id: object) -> None:
    assert ack({"command_ack": "ok", "command_id": command_id}).command_id is None


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"device_id": MAC, "image_name": "a.jpg", "missing_chunks": [5, 10]}, "missing_chunks"),
        ({"device_id": MAC, "image_name": "a.jpg", "ACK_OK": {"next_wake_time": "5:30PM"}}, "ACK_OK"),
    ],
)
def test_what_the_service_said_itself_is_never_an_acknowledgement(document: object, kind: str) -> None:
    answer = parse_ack(ACK, json.dumps(document).encode())
    assert answer == ServiceMessage("device", MAC, kind, "a.jpg")  # type: ignore[arg-type]  # one of the two


@pytest.mark.parametrize(
    ("claimed", "reported"),
    [
        ("aabbccddeeff", None),
        (MAC, None),
        (None, None),
        (5, None),
        ("BB:BB:CC:DD:EE:01", "BB:BB:CC:DD:EE:01"),
    ],
)
def test_the_topic_says_who_speaks_and_another_name_is_reported(
    claimed: object, reported: str | None
) -> None:
    answer = ack({"device_id": claimed, "command_ack": "ok"})
    assert (answer.device, answer.claimed_device) == (MAC, reported)


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"", "not a JSON object"),
        (b"acknowledged", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b'["command_ack"]', "not a JSON object: it is a JSON list"),
        (b"null", "not a JSON object: it is a JSON NoneType"),
        (b"{}", "no command_ack"),
        (b'{"command_ack": "ok", "command_ack": "failed"}', "has command_ack twice"),
        (b'{"command_ack": "ok", "x": "' + b"y" * LARGEST_MESSAGE + b'"}', f"the limit is {LARGEST_MESSAGE}"),
        (b'{"command_ack": "ok", "x": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}", f"deeper than {DEEPEST}"),
        (b'{"command_ack": "ok", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "cannot be read to its end"),
    ],
)
def test_what_cannot_be_read_says_why(payload: bytes, fault: str) -> None:
    with pytest.raises(RemoteProtocolError, match=fault):
        parse_ack(ACK, payload)


def test_what_postgres_cannot_store_is_replaced() -> None:
    answer = parse_ack(ACK, rb'{"command_ack": "failed", "message": "a\u0000b\ud800", "k\u0000": ["\udfff"]}')
    assert isinstance(answer, Acknowledgement)
    assert answer.message == "a\ufffdb\ufffd"
    assert answer.response["k\ufffd"] == ["\ufffd"]


def test_a_long_reason_is_cut() -> None:
    message = ack({"command_ack": "failed", "reason": "x" * 5_000}).message
    assert message == "x" * 500


def test_a_message_is_read_for_the_channel_that_it_came_on() -> None:
    with pytest.raises(RemoteProtocolError, match="…/status"):
        parse_ack(STATUS, b'{"command_ack": "ok"}')
    with pytest.raises(RemoteProtocolError, match="…/ack"):
        parse_heartbeat(ACK, b'{"alive": true}')


def test_a_hello_says_what_is_pending() -> None:
    said = heartbeat(
        {
            "device_id": "B8F862F9CFB8",
            "status": "alive",
            "pendingImg": 2,
            "pending_list": ["image_1.jpg", "image_2.jpg"],
            "firmware_version": "1.4.2",
            "battery_voltage": 3.91,
            "wifi_rssi": -67,
            "location": "ward 4",
        }
    )
    assert said == Heartbeat(
        "ESP32CAM", "b8f862f9cfb8", 2, ("image_1.jpg", "image_2.jpg"), "1.4.2", 3.91, -67, "ward 4", None
    )


@pytest.mark.parametrize(
    ("document", "pending"),
    [
        ({"status": "Alive"}, 0),
        ({"alive": True}, 0),
        ({"alive": True, "pending_count": 3}, 3),
        ({"alive": True, "pendingImg": "4"}, 4),
        ({"alive": True, "pending_list": ["a.jpg"]}, 1),
        ({"alive": True, "pendingImg": -1}, 0),
        ({"alive": True, "pendingImg": {"a": 1}, "pending_list": ["a.jpg"]}, 1),
    ],
)
def test_every_spelling_of_a_hello_is_read(document: object, pending: int) -> None:
    assert heartbeat(document).pending_count == pending


@pytest.mark.parametrize("written", ["NaN", "nan", "-inf", "1e999"])
def test_a_hello_with_a_number_that_is_none_is_answered_all_the_same(written: str) -> None:
    said = hello(f'{{"status": "alive", "battery_voltage": {written}, "wifi_rssi": -67}}'.encode())
    assert (said.battery_voltage, said.wifi_rssi) == (None, -67)


def test_an_unreadable_extra_does_not_cost_a_device_its_answer() -> None:
    names = ["ok.jpg", "", "x" * 300, "a\nb", 7, "ok.jpg", *(f"{n}.jpg" for n in range(20))]
    said = heartbeat(
        {
            "status": "alive",
            "pending_list": names,
            "battery_voltage": "high",
            "wifi_rssi": 1e300,
            "location": 4,
        }
    )
    assert said.pending_names == ("ok.jpg", *(f"{n}.jpg" for n in range(9)))
    assert (said.battery_voltage, said.wifi_rssi, said.location) == (None, None, None)


@pytest.mark.parametrize(
    ("payload", "pending", "kinds"),
    [
        (b'{"status": "alive"}', 0, set()),
        (b'{"status": "online"}', 0, set()),
        (b"{}", 0, set()),
        (b'{"pendingImg": 2}', 2, set()),
        (b'{"status": null, "status_code": 3}', 0, set()),
        (b'{"status": "alive", "pendingImg": 2}\0\0\0', 2, {"trailing_bytes"}),
        (
            b'{"status": "alive", "pendingImg": 2}ng_list": ["a.jpg"]}\xff\xfe',
            2,
            {"trailing_bytes", "encoding"},
        ),
        (b'{"status": "alive", "pendingImg": 2,}', 2, {"trailing_comma"}),
        (b"{'status': 'alive', 'pendingImg': 2}", 2, {"quotes"}),
        (b'{"status": "alive", "location": "k\xfcche", "pendingImg": 2}', 2, {"encoding"}),
        (b'{"status": "alive", "location": "ward\n4", "pendingImg": 2}', 2, {"control_character"}),
        (b'{"status": "alive", "status": "alive", "pendingImg": 2}', 2, {"duplicate_key"}),
        (b'{"status":"Alive"', 0, {"cut_off"}),
        (b'{"pendingImg": 2, "status":"Ali', 2, {"cut_off"}),
        (b'{"pendingImg": 2, "pending_list": ["a.jpg", "b.jp', 2, {"cut_off"}),
        (
            b"{status: alive, alive: True, pendingImg: 02}",
            2,
            {"unquoted_key", "unquoted_text", "constant", "number"},
        ),
        (b'{"status":"alive" "pendingImg":2}', 2, {"missing_comma"}),
        (b'{"battery_voltage":,"status":"alive","pendingImg":2}', 2, {"missing_value"}),
        (b'[{"status": "alive", "pendingImg": 2}]', 2, {"wrapped"}),
        (b'"{\\"status\\": \\"alive\\", \\"pendingImg\\": 2}"', 2, {"wrapped"}),
        (b'\0{"status": "alive", "pendingImg": 2}', 2, {"control_character"}),
        (b'{"status": "alive"\0, "pendingImg": 2}', 2, {"nul"}),
        (
            b"{'pendingImg': 2, 'status': 'isn't it'}",
            2,
            {"quotes", "unquoted_key", "missing_comma", "unreadable_rest"},
        ),
        (
            b"{pendingImg: 2, status: offline perhaps}",
            2,
            {"unquoted_key", "unquoted_text", "missing_comma", "unreadable_rest"},
        ),
        (b'{"status": "alive", "x": "\\q", "pendingImg": 2}', 2, {"escape"}),
        (b'{"pendingImg": 2, "status" "alive"}', 2, {"unreadable_rest"}),
        (b"alive", 0, {"plain_text"}),
        (b"ONLINE\r\n", 0, {"plain_text"}),
        (b'"awake"\0', 0, {"plain_text"}),
        (b"hello there", 0, {"unreadable"}),
        (b"\0", 0, {"unreadable"}),
        (b"\xff\xd8\xff", 0, {"unreadable"}),
        (b"[" * 5000, 0, {"unreadable"}),
        (b'{"a":' + b"[" * 5000, 0, {"unreadable_rest"}),
        (b'{"a":"' + b"x" * LARGEST_MESSAGE, 0, {"too_large"}),
        (b'{"status": "offline", "status": "alive"}', 0, {"duplicate_key"}),
    ],
)
def test_whatever_a_device_says_on_status_is_a_hello(
    payload: bytes, pending: int, kinds: set[Repair]
) -> None:
    """The topic says who speaks; slips of firmware that prints its JSON, and its whole buffer, with printf.

    The strict form is RFC 8259.
    """
    said = hello(payload)
    assert (said.device, said.pending_count, set(said.repairs)) == (STATUS.device, pending, kinds)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"offline",
        b"OFFLINE\n",
        b"\xef\xbb\xbfoffline",
        b'"Offline"\0\0',
        b'{"status": "offline"}',
        b'{"status": "Offline", "device_id": "x"}\0',
        b"{'status': 'offline',}",
        b'{"status": "offline"',
        b'{"alive": false}',
    ],
)
def test_a_last_will_is_no_hello(payload: bytes) -> None:
    """MQTT 3.1.1, section 3.1.2.5: the broker publishes it for a device that is gone.

    An empty payload is how a retained message is deleted (section 3.3.1.3).
    """
    assert parse_heartbeat(STATUS, payload) == LastWill(STATUS.root, STATUS.device)


ID = "0f9c2c1e-6f0b-4d36-9a53-0d8f7f7a2b11"


@pytest.mark.parametrize(
    ("payload", "outcome", "command_id"),
    [
        (b'{"command_ack": "success"}\0\0', "success", None),
        (
            b'{"command_ack": "success", "command_id": "%s"}\0"command_id": "other"}' % ID.encode(),
            "success",
            ID,
        ),
        (b'{"command_ack": "failed", "reason": "no\nroom",}', "failed", None),
        (b"{'command_ack': True, 'command_id': None}", "success", None),
        (b"{command_ack: ok}", "success", None),
        (b'{"command_ack": "ok", "x": NaN}', "success", None),
        (b'{"command_ack": "ok", "x": {"a": 1, "a": 1}}', "success", None),
        (b'{"command_ack": "ok", "command_ack": "ok"}', "success", None),
        (b'{"command_id": "%s", "command_ack": "ok", "rea' % ID.encode(), "success", ID),
        (b'{"command_id": "%s", "command_ack": {"status": "failed"' % ID.encode(), "failed", ID),
        (b'{"command_ack": "failed", "reason": "\xfcber"}', "failed", None),
        (b'{"command_ack": "success", "message": "done\0\0\0"}', "success", None),
    ],
)
def test_an_answer_is_repaired_in_its_form(payload: bytes, outcome: str, command_id: str | None) -> None:
    answer = parse_ack(ACK, payload)
    assert isinstance(answer, Acknowledgement)
    assert (answer.outcome, answer.command_id) == (outcome, command_id)
    assert answer.repairs


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b'{"command_id": "1", "command_ack":"success', "no command_ack"),
        (b'{"command_id": "1", "command_ack":succ', "no command_ack"),
        (b'{"command_id": "1", "command_ack":{"status":"succ', "neither done nor failed"),
        (b'{"command_ack":"success"', "may have lost its command_id"),
        (b'{"command_ack":"success","command_id":"0f9c', "may have lost its command_id"),
        (b'{"command_ack":"success","command_id":,}', "may have lost its command_id"),
        (b'{"command_ack":"success","command_id":nan}', "may have lost its command_id"),
        (b'{"command_ack":"success","command\xff_id":"1"}', "may have lost its command_id"),
        (b'{"command_ack":"success"},"command_id":"1"}', "may have lost its command_id"),
        (rb'{"command_ack":"success","command\_id":"1"}', "may have lost its command_id"),
        (b'{"command_ack":\0"success","command_id":"1"}', "has a NUL within"),
        (b'{"command_id":"1",\0"command_ack":"success"}', "has a NUL within"),
        (b'{"message":"no\0t ok","command_ack":"success"}', "has a NUL within"),
        (b'{"image_name":"a.jpg","ACK_OK":{},}', "no command_ack"),
        (b"{command_id:1a,command_ack:ok not}", "cannot be read to its end|no command_ack"),
        (b'{"command_ack":"success","command_id":"0f9\xff"}', "not one that this service sends"),
        (b'{"command_ack":"failed","command_ack":"ok"}', "has command_ack twice"),
        (b'{"command_ack":{"status":"failed","status":"ok"}}', "has status twice"),
        (b'{"command_ack":"ok","command_id":"1","command_id":"2"}', "has command_id twice"),
        (b'{"command_ack":"ok","command_id":"1","x" 2}', "cannot be read to its end"),
        (b'{"command_ack":"succe\xff\xff"}', "neither done nor failed"),
        (b'["ok"]', "not a JSON object"),
    ],
)
def test_an_answer_is_never_repaired_in_its_meaning(payload: bytes, fault: str) -> None:
    """Without a command_id, an answer is for the command sent last: so an id that may be lost counts."""
    with pytest.raises(RemoteProtocolError, match=fault):
        parse_ack(ACK, payload)


def test_a_pending_name_that_is_not_as_the_device_has_it_is_not_asked_for() -> None:
    said = hello(b'{"status": "alive", "pendingImg": 2, "pending_list": ["k\xfcche.jpg", "b.jpg"]}')
    assert (said.pending_count, said.pending_names) == (2, ("b.jpg",))


# Progress


@pytest.mark.parametrize(
    ("said", "progress"),
    [
        (40, 40), (0, 0), (100, 100), (99.6, 100), ("40", 40), ("40%", 40), (" 40 % ", 40), (0.4, 40),
        ("0.4", 40), ("0.4%", 0), (1, 1), (1.0, 1), (140, 100), ("1e9", 100), (-1, None), (True, None),
        ("half", None), ([40], None), (None, None), ("", None), ("nan", None), (10**400, None),
    ],
)  # fmt: skip
def test_progress_is_read_as_per_cent(said: object, progress: int | None) -> None:
    document = {"command_id": "x", "command_ack": "in_progress", "progress": said}
    answer = parse_ack(ACK, json.dumps(document).encode())
    assert isinstance(answer, Acknowledgement)
    assert (answer.outcome, answer.progress) == ("in_progress", progress)


@pytest.mark.parametrize(
    "word", ["in_progress", "In Progress", "in-progress", "inProgress", "RUNNING", "progress "]
)
def test_that_it_is_in_progress_is_said_in_many_ways(word: str) -> None:
    document = {
        "command_ack": {"type": "update_firmware", "status": word, "percent": "55 %", "message": "x" * 9999}
    }
    answer = parse_ack(ACK, json.dumps(document).encode())
    assert isinstance(answer, Acknowledgement)
    assert (answer.outcome, answer.progress, answer.command_type) == ("in_progress", 55, "update_firmware")
    assert answer.message == "x" * 500


def test_only_progress_has_a_share() -> None:
    answer = parse_ack(ACK, b'{"command_ack": "success", "progress": 100}')
    assert isinstance(answer, Acknowledgement)
    assert answer.progress is None


@pytest.mark.parametrize(
    "payload",
    [
        b'{"command_id": "x", "command_ack": "in_progress", "progress": 4',
        b'{"command_id": "x", "command_ack": "in_progress", "progress": 40, "progress": 60}',
    ],
)
def test_a_share_that_is_not_certain_is_left_out(payload: bytes) -> None:
    answer = parse_ack(ACK, payload)
    assert isinstance(answer, Acknowledgement)
    assert (answer.outcome, answer.command_id, answer.progress) == ("in_progress", "x", None)


_SLOPPY = st.one_of(
    json_values, st.floats(), st.integers(-200, 200).map(lambda share: f" {share} % "), st.text(max_size=8)
)
_SAID = st.sampled_from(["progress", "percent", "message", "command_id", "reason"])


@given(said=st.dictionaries(_SAID, _SLOPPY), nested=st.booleans())
def test_no_sloppy_progress_ends_a_command_or_breaks_the_reader(
    said: dict[str, object], nested: bool
) -> None:
    part = {"status": "in_progress", **said}
    document = {"command_ack": part} if nested else {"command_ack": "in_progress", **said}
    try:
        answer = parse_ack(ACK, json.dumps(document).encode())
    except RemoteProtocolError:
        assert said.get("command_id") is not None  # one that may be another's
        return
    assert isinstance(answer, Acknowledgement)
    assert answer.outcome == "in_progress"
    assert answer.progress is None or 0 <= answer.progress <= 100
    assert answer.message is None or len(answer.message) <= 500
