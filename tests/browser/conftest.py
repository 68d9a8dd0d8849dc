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
    patches: Path | None = None
    """Where the slow one writes down the patches of single cells that it has run."""

    def hold(self) -> None:
        """Have the slow one's work stop behind its first results."""
        self._go.unlink(missing_ok=True)

    def go_on(self) -> None:
        """Have it go on."""
        self._go.touch()

    @property
    def _go(self) -> Path:
        assert self.patches is not None
        return self.patches.with_name("go")


@pytest.fixture(scope="session")
def record(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return material.run_once(tmp_path_factory)


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, record: RunRecord, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Server]]:
    """Those that the tests of this session need, starting beside each other."""
    wanted = {name for item in request.session.items for name in _fixtures(item)}
    begun = {}
    if "explorer" in wanted:
        command = [sys.executable, "-m", "experiments.cli", "app", "--no-browser"]
        begun["explorer"] = Server(command, record, _root(record), tmp_path_factory.mktemp("log"))
    if "slow_explorer" in wanted:
        command = [sys.executable, str(Path(__file__).with_name("slow_main.py"))]
        folder = tmp_path_factory.mktemp("log")
        root = folder / "runs"
        shutil.copytree(_root(record), root, ignore=shutil.ignore_patterns("explored"))
        patches = folder / "patches.txt"
        begun["slow_explorer"] = Server(command, record, root, folder, patches)
    try:
        yield begun
    finally:
        for server in begun.values():
            server.child.terminate()
        for server in begun.values():
            server.end()


@pytest.fixture(scope="session")
def explorer(servers: dict[str, Server]) -> Explorer:
    return servers["explorer"].ready()


@pytest.fixture(scope="session")
def slow_explorer(servers: dict[str, Server]) -> Explorer:
    """Its maps take seconds to become exact. The run is a copy: it has kept none of them yet."""
    return servers["slow_explorer"].ready()


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else ()


class Server:
    """An explorer that is starting.

    Args:
        root: the folder of runs.
        folder: where it logs.
        patches: where the slow one writes down its patches.
    """

    def __init__(
        self,
        command: list[str],
        record: RunRecord,
        root: Path,
        folder: Path,
        patches: Path | None = None,
    ) -> None:
        self._log, self._record, self._patches = folder / "explorer.txt", record, patches
        self._port = _free_port()
        # Started elsewhere than in the checkout: it must not depend on the working directory.
        with self._log.open("wb") as output:
            self.child = subprocess.Popen(
                [*command, "--port", str(self._port), "--root", str(root)],
                cwd=_root(record),
                stdout=output,
                stderr=output,
                env=os.environ
                | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
                | ({} if patches is None else {"OBVERSE_PATCHES": str(patches)}),
            )

    def ready(self) -> Explorer:
        """It, as soon as it answers."""
        _wait(self.child, self._port, self._log)
        url = f"http://localhost:{self._port}"
        return Explorer(url, self._port, self.child.pid, self._record, self._patches)

    def end(self) -> None:
        """Wait until it is gone."""
        try:
            self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def _root(record: RunRecord) -> Path:
    return record.path.parent.parent


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
