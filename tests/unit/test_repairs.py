"""What was repaired is counted each time, and logged once a device and kind, in bounded memory."""

import logging

import pytest

from mqtt_service import log
from mqtt_service.metrics import REGISTRY
from mqtt_service.repairs import Repairs


def counted(channel: str, kind: str) -> float:
    labels = {"channel": channel, "kind": kind}
    return REGISTRY.get_sample_value("mqtt_service_repaired_messages_total", labels) or 0.0


def test_each_kind_is_counted_each_time_for_its_channel() -> None:
    before = counted("status", "quotes"), counted("status", "encoding"), counted("ack", "quotes")
    told = Repairs("status")
    for _ in range(3):
        told.report("d1", {"quotes", "encoding"})
    told.report("d1", frozenset())
    after = counted("status", "quotes"), counted("status", "encoding"), counted("ack", "quotes")
    assert after == (before[0] + 3, before[1] + 3, before[2])


def test_a_kind_is_logged_once_a_device(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mqtt_service.repairs")
    told = Repairs("data")
    told.report("d1", {"quotes", "encoding"})
    told.report("d1", {"quotes"})
    told.report("d1", {"quotes", "cut_off"})
    told.report("d2", {"quotes"})
    told.report("d2", ())
    said = "[MQTT] A message on …/data is not strict JSON and was used all the same: "
    assert [record.message for record in caplog.records] == [
        f"{said}encoding, quotes",
        f"{said}cut_off",
        f"{said}quotes",
    ]


def test_those_that_were_heard_from_longest_ago_are_forgotten(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_MOST_REMEMBERED", 2)
    told = Repairs("data")
    for device in ("d1", "d2", "d1", "d3"):
        told.report(device, {"quotes"})
    caplog.clear()
    told.report("d1", {"quotes"})
    assert not caplog.records
    told.report("d2", {"quotes"})
    assert len(caplog.records) == 1


def test_devices_without_end_take_no_memory_without_end() -> None:
    told = Repairs("data")
    for number in range(3_000):
        told.report(f"d{number}", {"quotes", "encoding"})
    assert len(told._said._said) == log._MOST_REMEMBERED
