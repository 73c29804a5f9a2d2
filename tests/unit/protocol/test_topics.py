"""Topics are taken apart and put together, and none is made that a broker would close the connection over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqtt_service.errors import LocalProtocolError, RemoteProtocolError
from mqtt_service.protocol.topics import (
    Topic,
    ack_topic,
    command_topic,
    device_key,
    parse_topic,
    subscriptions,
)

UNUSABLE_IDS = [
    "",
    "a+b",
    "a#b",
    "a/b",
    "a\0b",
    "a\nb",
    "a\x9fb",
    "a\ud800b",
    "a\ufdd0b",
    "a\U0001ffffb",
    "x" * 257,
]

usable_ids = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="+#/"), min_size=1, max_size=256
)


@given(st.sampled_from(["device", "ESP32CAM"]), usable_ids)
def test_a_topic_that_we_make_is_read_back_as_it_was(root: str, device: str) -> None:
    assert parse_topic(command_topic(root, device)) == Topic(root, device, "cmd")  # type: ignore[arg-type]  # a Root
    assert parse_topic(ack_topic(root, device)) == Topic(root, device, "ack")  # type: ignore[arg-type]  # a Root


@given(st.text())
def test_any_text_is_a_topic_or_a_remote_fault(text: str) -> None:
    try:
        topic = parse_topic(text)
    except RemoteProtocolError:
        return
    assert text == f"{topic.root}/{topic.device}/{topic.channel}"


@pytest.mark.parametrize("device", UNUSABLE_IDS)
def test_no_topic_is_made_of_an_id_that_no_topic_can_carry(device: str) -> None:
    for make in (command_topic, ack_topic):
        with pytest.raises(LocalProtocolError, match=r"correct devices\.device_mac"):
            make("device", device)


@pytest.mark.parametrize("device", UNUSABLE_IDS)
def test_a_received_topic_with_such_an_id_is_a_remote_fault(device: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_topic(f"device/{device}/ack")


@pytest.mark.parametrize(
    "topic", ["", "/", "device", "device/x", "devices/x/ack", "device/x/ACK", "ESP32cam/x/data"]
)
def test_a_topic_of_another_kind_is_a_remote_fault(topic: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_topic(topic)


def test_an_unknown_root_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError, match="mqtt_root 'house' is unknown"):
        command_topic("house", "a")


@pytest.mark.parametrize(
    ("spelled", "key"),
    [
        ("AA:BB:CC:DD:EE:FF", "AABBCCDDEEFF"),
        ("aabbccddeeff", "AABBCCDDEEFF"),
        ("aa-bb-cc-dd-ee-ff", "AABBCCDDEEFF"),
        ("aabb.ccdd.eeff", "AABBCCDDEEFF"),
        (" AABBCC DDEEFF", "AABBCCDDEEFF"),
        ("esp32-cam-01", "esp32-cam-01"),
        ("AA:BB:CC:DD:EE", "AA:BB:CC:DD:EE"),
        ("AA:BB:CC:DD:EE:FG", "AA:BB:CC:DD:EE:FG"),
        ("", ""),
    ],
)
def test_twelve_hex_digits_are_one_device_however_they_are_separated(spelled: str, key: str) -> None:
    assert device_key(spelled) == key


def test_a_worker_hears_both_roots() -> None:
    for channel in ("ack", "status", "data"):
        assert {f"device/+/{channel}", f"ESP32CAM/+/{channel}"} <= set(subscriptions(None))


def test_a_group_shares_acknowledgements_and_hellos_and_never_pictures() -> None:
    topics = subscriptions("workers")
    shared = {topic.removeprefix("$share/workers/") for topic in topics if topic.startswith("$share/")}
    assert {topic.rpartition("/")[2] for topic in shared} == {"ack", "status"}
    assert {topic for topic in topics if not topic.startswith("$share/")} == {
        "device/+/data",
        "ESP32CAM/+/data",
    }
