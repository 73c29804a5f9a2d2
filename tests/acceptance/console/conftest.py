"""One embedded stack, worker and simulated fleet for all tests of the console, and a browser for each file.

Chromium is Debian's; every page is watched: a violation of the Content-Security-Policy, an error of a script,
a request to a third host or a token in an address fails its test.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mqtt_service.devstack.auth.routes import SEEDED_PASSWORD
from tests.acceptance.processes import dev_stack, running, worker
from tests.requirements import require

# Chromium without a window: it takes two thirds of the CPU.
CHROMIUM = "/usr/bin/chromium-headless-shell"
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
DEVICE_A = "a0000000-0000-4000-8000-000000000031"
DEVICE_B = "b0000000-0000-4000-8000-000000000031"
# In the page, before its own scripts: what the policy refuses.
_WATCH = """
document.addEventListener('securitypolicyviolation', (event) => {
  console.error(`refused by the policy: ${event.violatedDirective} ${event.blockedURI}`);
});
"""

expect.set_options(timeout=20_000)


@dataclass(frozen=True)
class Console:
    """Where everything is: the stack's env, the console's address (the worker's)."""

    env: dict[str, str]
    url: str

    @property
    def api(self) -> str:
        return self.env["SUPABASE_URL"]


@pytest.fixture(scope="package")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The stack, a worker that serves the console, and a device of each company that is awake and obeys.

    The worker looks often: what became of a rollout's commands is counted when it looks.
    """
    require("chromium-headless-shell")
    directory = tmp_path_factory.mktemp("console")
    with dev_stack(directory) as env, worker(env, directory, CONSOLE="true", POLL_INTERVAL="0.5") as serving:
        ids = ["AA:BB:CC:DD:EE:FF", "BB:BB:CC:DD:EE:01"]
        broker = ["--host", env["MQTT_HOST"], "--port", env["MQTT_PORT"]]
        with running(["simulate", *ids, *broker], {}, directory) as fleet:
            fleet.says(r"awake(.|\n)*awake")
            yield Console(env, serving.url)


@pytest.fixture
def database(console: Console) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The database as its owner, each statement its own transaction."""
    with psycopg.connect(console.env["SUPABASE_DB_URL"], autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for the tests of one file: its event loop must not outlive them."""
    require("chromium-headless-shell")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield started
        started.close()


@dataclass
class Watched:
    """What a page did that it must not do."""

    hosts: set[str]
    faults: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.add_init_script(_WATCH)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("console", lambda message: self._said(message.text))
        page.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url))

    def _said(self, text: str) -> None:
        if "policy" in text.lower():
            self.faults.append(text)

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.netloc not in self.hosts:
            self.faults.append(f"asked another host: {url}")
        # How each JSON web token begins; the address of a private file is signed, for that file and an hour.
        if "eyJ" in url and "/storage/v1/object/sign/" not in parts.path:
            self.faults.append("a token in an address")


@pytest.fixture
def open_page(browser: Browser, console: Console) -> Iterator[Callable[..., Page]]:
    """Open an address of the console in a context of its own, signed in as somebody of seed.sql."""
    watched = Watched({urlsplit(console.url).netloc, urlsplit(console.api).netloc})
    contexts = []

    def open_it(who: str | None = "operator.a", address: str = "", **options: object) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        watched.watch(page)
        page.goto(f"{console.url}/console/{address}")
        if who is not None:
            sign_in(page, who)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not watched.faults


def sign_in(page: Page, who: str) -> None:
    """Sign in as `operator.a` and so on; returns once the frame is there."""
    page.get_by_label("E-mail").fill(f"{who}@example.test")
    page.get_by_label("Password").fill(SEEDED_PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()


def access_token(page: Page) -> str:
    """The token of the page's session."""
    token: str = page.evaluate("JSON.parse(localStorage.getItem('mqtt-console-session')).access_token")
    return token
