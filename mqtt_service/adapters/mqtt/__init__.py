"""The MQTT broker: one paho client on its own loop thread, bridged to the event loop."""
