"""Tells a person by a webhook what is wrong, and when it is over, without Prometheus."""
