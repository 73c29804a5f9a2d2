"""The embedded stack's Realtime, under /realtime/v1: postgres_changes and broadcasts over WebSockets."""
