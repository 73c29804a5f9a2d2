"""scripts/bench: what the service does, as a share of what bare paho does in the same run."""
