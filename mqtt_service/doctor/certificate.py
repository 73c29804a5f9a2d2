"""The broker's port and certificate, before MQTT is spoken."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from mqtt_service.adapters.mqtt import broker_errors
from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.doctor.findings import Finding, from_error

_TIMEOUT = 10.0
_SOON = timedelta(days=21)
# OpenSSL's verification results (x509_vfy.h).
_EXPIRED = 10
_NOT_YET_VALID = 9
_OTHER_NAME = {62, 64}


async def inspect_port(options: MqttOptions) -> Iterable[Finding]:
    """Whether something listens."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, writer = await asyncio.open_connection(options.host, options.port)
    except (OSError, TimeoutError) as error:
        return [from_error("broker_answers", broker_errors.failed_connect(options, error))]
    writer.close()
    return [Finding("broker_answers", "ok", f"{options.address} accepts connections")]


async def inspect_certificate(options: MqttOptions, now: datetime) -> Iterable[Finding]:
    """Chain, name and expiry, against MQTT_CA_FILE or what the system trusts; `now` is aware."""
    if not options.tls:
        return [_without_tls(options)]
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        seen = f"MQTT_CA_FILE cannot be used ({error.strerror or type(error).__name__})"
        return [Finding("certificate", "broken", seen, "name a file of PEM certificates")]
    try:
        expires = await asyncio.to_thread(_expiry, options, context)
    except ssl.SSLCertVerificationError as error:
        return [_not_trusted(options, error)]
    except (OSError, ssl.SSLError) as error:
        return [from_error("certificate", broker_errors.failed_connect(options, error))]
    return [judge_expiry(expires, now)]


def _without_tls(options: MqttOptions) -> Finding:
    if options.host == "localhost" or _is_private(options.host):
        return Finding("certificate", "ok", "no TLS (MQTT_TLS=false), within a private network")
    seen = "no TLS (MQTT_TLS=false): password and messages can be read on the way"
    return Finding("certificate", "warning", seen, "set MQTT_TLS=true and MQTT_PORT to the TLS port (8883)")


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _expiry(options: MqttOptions, context: ssl.SSLContext) -> datetime:
    with (
        socket.create_connection((options.host, options.port), timeout=_TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=options.host) as secure,
    ):
        certificate = secure.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)


def _not_trusted(options: MqttOptions, error: ssl.SSLCertVerificationError) -> Finding:
    seen = f"the certificate of {options.address} is not trusted: {error.verify_message}"
    if error.verify_code in _OTHER_NAME:
        cure = "set MQTT_HOST to a name that the certificate carries"
    elif error.verify_code == _EXPIRED:
        cure = "renew the broker's certificate"
    elif error.verify_code == _NOT_YET_VALID:
        cure = "set the clocks of this machine and the broker"
    else:
        cure = "set MQTT_CA_FILE to the CA that signed it; unset it for a public CA"
    return Finding("certificate", "broken", seen, cure)


def judge_expiry(expires: datetime, now: datetime) -> Finding:
    """A trusted certificate, by how long it still holds."""
    days = (expires - now).days
    seen = f"trusted, and holds until {expires:%Y-%m-%d} ({days} days)"
    if expires - now < _SOON:
        return Finding("certificate", "warning", seen, "renew the broker's certificate")
    return Finding("certificate", "ok", seen)
