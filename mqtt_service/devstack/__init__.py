"""The embedded stack for laptops and tests; the worker never imports it."""
