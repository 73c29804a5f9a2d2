"""The embedded stack's sign-in, under /auth/v1."""
