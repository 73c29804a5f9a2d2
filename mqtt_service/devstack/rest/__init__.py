"""The embedded stack's database API, under /rest/v1, as PostgREST answers."""
