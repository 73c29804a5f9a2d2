"""A worker that carries commands from a Supabase project to MQTT devices and their answers back."""

__version__ = "0.1.0"
