"""What a broker's refusals mean: who must act, and whether waiting helps."""

import socket
import ssl

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.adapters.mqtt import broker_errors
from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.errors import BrokerUnavailableError, PermanentError

OPTIONS = MqttOptions("broker.example", 8883, password="hunter2")


@pytest.mark.parametrize(
    ("name", "kind", "advice"),
    [
        ("Unsupported protocol version", broker_errors.ProtocolRefusedError, "trying MQTT 3.1.1"),
        ("Bad user name or password", PermanentError, "check MQTT_USERNAME and MQTT_PASSWORD"),
        ("Not authorized", PermanentError, "check MQTT_USERNAME and MQTT_PASSWORD"),
        ("Banned", PermanentError, "check MQTT_USERNAME and MQTT_PASSWORD"),
        ("Client identifier not valid", PermanentError, "set another MQTT_CLIENT_ID"),
        ("Server moved", PermanentError, "correct MQTT_HOST"),
        ("Server busy", BrokerUnavailableError, "refused the connection: Server busy"),
        ("Quota exceeded", BrokerUnavailableError, "refused the connection: Quota exceeded"),
    ],
)
def test_a_refused_connection_says_who_must_act(name: str, kind: type[Exception], advice: str) -> None:
    error = broker_errors.refused_connect(OPTIONS, ReasonCode(PacketTypes.CONNACK, name))
    assert type(error) is kind
    assert advice in str(error)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Not authorized", PermanentError),
        ("Topic name invalid", PermanentError),
        ("Payload format invalid", PermanentError),
        ("Quota exceeded", BrokerUnavailableError),
        ("Unspecified error", BrokerUnavailableError),
    ],
)
def test_a_refused_publish_fails_the_command_or_lets_it_wait(name: str, kind: type[Exception]) -> None:
    assert type(broker_errors.refused_publish("device/x/cmd", ReasonCode(PacketTypes.PUBACK, name))) is kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Session taken over", broker_errors.SessionTakenOverError),
        ("Not authorized", PermanentError),
        ("Server shutting down", BrokerUnavailableError),
        ("Receive maximum exceeded", BrokerUnavailableError),
    ],
)
def test_a_disconnect_says_whether_to_come_back(name: str, kind: type[Exception]) -> None:
    assert type(broker_errors.broker_disconnected(OPTIONS, ReasonCode(PacketTypes.DISCONNECT, name))) is kind


@pytest.mark.parametrize(
    ("raised", "kind", "advice"),
    [
        (ConnectionRefusedError(), BrokerUnavailableError, "start the broker"),
        (TimeoutError(), BrokerUnavailableError, "does not answer"),
        (socket.gaierror(-2, "unknown"), BrokerUnavailableError, "check MQTT_HOST"),
        (ssl.SSLEOFError(8, "eof"), BrokerUnavailableError, "during the TLS handshake"),
        (ssl.SSLError(1, "wrong version number"), PermanentError, "check MQTT_PORT and MQTT_TLS"),
        (ConnectionResetError(), BrokerUnavailableError, "check MQTT_PORT and MQTT_TLS"),
        (OSError(101, "Network is unreachable"), BrokerUnavailableError, "Network is unreachable"),
    ],
)
def test_a_failed_attempt_says_what_to_look_at(raised: Exception, kind: type[Exception], advice: str) -> None:
    error = broker_errors.failed_connect(OPTIONS, raised)
    assert type(error) is kind
    assert advice in str(error)


def test_the_password_is_never_shown() -> None:
    assert "hunter2" not in repr(OPTIONS)
