"""What each part of a worker takes of the settings."""

import asyncio

from mqtt_service.adapters.mqtt.link import MqttLink
from mqtt_service.adapters.mqtt.options import MqttOptions
from mqtt_service.adapters.supabase.alerts import AlertGateway
from mqtt_service.adapters.supabase.commands import RetryPolicy
from mqtt_service.adapters.supabase.edge_function import EdgeFunction
from mqtt_service.adapters.supabase.project import QueueRules
from mqtt_service.adapters.supabase.visits import VisitPolicy
from mqtt_service.alerts.watch import AlertWatch
from mqtt_service.alerts.webhook import Webhook
from mqtt_service.config import Settings
from mqtt_service.devices.giving_up import GiveUpPolicy
from mqtt_service.devices.handover import Handover
from mqtt_service.devices.visit import VisitOptions
from mqtt_service.protocol.assembly import Limits
from mqtt_service.retention import Keep


def mqtt_options(settings: Settings) -> MqttOptions:
    """How a worker with these settings uses the broker."""
    return MqttOptions(
        host=settings.mqtt_host,
        port=settings.mqtt_port,
        tls=settings.mqtt_tls,
        ca_file=settings.mqtt_ca_file,
        username=settings.mqtt_username,
        password=settings.mqtt_password.get_secret_value() if settings.mqtt_password else None,
        client_id=settings.mqtt_client_id,
    )


def retry_policy(settings: Settings) -> RetryPolicy:
    """When a command is tried again, and when it is over."""
    return RetryPolicy(settings.max_retries, settings.retry_delay, settings.command_ttl, settings.standby)


def visit_policy(settings: Settings, lease: float) -> VisitPolicy:
    """Who may register, and for how many seconds a visit is leased."""
    return VisitPolicy(
        settings.register_devices, settings.registrations_per_minute, settings.redelivery_limit, lease
    )


def visit_options(settings: Settings) -> VisitOptions:
    """How long a visit waits for its device."""
    return VisitOptions(
        silence=settings.image_silence, longest=settings.visit_max_age, wake_format=settings.wake_format
    )


def give_up_policy(settings: Settings) -> GiveUpPolicy:
    """When a picture that fails at each wake is given up, and what becomes of it."""
    return GiveUpPolicy(settings.image_give_up, settings.image_give_up_after)


def limits(settings: Settings) -> Limits:
    """The bounds of pictures in memory."""
    return Limits(
        max_bytes=settings.image_max_bytes,
        max_chunks=settings.image_max_chunks,
        per_device=settings.images_per_device,
        in_flight=settings.images_in_flight,
        buffered_bytes=settings.image_buffer_bytes,
    )


def alerts(settings: Settings, gateway: AlertGateway, worker: str, link: MqttLink) -> AlertWatch | None:
    """The watch that tells ALERT_URL; None: nobody is told."""
    if settings.alert_url is None:
        return None
    secret = settings.alert_secret.get_secret_value() if settings.alert_secret else None
    webhook = Webhook(settings.alert_url.get_secret_value(), secret)
    clock = asyncio.get_running_loop().time
    return AlertWatch(gateway, webhook, worker, lambda: link.connected, clock=clock)


def queue_rules(settings: Settings) -> QueueRules:
    """What the database tells of this worker's ways."""
    return QueueRules(settings.max_retries, settings.redelivery_limit, settings.command_ttl)


def keep(settings: Settings) -> Keep:
    """For how many days rows are kept."""
    return Keep(
        commands=settings.retention_commands,
        history=settings.retention_history,
        telemetry=settings.retention_telemetry,
        images=settings.retention_images,
    )


def handover(settings: Settings) -> Handover | None:
    """The hand-over to an edge function; None: there is none."""
    if settings.edge_handover == "off":
        return None
    key = settings.supabase_secret_key.get_secret_value()
    function = EdgeFunction(settings.supabase_url, key, settings.edge_function, timeout=settings.edge_timeout)
    return Handover(function, mode=settings.edge_handover, limit=settings.edge_buffer)
