"""The embedded stack for laptops and tests: Postgres, a broker and a stand-in for the Supabase API. The worker never imports it."""
