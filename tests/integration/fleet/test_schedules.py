"""Tags and recurring commands by hand."""

from tests.integration.fleet.harness import Database, Run, add_site


def test_devices_are_tagged_and_not_any_more(run: Run, database: Database) -> None:
    first, second = add_site(database, "Tagged", 2)
    for _ in range(2):
        assert run("tag", "add", "tall", first, second).status == 0
    [tall] = [row for row in run("tag", "list", "--json").document if row["tag"] == "tall"]
    assert len(tall["devices"]) == 2
    assert f"tall: {first}, {second}" in run("tag", "list").out
    assert run("tag", "remove", "tall", first).status == 0
    assert f"tall: {second}" in run("tag", "list").out
    assert run("tag", "add", "x", "nobody").status == 2


def test_a_schedule_is_added_listed_paused_resumed_and_removed(run: Run, database: Database) -> None:
    first, *_ = add_site(database, "Recurring", 3)
    run("tag", "add", "north", first)
    added = run(
        "schedule", "add", "look", "send_image", "image_name=a.jpg", "--site", "Recurring", "--tag", "north",
        "--where", '{"firmware": {"!=": "1.0"}}', "--cron", "0 6 * * *", "--expires", "2h", "--json",
    )  # fmt: skip
    assert added.status == 0, added.err
    assert (added.document["matched"], added.document["schedule"]["validity"]) == (0, "02:00:00")
    wakes = run("schedule", "add", "wakes", "capture_image", "--site", "Recurring", "--at-wakes")
    assert "3 device(s) fit the target now, 3 of them active" in wakes.out
    listed = run("schedule", "list").out
    assert "at the site's wakes" in listed
    assert "0 6 * * *" in listed
    assert run("schedule", "pause", "LOOK", "--json").document["schedule"]["next_run_at"] is None
    assert "paused" in run("schedule", "list").out
    assert (
        "is resumed, next 20" in run("schedule", "resume", added.document["schedule"]["schedule_id"][:8]).out
    )
    for name in ("look", "wakes"):
        assert run("schedule", "remove", name).status == 0
    assert run("schedule", "list", "--json").document == []
    assert run("schedule", "pause", "look").status == 2


def test_what_waits_for_a_site_or_of_a_schedule_is_cancelled_after_a_question(
    run: Run, database: Database
) -> None:
    first, *_ = add_site(database, "Cancelled", 3)
    run("tag", "add", "withdrawn", first)
    assert run("send", "reboot", "--site", "Cancelled", "--at", "2h", "--yes").status == 0
    assert run("cancel", "--site", "Cancelled").status == 2
    one = run("cancel", "--site", "Cancelled", "--tag", "withdrawn", "--yes")
    assert (one.status, "1 command(s) wait" in one.out, "Cancelled: 1" in one.out) == (0, True, True)
    rest = run("cancel", "--site", "Cancelled", "--type", "reboot", "--yes", "--json")
    assert rest.document == {"found": 2, "cancelled": 2}
    assert run("cancel", "--site", "Cancelled").out == "0 command(s) wait.\n"
    run("schedule", "add", "soon", "reboot", "--site", "Cancelled", "--cron", "0 6 * * *")
    none = run("cancel", "--schedule", "soon")
    assert (none.status, none.out) == (0, "0 command(s) wait.\n")
    assert "goes on queueing: mqtt-service schedule pause 'soon'" in none.err
    run("schedule", "remove", "soon")
    for words in ((), ("0f9c2c1e", "--site", "Cancelled"), ("--type", "reboot")):
        assert run("cancel", *words).status == 2


def test_a_schedule_that_can_never_run_is_refused_with_the_reason(run: Run, database: Database) -> None:
    add_site(database, "Refused", 1)
    for words, said in (
        (("ping", "--site", "Refused"), "say when"),
        (("ping", "--cron", "0 6 * * *"), "say for which devices"),
        (("ping", "--site", "Refused", "--cron", "0 25 * * *"), "hour 25 is not between 0 and 23"),
        (("selfie", "--site", "Refused", "--at-wakes"), "'selfie' is not known"),
        (("ping", "--site", "Refused", "--at-wakes", "--where", '{"size": 1}'), 'there is no part "size"'),
        (("ping", "--site", "Refused", "--at-wakes", "--where", "[]"), "--where is not a JSON object"),
        (("ping", "--site", "Refused", "--at-wakes", "--missed", "always"), "missed"),
    ):
        refused = run("schedule", "add", "x", *words)
        assert refused.status == 2, words
        assert said in refused.err
