"""The explorer as `obverse app` starts it, and a Chromium to look at it with."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.records import RunRecord
from tests.app import material
from tests.browser.tabs import Tabs, opened

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass(frozen=True)
class Explorer:
    """A running explorer."""

    url: str
    port: int
    pid: int
    record: RunRecord
    patches: Path
    """Where the slow one writes down the patches of single cells that it has run."""

    def hold(self) -> None:
        """Have the slow one's work stop behind its first results."""
        self._go.unlink(missing_ok=True)

    def go_on(self) -> None:
        """Have it go on."""
        self._go.touch()

    @property
    def _go(self) -> Path:
        return self.patches.with_name("go")


@pytest.fixture(scope="session")
def record(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return material.run_once(tmp_path_factory)


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, chromium: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Server]]:
    """Those that the tests of this session need, by name, in the order in which they do; the first
    starts while the run is made that it is to show."""
    found: dict[str, Server] = {}
    for item in request.session.items:
        for name in _fixtures(item):
            if name in _COMMANDS and name not in found:
                found[name] = Server(_COMMANDS[name], tmp_path_factory.mktemp(name))
    try:
        next(iter(found.values())).begin()
        yield found
    finally:
        for server in found.values():
            server.terminate()
        for server in found.values():
            server.end()


@pytest.fixture(scope="session")
def explorer(servers: dict[str, Server], record: RunRecord) -> Explorer:
    return _ready(servers, "explorer", record)


@pytest.fixture(scope="session")
def slow_explorer(servers: dict[str, Server], record: RunRecord) -> Explorer:
    """Its maps take seconds to become exact."""
    return _ready(servers, "slow_explorer", record)


def _ready(servers: dict[str, Server], name: str, record: RunRecord) -> Explorer:
    """One that answers; the others start while it is being looked at."""
    found = servers[name].ready(record)
    for other in servers.values():
        other.begin()
    return found


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else ()


_COMMANDS = {
    "explorer": ["-m", "experiments.cli", "app", "--no-browser"],
    "slow_explorer": [str(Path(__file__).with_name("slow_main.py"))],
}


class Server:
    """An explorer, to be started.

    Args:
        command: what Python is to run.
        folder: where it logs, and has its folder of runs: a copy of a run, of which nothing was
            kept yet that somebody else has asked for.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self._log, self._root = folder / "explorer.txt", folder / "runs"
        self._patches = folder / "patches.txt"
        self._command, self._port = command, _free_port()
        self._child: subprocess.Popen[bytes] | None = None
        self._root.mkdir()

    def begin(self) -> subprocess.Popen[bytes]:
        """Start it, unless that was done."""
        if self._child is None:
            where = ["--port", str(self._port), "--root", str(self._root)]
            # Started elsewhere than in the checkout: it must not depend on the working directory.
            with self._log.open("wb") as output:
                self._child = subprocess.Popen(
                    [sys.executable, *self._command, *where],
                    cwd=self._root,
                    stdout=output,
                    stderr=output,
                    env=os.environ
                    | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
                    | {"OBVERSE_PATCHES": str(self._patches)},
                )
        return self._child

    def ready(self, record: RunRecord) -> Explorer:
        """It, with a run to show, as soon as it answers."""
        child = self.begin()
        runs = record.path.parent.parent
        kept = shutil.ignore_patterns("explored")
        shutil.copytree(runs, self._root, ignore=kept, dirs_exist_ok=True)
        _wait(child, self._port, self._log)
        url = f"http://localhost:{self._port}"
        return Explorer(url, self._port, child.pid, record, self._patches)

    def terminate(self) -> None:
        if self._child is not None:
            self._child.terminate()

    def end(self) -> None:
        """Wait until it is gone."""
        if self._child is None:
            return
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tabs(browser: Any) -> Tabs:
    return Tabs(browser)


@pytest.fixture
def open_page(explorer: Explorer, tabs: Tabs) -> Iterator[Callable[..., Any]]:
    """Opens a path; at the end no page may have complained.

    With `fresh` it is opened in a browser that knows nothing of the others: for another person's
    page, and for tests that leave cookies, a theme or permissions behind.
    """
    yield from opened(explorer.url, tabs)


@pytest.fixture
def open_slow_page(slow_explorer: Explorer, tabs: Tabs) -> Iterator[Callable[..., Any]]:
    """The same where maps take seconds."""
    yield from opened(slow_explorer.url, tabs)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with socket.create_connection(("localhost", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the explorer did not start:\n{log.read_text()}")
