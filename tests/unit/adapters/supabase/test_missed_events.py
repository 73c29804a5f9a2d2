"""When a channel counts as broken that is joined and delivers nothing."""

from mqtt_service.adapters.supabase.missed_events import MissedEvents


def joined() -> MissedEvents:
    missed = MissedEvents()
    missed.joined(0)
    return missed


def test_a_channel_is_broken_once_commands_were_found_that_no_event_announced() -> None:
    missed = joined()
    missed.command_found(20, 50)
    missed.command_found(21, 50)
    assert not missed.newly_broken(30.9)
    assert not missed.broken
    assert missed.newly_broken(31)
    assert missed.broken
    assert not missed.newly_broken(32), "it is told once"


def test_one_event_shows_that_it_delivers() -> None:
    missed = joined()
    missed.command_found(20, 50)
    missed.command_found(21, 50)
    assert not missed.event_received(30)
    assert not missed.newly_broken(40)


def test_an_event_before_the_command_was_found_counts() -> None:
    missed = joined()
    missed.event_received(22)
    missed.command_found(20, 50)
    missed.command_found(21, 50)
    assert not missed.newly_broken(40)


def test_one_lost_event_is_an_accident() -> None:
    missed = joined()
    missed.command_found(20, 50)
    assert not missed.newly_broken(100)


def test_what_was_inserted_before_the_subscription_worked_needs_no_event() -> None:
    missed = joined()
    for inserted in (-10, -5, 1, 4):
        missed.command_found(inserted, 50)
    assert not missed.newly_broken(100)


def test_what_was_scheduled_for_much_later_was_not_announced() -> None:
    missed = joined()
    for inserted in (20, 21, 22):
        missed.command_found(inserted, inserted + 3601)
    assert not missed.newly_broken(10_000)


def test_nothing_is_expected_of_a_subscription_that_is_gone() -> None:
    missed = joined()
    missed.command_found(20, 50)
    missed.command_found(21, 50)
    missed.left()
    missed.command_found(22, 50)
    missed.command_found(23, 50)
    assert not missed.newly_broken(100)


def test_only_an_event_mends_it() -> None:
    missed = joined()
    missed.command_found(20, 50)
    missed.command_found(21, 50)
    missed.newly_broken(40)
    missed.left()
    missed.joined(50)
    assert missed.broken
    assert missed.event_received(60)
    assert not missed.broken
    assert not missed.event_received(61)
