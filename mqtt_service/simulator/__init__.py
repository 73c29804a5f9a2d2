"""Simulated ESP32-CAM devices and fleets, on any broker; they share no code with the worker."""
