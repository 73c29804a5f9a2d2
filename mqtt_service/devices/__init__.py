"""From the devices to the tables: heartbeats, visits, pictures, and the welcome of devices that were mapped.

- heartbeats.py: a device says HELLO; it is recorded, and its visit begins
- visits.py: the devices that are awake, and the leases that say which worker answers each
- visit.py: one of them; it hears what happens, and has done what its state decides
- visit_state.py: decides; the states of a visit and its moves, without clock or network
- visit_pictures.py: … and of its pictures, one after another
- visit_steps.py: what these can decide
- visit_actions.py: takes the steps that need database, Storage or broker
- reply_publisher.py: tells the device something, trying again while the broker is away
- reply_log.py: records what devices are told without a row of `device_commands`
- pictures.py: pictures on their way from devices into Storage
- picture_rows.py: their rows in `device_images`
- picture_uploads.py: their uploads, tried again
- finished_pictures.py: those that are done with
- provisioning.py: welcomes devices that were mapped to a site
- handover.py: hands messages of devices to an edge function, where that is wanted
- backfill.py, backfill_report.py: complete devices that were mapped before the triggers were there
"""
