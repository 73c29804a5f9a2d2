"""Which device, place or command people mean."""

from uuid import UUID

import pytest

from mqtt_service.adapters.supabase.fleet_rows import Place
from mqtt_service.errors import UsageError
from mqtt_service.fleet.choosing import Selection, as_mac, id_range, name_some, the_device, the_place
from tests.unit.fleet.rows import device

OTHER = device(
    device_id=UUID(int=9), device_mac="AABBCCDDEE02", device_code="DEVICE-2", device_name="north gate"
)


@pytest.mark.parametrize(
    "reference",
    [
        "00000000-0000-0000-0000-000000000001",
        "AA:BB:CC:DD:EE:FF",
        "aabb.ccdd.eeff",
        "AA-BB-CC-DD-EE-FF",
        "DEVICE-ESP32S3-001",
        "device-esp32s3-001",
    ],
)
def test_a_device_is_found_by_its_id_its_mac_in_any_spelling_and_its_code(reference: str) -> None:
    assert the_device(reference, [OTHER, device()]) == device()


def test_a_device_that_several_ways_lead_to_is_one() -> None:
    assert the_device("North Gate", [device(), device()]) == device()


def test_a_name_of_several_devices_is_an_error_that_lists_them() -> None:
    with pytest.raises(UsageError) as caught:
        the_device("north gate", [device(), OTHER])
    said = str(caught.value)
    assert "fits 2 devices" in said
    for one in (device(), OTHER):
        assert str(one.device_id) in said
        assert one.label in said


def test_an_unknown_device_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(UsageError, match="see mqtt-service devices"):
        the_device("DEVICE", [device()])


def test_a_place_is_found_by_name_or_id_and_not_by_half_a_name() -> None:
    north, south = Place("site", UUID(int=1), "Alder North"), Place("site", UUID(int=2), "Alder South")
    assert the_place("site", "alder north", [north, south]) == north
    assert the_place("site", str(UUID(int=2)), [north, south]) == south
    with pytest.raises(UsageError, match="no site has"):
        the_place("site", "Alder", [north, south])
    with pytest.raises(UsageError, match="more than one site"):
        the_place("site", "Alder North", [north, Place("site", UUID(int=3), "ALDER NORTH")])


@pytest.mark.parametrize(
    ("selection", "fits"),
    [
        (Selection(devices=["a", "b"]), True),
        (Selection(sites=["a"]), True),
        (Selection(everything=True), True),
        (Selection(), False),
        (Selection(devices=["a"], sites=["b"]), False),
        (Selection(programs=["a"], everything=True), False),
    ],
)
def test_devices_are_chosen_in_exactly_one_way(selection: Selection, fits: bool) -> None:
    if fits:
        selection.check()
        return
    with pytest.raises(UsageError, match="--device, --site"):
        selection.check()


def test_the_beginning_of_an_id_is_a_range_of_ids() -> None:
    first, last = id_range("0f9c-2C")
    assert str(first) == "0f9c2c00-0000-0000-0000-000000000000"
    assert str(last) == "0f9c2cff-ffff-ffff-ffff-ffffffffffff"
    for text in ("0f9", "xyz1", "0f9c2c1e-6f0b-4d36-9a53-0d8f7f7a2b11f"):
        with pytest.raises(UsageError, match="is no command"):
            id_range(text)


def test_of_many_names_the_first_are_said_and_how_many_more() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some([str(number) for number in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


@pytest.mark.parametrize(("text", "mac"), [("aa:bb:cc:dd:ee:ff", "AABBCCDDEEFF"), ("DEVICE-00001", None)])
def test_a_mac_is_told_from_a_name(text: str, mac: str | None) -> None:
    assert as_mac(text) == mac
