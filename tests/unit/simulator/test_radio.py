"""The simulated radio: what is lost, doubled and shuffled follows from chance and its seed."""

from random import Random

import pytest

from mqtt_service.simulator.radio import Radio, RadioOptions, Scope

BURST = range(10_000)


def test_a_good_radio_changes_nothing() -> None:
    assert Radio(RadioOptions(), Random(1)).transmit(BURST) == list(BURST)


def test_as_many_are_lost_and_doubled_as_the_chances_say() -> None:
    left = Radio(RadioOptions(loss=0.1, duplicates=0.05), Random(1)).transmit(BURST)
    lost = 1 - len(set(left)) / len(BURST)
    doubled = (len(left) - len(set(left))) / len(set(left))
    assert left == sorted(left)
    assert lost == pytest.approx(0.1, abs=0.01)
    assert doubled == pytest.approx(0.05, abs=0.01)


def test_shuffling_loses_nothing() -> None:
    left = Radio(RadioOptions(shuffle=True), Random(1)).transmit(BURST)
    assert left != list(BURST)
    assert sorted(left) == list(BURST)


def test_the_same_seed_does_the_same() -> None:
    bad = RadioOptions(loss=0.3, duplicates=0.3, shuffle=True)
    assert Radio(bad, Random(7)).transmit(BURST) == Radio(bad, Random(7)).transmit(BURST)
    assert Radio(bad, Random(7)).transmit(BURST) != Radio(bad, Random(8)).transmit(BURST)


@pytest.mark.parametrize(
    ("scope", "suffering"),
    [("chunks", {"chunks"}), ("data", {"chunks", "data"}), ("all", {"chunks", "data", "all"})],
)
def test_a_wider_scope_covers_the_narrower(scope: Scope, suffering: set[str]) -> None:
    radio = Radio(RadioOptions(scope=scope), Random(1))
    scopes: tuple[Scope, ...] = ("chunks", "data", "all")
    assert {each for each in scopes if radio.affects(each)} == suffering
