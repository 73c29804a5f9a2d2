"""The device protocol: bytes and rows in, frozen dataclasses and bytes out; pure, standard library only.

- topics.py: which device, on which root, about what
- messages.py: what devices say on `…/status` and `…/ack`
- images.py: what they say on `…/data`: pictures' metadata and chunks, readings
- payloads.py, times.py: the bytes of a chunk, a time, as devices write them
- assembly.py: pictures put together from chunks, within bounds
- commands.py: rows of `device_commands` as devices read them
- replies.py: what a device is told without such a row
- wire_json.py: JSON as devices send it, made safe to keep
- lenient_json.py: what is nearly JSON
"""
