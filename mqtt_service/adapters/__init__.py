"""The only code that talks to the outside: the MQTT broker and Supabase."""
