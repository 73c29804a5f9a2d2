"""What a worker tells, when, and what it does where nobody listens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mqtt_service.adapters.supabase.alerts import Alert, Found, Watched
from mqtt_service.alerts.watch import AlertWatch
from mqtt_service.alerts.webhook import WebhookError
from mqtt_service.errors import SupabaseUnavailableError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAILING = Alert("device-failing:d1", "D1: 3 commands failed", "open", NOW)


@dataclass
class FakeDatabase:
    """Alerts that are to be told; `away`: it does not answer."""

    alerts: list[Alert] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    told: list[Alert] = field(default_factory=list)
    away: bool = False
    held: bool = True

    async def watch(self, found: Sequence[Found]) -> Watched:
        if self.away:
            raise SupabaseUnavailableError("no answer")
        self.found = list(found)
        return Watched(self.held, self.alerts)

    async def note_told(self, alerts: Sequence[Alert]) -> None:
        if self.away:
            raise SupabaseUnavailableError("no answer")
        self.told += alerts


@dataclass
class FakeReceiver:
    """Who is told; `deaf`: takes nothing."""

    heard: list[Sequence[Alert]] = field(default_factory=list)
    deaf: bool = False

    async def send(self, alerts: Sequence[Alert], worker: str) -> None:
        if self.deaf:
            raise WebhookError("ALERT_URL answered 500")
        self.heard.append(alerts)


@dataclass
class Scene:
    """A watch, and the world around it."""

    database: FakeDatabase = field(default_factory=FakeDatabase)
    receiver: FakeReceiver = field(default_factory=FakeReceiver)
    broker: bool = True
    now: float = 0.0

    def __post_init__(self) -> None:
        self.watch = AlertWatch(
            self.database, self.receiver, "w1", lambda: self.broker, clock=lambda: self.now
        )

    async def look_at(self, *moments: float) -> None:
        for self.now in moments:
            await self.watch.look()


async def test_what_is_new_is_told_in_one_request_and_noted() -> None:
    scene = Scene(FakeDatabase([FAILING, FAILING]))
    await scene.look_at(0)
    assert scene.receiver.heard == [[FAILING, FAILING]]
    assert scene.database.told == [FAILING, FAILING]


async def test_what_nobody_took_is_not_noted() -> None:
    scene = Scene(FakeDatabase([FAILING]), FakeReceiver(deaf=True))
    await scene.look_at(0)
    assert scene.database.told == []


async def test_nothing_new_makes_no_request() -> None:
    scene = Scene()
    await scene.look_at(0, 60)
    assert scene.receiver.heard == []


async def test_a_broker_that_is_away_for_minutes_is_found_until_it_is_back() -> None:
    scene = Scene(broker=False)
    await scene.look_at(0, 60, 120)
    assert scene.database.found == []
    await scene.look_at(180)
    assert [found.alert for found in scene.database.found] == ["broker"]
    assert "w1" in scene.database.found[0].text
    scene.broker = True
    await scene.look_at(240)
    assert scene.database.found == []


async def test_a_database_that_is_away_is_told_once_and_so_is_its_return() -> None:
    scene = Scene(FakeDatabase(away=True))
    await scene.look_at(0, 60, 120)
    assert scene.receiver.heard == []
    await scene.look_at(180, 240, 300)
    [[alert]] = scene.receiver.heard
    assert (alert.alert, alert.state) == ("supabase", "open")
    scene.database.away = False
    await scene.look_at(360, 420)
    assert [each.state for told in scene.receiver.heard for each in told] == ["open", "recovered"]


async def test_a_short_outage_of_the_database_is_not_told() -> None:
    scene = Scene(FakeDatabase(away=True))
    await scene.look_at(0, 60, 120)
    scene.database.away = False
    await scene.look_at(180)
    scene.database.away = True
    await scene.look_at(240, 300)
    assert scene.receiver.heard == []


async def test_what_could_not_be_told_of_the_database_is_told_at_the_next_look() -> None:
    scene = Scene(FakeDatabase(away=True), FakeReceiver(deaf=True))
    await scene.look_at(0, 180)
    scene.receiver.deaf = False
    await scene.look_at(240)
    assert len(scene.receiver.heard) == 1


async def test_of_several_workers_the_one_that_looks_tells_that_the_database_is_away() -> None:
    """The others tell it where it lasts: they cannot know whether the one that looked still runs."""
    other = Scene(FakeDatabase(held=False))
    await other.look_at(0)
    other.database.away = True
    await other.look_at(60, 240, 900)
    assert other.receiver.heard == []
    other.database.away = False
    await other.look_at(930)
    assert other.receiver.heard == []
    other.database.away = True
    await other.look_at(1000, 1900)
    [[alert]] = other.receiver.heard
    assert (alert.alert, alert.state) == ("supabase", "open")
