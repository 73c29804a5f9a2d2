"""Demos on a machine without Mosquitto, and with fleets that refuse, do not answer or are not heard."""

from dataclasses import replace
from typing import Any

from mqtt_service.demo import pictures as demo_pictures
from mqtt_service.demo import run as demo
from mqtt_service.devstack import broker
from mqtt_service.simulator.radio import RadioOptions


def without_mosquitto() -> int:
    """On a machine without Mosquitto."""
    broker.find_mosquitto = lambda: None
    return demo.run_demo(devices=2, seconds=60, as_json=True)


def with_a_refusal() -> int:
    """The device refuses one command."""
    _alter_fleet(ack_form="by_id", answers={"reboot": "rejected"})
    return demo.run_demo(devices=1, seconds=60, as_json=True)


def without_answers() -> int:
    """The device does not answer its welcome."""
    _alter_fleet(answers={"set_wake_schedule": "none"})
    return demo.run_demo(devices=1, seconds=5, as_json=True)


def over_no_network() -> int:
    """No chunk of a picture arrives."""
    demo_pictures.RADIO = RadioOptions(loss=1.0)
    return demo.run_demo(devices=1, seconds=60, as_json=True)


def _alter_fleet(**changes: Any) -> None:
    plan = demo.plan_fleet
    demo.plan_fleet = lambda count: [replace(options, **changes) for options in plan(count)]
