"""The command queue: a row of device_commands becomes a message, the device's answer becomes its status."""
