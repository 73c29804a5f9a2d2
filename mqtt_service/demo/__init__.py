"""mqtt-service demo: the whole flow on the embedded stack, shown and judged."""
