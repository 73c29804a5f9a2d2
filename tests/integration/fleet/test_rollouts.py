"""Rollouts and maintenance windows by hand."""

from tests.integration.fleet.harness import Database, Run, add_site

CLAIM = "select fn_claim_commands('by-hand')"


def test_a_rollout_is_started_watched_paused_resumed_and_cancelled(run: Run, database: Database) -> None:
    add_site(database, "Rolling", 3)
    words = ("rollout", "start", "pings", "ping", "--site", "Rolling", "--rate", "2", "--stop-at", "20")
    unasked = run(*words)
    assert (unasked.status, "add --yes" in unasked.err) == (2, True)
    started = run(*words, "--expires", "2h", "--yes", "--json")
    assert started.status == 0, started.err
    assert (started.document["matched"], started.document["rollout"]["waiting"]) == (3, 3)
    database.execute(CLAIM)
    assert run("rollout", "status", "PINGS", "--json").document["rollout"]["pending"] == 2
    assert "1 waiting  2 pending" in run("rollout", "status", "pings").out
    assert "pings is paused" in run("rollout", "pause", "pings").out
    assert "pings is running" in run("rollout", "resume", started.document["rollout"]["rollout_id"][:8]).out
    assert run("rollout", "resume", "pings").status == 2
    assert "pings is cancelled" in run("rollout", "cancel", "pings").out
    database.execute(CLAIM)
    watched = run("rollout", "status", "pings", "--watch")
    assert "pings is cancelled: 2 cancelled" in watched.out
    assert "cancelled" in run("rollout", "list").out
    assert run("rollout", "status", "nothing").status == 2


def test_a_rollout_waits_for_another_persons_approval(run: Run, database: Database) -> None:
    add_site(database, "Careful", 1)
    started = run(
        "rollout",
        "start",
        "careful",
        "ping",
        "--site",
        "Careful",
        "--needs-approval",
        "--continuous",
        "--yes",
    )
    assert "waits for another admin's approval" in started.out
    assert run("rollout", "approve", "careful").status == 2
    approved = run("rollout", "approve", "careful", "--by", "a0000000-0000-4000-8000-0000000000e3", "--json")
    assert approved.document["rollout"]["status"] == "running"
    assert "continuous" in run("rollout", "list").out
    run("rollout", "cancel", "careful")


def test_a_rollout_that_can_never_work_is_refused_with_the_reason(run: Run, database: Database) -> None:
    add_site(database, "Wrong", 1)
    for words, said in (
        (("ping",), "say for which devices"),
        (("selfie", "--site", "Wrong"), "'selfie' is not known"),
        (("ping", "--site", "Wrong", "--expires", "soon"), "is no duration"),
    ):
        refused = run("rollout", "start", "x", *words, "--yes")
        assert refused.status == 2, words
        assert said in refused.err


def test_a_window_holds_a_command_and_show_says_until_when(run: Run, database: Database) -> None:
    device, *_ = add_site(database, "Nightly", 1)
    assert run("window", "add", "0 2 * * *", "1h").status == 2
    assert (
        "set_wake_schedule"
        in run("window", "add", "0 2 * * *", "1h", "--site", "Nightly", "--type", "set_wake_schedule").err
    )
    added = run("window", "add", "0 0 29 2 *", "1h", "--site", "Nightly", "--timezone", "UTC", "--json")
    assert added.status == 0, added.err
    assert added.document["duration"] == "01:00:00"
    assert "Nightly" in run("window", "list").out
    sent = run("send", "reboot", "--device", device, "--json")
    database.execute(CLAIM)
    command = sent.document["queued"][0]["command_id"]
    assert "A maintenance window holds it" in run("show", command).out
    assert run("window", "remove", added.document["window_id"][:13]).status == 0
    assert run("window", "list", "--json").document == []
    assert run("window", "remove", "nothing").status == 2
