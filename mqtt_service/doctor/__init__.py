"""`mqtt-service doctor` and `mqtt-service config`: what is set, what works, and what to do about the rest."""
