"""What the database tells for the metrics: how long commands waited, and how many wait."""

from tests.integration.database.queue_calls import Queue
from tests.integration.database.test_retention import buffers, finished


def test_a_claim_tells_how_long_a_command_has_waited_since_it_was_to_be_sent(queue: Queue) -> None:
    device = queue.device("AA")
    queue.command(device, issued_at="2020-01-01", expires_at="2100-01-01")
    later = queue.command(device, "ping")
    queue.change(later, "scheduled_for = now() - interval '5 s', issued_at = now() - interval '1 h'")
    waited = {c["command_type"]: c["waited_seconds"] for c in queue.claim()["commands"]}
    assert waited["reboot"] > 86400
    assert 5 <= waited["ping"] < 60


def test_an_answer_tells_how_long_ago_its_command_was_sent(queue: Queue) -> None:
    command = queue.command(queue.device("AA"))
    queue.settle(queue.claim()["commands"])
    queue.change(command, "delivered_at = now() - interval '9 s'")
    [answer] = queue.acknowledge({"topic_id": "AA"})
    assert answer["result"] == "acknowledged"
    assert 9 <= answer["seconds_since_sent"] < 60


def test_commands_are_counted_by_what_they_wait_for(queue: Queue) -> None:
    device = queue.device("AA")
    sent = queue.command(device)
    queue.settle(queue.claim()["commands"])
    leased = queue.command(queue.device("BB"))
    queue.claim()
    queue.command(device, scheduled_for="2100-01-01", expires_at="2101-01-01")
    queue.command(device, status="failed", due_at="2100-01-01")
    queue.command(device, status="failed")
    queue.change(queue.command(device), "due_at = null, held_until = now() + interval '1 hour'")
    queue.command(device, status="acknowledged")
    due = queue.command(device, issued_at="2020-01-01")
    assert len({sent, leased, due}) == 3
    measures = queue.call("fn_measure_queue")
    oldest = measures.pop("oldest_due_seconds")
    assert measures == {"due": 1, "scheduled": 1, "leased": 1, "retry": 1, "held": 1, "sent": 1}
    assert oldest > 86400
    assert queue.call("fn_measure_queue", p_most=0)["due"] == 0


def test_counting_does_not_read_what_is_done(queue: Queue) -> None:
    finished(queue, 10)
    queue.connection.execute("analyze device_commands")
    measure = "select fn_measure_queue()"
    buffers(queue.connection, measure)
    few = buffers(queue.connection, measure)
    finished(queue, 20_000)
    queue.connection.execute("analyze device_commands")
    buffers(queue.connection, measure)  # reads the catalogue anew
    assert buffers(queue.connection, measure) <= few + 10
