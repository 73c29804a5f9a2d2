"""The embedded stack's Storage, under /storage/v1."""
