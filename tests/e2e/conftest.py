"""The app as a real process, and a real browser in front of it."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from quantui.jobs.launch import cancel
from quantui.jobs.store import JobStore
from quantui.workspace import Workspace
from tests.e2e.browser import FLAGS, ensure

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "e2e"
"""Where the page of a failed test is pictured."""

_failed = pytest.StashKey[bool]()


class App:
    """`python app.py` on a port and a workspace of its own, with more options where there are.

    Attributes:
        url: where it answers, without a slash at the end.
        workspace: what it works on.
        process: the web process.
        restarts: how often it was started again.
    """

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self._options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.workspace = Workspace(folder / "workspace")
        self._log = folder / "app.log"
        self.restarts = 0
        self.process = self._start()

    def restart(self, *, kill: bool = False) -> None:
        """Ends the web process and starts it again on the same port; jobs go on."""
        self.restarts += 1
        self.stop(kill=kill)
        self.process = self._start()

    def stop(self, *, kill: bool = False) -> None:
        """Ends the web process as Ctrl-C would, or with SIGKILL."""
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGINT)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the app does not end on SIGINT:\n{self.log()}") from None

    def log(self) -> str:
        """What the web process has printed."""
        return self._log.read_text(errors="replace")

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "app.py", "--port", str(self._port), "--workspace", str(self.workspace.root)]
        command += ["--no-open", *self._options]
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 60
        while not _answers(self.url):
            assert process.poll() is None, f"the app has ended:\n{self.log()}"
            assert time.monotonic() < end, f"the app does not answer:\n{self.log()}"
            time.sleep(0.05)
        return process


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def check_nothing_cut(page: Page, within: str, but: str, *, widths: Sequence[int]) -> None:
    """No text in elements of a selector, less those in others, needs more room than it has; nor does the page itself.

    Args:
        within: selects the elements.
        but: selects what they may not stand in.
        widths: of the window, each tried.
    """
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        cut = page.evaluate(
            "([within, but]) => [...document.querySelectorAll(within)].filter(e => e.children.length === 0"
            " && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline' && !e.closest(but))"
            ".map(e => e.outerHTML.slice(0, 120))",
            [within, but],
        )
        assert cut == [], width


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app of all tests."""
    app = App(tmp_path_factory.mktemp("app"))
    yield app
    app.stop(kill=True)


@pytest.fixture(scope="module")
def app(started: App) -> Iterator[App]:
    """The app, on a workspace with nothing but the demo in it: every file of tests begins with such a one."""
    root = started.workspace.root
    for entry in root.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    Workspace(root).add_demo()
    yield started
    store = JobStore(started.workspace.runs)
    for run in store.list():
        cancel(store, run.id)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=ensure(), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One profile for all tests, so that scripts are compiled once: that takes longer than anything else in opening a page."""
    context = browser.new_context(locale="en-US", color_scheme="light", reduced_motion="reduce")
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture(scope="session")
def window(context: BrowserContext) -> Callable[[], Page]:
    """Gives the one page of all tests: a new one would start a process and read every script again."""
    opened: list[Page] = []

    def give() -> Page:
        if not opened or opened[-1].is_closed():
            opened.append(context.new_page())
        return opened[-1]

    return give


@pytest.fixture
def console_errors() -> list[str]:
    """What the page complains of: errors on its console, uncaught exceptions, requests to other hosts.

    `page` wants it empty at the end of a test; a test that provokes some clears it. Requests broken by a restart of the web
    process do not count.
    """
    return []


@pytest.fixture
def page(app: App, window: Callable[[], Page], console_errors: list[str], request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page, 1280 by 800, English, empty and with nothing remembered; nothing may be wrong on its console after the test."""

    restarts = app.restarts

    def on_console(message: ConsoleMessage) -> None:
        broken = "net::ERR_" in message.text and app.restarts > restarts
        if message.type == "error" and not broken:
            console_errors.append(f"console: {message.text} ({message.location.get('url')})")

    def on_request(asked: Request) -> None:
        if re.match(r"(https?|wss?)://(?!127\.0\.0\.1[:/])", asked.url):
            console_errors.append(f"asked another host: {asked.url}")

    page = window()
    page.set_viewport_size({"width": 1280, "height": 800})
    heard = {
        "console": on_console,
        "pageerror": lambda error: console_errors.append(f"uncaught: {error}"),
        "request": on_request,
    }
    for event, listener in heard.items():
        page.on(event, listener)  # type: ignore[call-overload]
    yield page
    if request.node.stash.get(_failed, False):
        SHOTS.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Exception):  # the page itself may be what has failed
            page.screenshot(path=SHOTS / f"{request.node.name}.png", full_page=True)
        (SHOTS / f"{request.node.name}.log").write_text(app.log())
    if not page.is_closed():
        if page.url.startswith(app.url):
            page.evaluate("localStorage.clear(); sessionStorage.clear()")  # what is remembered is not for the next test
        page.goto("about:blank")
    for event, listener in heard.items():
        page.remove_listener(event, listener)
    page.context.clear_cookies()
    assert not console_errors, "\n".join(console_errors)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remembers for the fixtures above that a test has failed."""
    report = yield
    if report.when == "call" and report.failed:  # type: ignore[attr-defined]
        item.stash[_failed] = True
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything beside this file as e2e; tests that restart the app come last, as it imports torch anew each time."""
    here = Path(__file__).parent
    items.sort(key=lambda item: "restart" in item.name)
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
