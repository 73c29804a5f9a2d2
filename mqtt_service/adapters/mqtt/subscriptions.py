"""Subscriptions, shared (`$share/<group>/…`) or not, in the terms of the protocol version."""

from collections.abc import Sequence

from paho.mqtt.subscribeoptions import SubscribeOptions

_SHARED = "$share/"


def shared(subscriptions: Sequence[str]) -> list[str]:
    """Those of a group of workers, of which each gets a part of the messages."""
    return [topic for topic in subscriptions if topic.startswith(_SHARED)]


def without_group(subscription: str) -> str:
    """The topic filter after `$share/<group>/`; MQTT 3.1.1 has no shared subscriptions."""
    return subscription.split("/", 2)[2] if subscription.startswith(_SHARED) else subscription


def options_of(subscription: str) -> SubscribeOptions:
    """QoS 1, no retained messages, nothing of our own (MQTT 5, section 3.8.3.1: not where it is shared)."""
    return SubscribeOptions(
        qos=1,
        noLocal=not subscription.startswith(_SHARED),
        retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND,
    )
