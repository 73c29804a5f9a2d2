"""The embedded stack: a Supabase project and a broker on loopback, for laptops and tests.

The worker never imports it.

    stack                            all of it, started and stopped as one; dev is its command
    postgres, postgres_account       a private Postgres server, which migrations makes a project of
    broker, amqtt_server             a real MQTT broker
    rest, auth, realtime, storage    stand-ins for the interfaces of a hosted project
    gateway, keys, caller            API keys, and on whose behalf a request is made
    faults                           what tests and people ask the stack to do wrong
    child, signals                   processes that end when we end, and how we are asked to end

It stands in for what a hosted project does, as far as this project and the official clients use it.
"""
