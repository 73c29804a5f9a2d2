"""When the watch over the doorbell says that it announces nothing."""

from mqtt_service.adapters.supabase.missed_events import MissedEvents


def joined() -> MissedEvents:
    silence = MissedEvents()
    silence.joined(0)
    return silence


def test_commands_that_rang_no_bell_break_the_silence() -> None:
    silence = joined()
    silence.found(20)
    silence.found(21)
    assert not silence.begins(30.9)
    assert not silence.broken
    assert silence.begins(31)
    assert silence.broken
    assert not silence.begins(32), "it is told once"


def test_one_event_shows_that_it_lives() -> None:
    silence = joined()
    silence.found(20)
    silence.found(21)
    assert not silence.rang(30)
    assert not silence.begins(40)


def test_an_event_before_the_command_was_found_counts() -> None:
    silence = joined()
    silence.rang(22)
    silence.found(20)
    silence.found(21)
    assert not silence.begins(40)


def test_one_lost_event_is_an_accident() -> None:
    silence = joined()
    silence.found(20)
    assert not silence.begins(100)


def test_what_was_inserted_before_the_subscription_worked_was_not_to_ring() -> None:
    silence = joined()
    for inserted in (-10, -5, 1, 4):
        silence.found(inserted)
    assert not silence.begins(100)


def test_nothing_is_expected_of_a_subscription_that_is_gone() -> None:
    silence = joined()
    silence.found(20)
    silence.found(21)
    silence.left()
    silence.found(22)
    silence.found(23)
    assert not silence.begins(100)


def test_only_an_event_ends_it() -> None:
    silence = joined()
    silence.found(20)
    silence.found(21)
    silence.begins(40)
    silence.left()
    silence.joined(50)
    assert silence.broken
    assert silence.rang(60)
    assert not silence.broken
    assert not silence.rang(61)
