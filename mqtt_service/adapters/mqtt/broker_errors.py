"""Why the broker refused, failed or ended a connection, as a typed error whose message says what to do.

PermanentError           a person must change something; tried again slowly
BrokerUnavailableError   waiting helps
ProtocolRefusedError     an older protocol version helps, at once
HungUpError              so it may here: some old brokers answer MQTT 5 by closing the connection
SessionTakenOverError    another client connected with our id: not tried again
"""

import socket
import ssl

from paho.mqtt.reasoncodes import ReasonCode

from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.errors import BrokerUnavailableError, PermanentError, ServiceError

# MQTT 5, section 2.4; paho gives the codes of 3.1.1 in these terms too.
_UNSUPPORTED_PROTOCOL = 0x84
_BAD_CLIENT_ID = 0x85
_BAD_CREDENTIALS = 0x86
_NOT_AUTHORIZED = 0x87
_BANNED = 0x8A
_BAD_METHOD = 0x8C
_TAKEN_OVER = 0x8E
_TOPIC_INVALID = 0x90
_TOO_LARGE = 0x95
_PAYLOAD_INVALID = 0x99
_MOVED = {0x9C, 0x9D}


class ProtocolRefusedError(BrokerUnavailableError):
    """The broker does not support this version of MQTT."""


class HungUpError(BrokerUnavailableError):
    """The broker closed the connection instead of answering."""


class SessionTakenOverError(BrokerUnavailableError):
    """Another client with our id has connected, and has the session from now on."""


def refused_connect(options: MqttOptions, reason: ReasonCode) -> ServiceError:
    """What a failed CONNACK means."""
    if reason.value == _UNSUPPORTED_PROTOCOL:
        return ProtocolRefusedError(f"{options.address} does not support MQTT 5; trying MQTT 3.1.1")
    if reason.value in {_BAD_CREDENTIALS, _NOT_AUTHORIZED, _BANNED, _BAD_METHOD}:
        return PermanentError(
            f"{options.address} refused our credentials ({reason}); check MQTT_USERNAME and MQTT_PASSWORD"
        )
    if reason.value == _BAD_CLIENT_ID:
        return PermanentError(f"{options.address} refused the client id; set another MQTT_CLIENT_ID")
    if reason.value in _MOVED:
        return PermanentError(f"{options.address} says the broker has moved ({reason}); correct MQTT_HOST")
    return BrokerUnavailableError(f"{options.address} refused the connection: {reason}")


def refused_subscription(options: MqttOptions, subscription: str, reason: ReasonCode) -> ServiceError:
    """What a failed SUBACK means."""
    return PermanentError(
        f"{options.address} does not let us subscribe to {subscription} ({reason}); allow it in the broker"
    )


def refused_publish(topic: str, reason: ReasonCode) -> ServiceError:
    """What a failed PUBACK means."""
    if reason.value == _NOT_AUTHORIZED:
        return PermanentError(f"the broker does not let us publish on {topic}; allow it in the broker")
    if reason.value in {_TOPIC_INVALID, _TOO_LARGE, _PAYLOAD_INVALID}:
        return PermanentError(f"the broker refused the message on {topic}: {reason}")
    return BrokerUnavailableError(f"the broker did not take the message on {topic}: {reason}")


def broker_disconnected(options: MqttOptions, reason: ReasonCode) -> ServiceError:
    """What the broker's DISCONNECT means."""
    if reason.value == _TAKEN_OVER:
        return taken_over(options)
    if reason.value in {_NOT_AUTHORIZED, _BANNED}:
        return PermanentError(
            f"{options.address} disconnected us ({reason}); check the broker's access rules"
        )
    return BrokerUnavailableError(f"{options.address} closed the connection: {reason}")


def taken_over(options: MqttOptions) -> ServiceError:
    """What it means that another client connected with our id."""
    return SessionTakenOverError(
        f"another client has connected to {options.address} as {options.client_id}; leaving the session to it"
    )


def connection_lost(options: MqttOptions, *, answered: bool) -> ServiceError:
    """What it means that the connection ended without a DISCONNECT."""
    if answered:
        return BrokerUnavailableError(f"lost the connection to {options.address}")
    return HungUpError(
        f"{options.address} hung up before it answered; if that stays so, check MQTT_PORT and MQTT_TLS"
    )


def failed_connect(options: MqttOptions, error: Exception) -> ServiceError:
    """What an exception means that was raised while connecting."""
    if isinstance(error, ssl.SSLError):
        return _failed_handshake(options, error)
    if isinstance(error, UnicodeError | socket.gaierror):
        return BrokerUnavailableError(f"the name {options.host!r} does not resolve; check MQTT_HOST")
    if isinstance(error, TimeoutError):
        return BrokerUnavailableError(
            f"{options.address} does not answer; check MQTT_HOST, MQTT_PORT, firewall"
        )
    if isinstance(error, ConnectionRefusedError):
        return BrokerUnavailableError(
            f"nothing listens on {options.address}; start the broker, check MQTT_PORT"
        )
    if isinstance(error, ConnectionResetError):
        return _hung_up_in_handshake(options)
    return BrokerUnavailableError(f"cannot connect to {options.address}: {type(error).__name__}: {error}")


def _hung_up_in_handshake(options: MqttOptions) -> ServiceError:
    return BrokerUnavailableError(
        f"{options.address} hung up during the TLS handshake; if that stays so, check MQTT_PORT and MQTT_TLS"
    )


def _failed_handshake(options: MqttOptions, error: ssl.SSLError) -> ServiceError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return PermanentError(
            f"the certificate of {options.address} is not trusted ({error.verify_message}); set MQTT_CA_FILE"
            " to the CA that signed it, or MQTT_HOST to a name that it carries"
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _hung_up_in_handshake(options)
    return PermanentError(f"no TLS connection to {options.address} ({error}); check MQTT_PORT and MQTT_TLS")
