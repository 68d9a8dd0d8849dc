"""Pages of a Chromium that one test after the other uses.

A page that is opened anew gets a process of its own, which reads and compiles all scripts again:
that takes longer than to draw what a test looks at. So a page is emptied behind a test, and left
open for the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_VIEWPORT = {"width": 1280, "height": 800}
_EMPTY = "/_stcore/health"  # a line of text, from where the pages come from


class Tabs:
    """Those of a browser: pages of one person, and pages of others, who know nothing of each
    other's."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._own: Any = None
        self._free: dict[bool, list[Any]] = {False: [], True: []}

    def take(self, fresh: bool) -> Any:
        """A page with nothing on it; another person's if `fresh`."""
        if self._free[fresh]:
            return self._free[fresh].pop()
        if fresh:
            return self._context().new_page()
        self._own = self._own or self._context()
        return self._own.new_page()

    def give_back(self, page: Any, url: str, fresh: bool) -> None:
        """Empty a page of the explorer at `url`; another person forgets all that it has left."""
        from playwright.sync_api import Error

        try:
            page.goto(url + _EMPTY)
            page.set_viewport_size(_VIEWPORT)
            page.set_default_timeout(90_000)
            page.evaluate("sessionStorage.clear()")
            if fresh:
                page.evaluate("localStorage.clear()")
                page.context.clear_cookies()
                page.context.clear_permissions()
        except Error:  # it hangs: the next one is a new one
            with contextlib.suppress(Error):
                page.close()
        else:
            self._free[fresh].append(page)

    def _context(self) -> Any:
        return self._browser.new_context(viewport=_VIEWPORT)


@dataclass
class Complaints:
    """What a page did that none of ours may do."""

    console: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def opened(url: str, tabs: Tabs) -> Iterator[Callable[..., Any]]:
    """What opens paths at `url`; at the end no page may have complained."""
    taken: list[tuple[Any, bool]] = []
    complaints = Complaints()

    def on_console(message: Any) -> None:
        if message.type == "error":
            complaints.console.append(message.text)

    def on_error(error: Any) -> None:
        complaints.console.append(str(error))

    def on_dialog(dialog: Any) -> None:
        complaints.dialogs.append(dialog.message)
        dialog.dismiss()

    def on_request(request: Any) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            complaints.foreign.append(request.url)

    watchers = {
        "console": on_console,
        "pageerror": on_error,
        "dialog": on_dialog,
        "request": on_request,
    }

    def open_(path: str = "/", *, fresh: bool = False) -> Any:
        page = tabs.take(fresh)
        taken.append((page, fresh))
        for event, watcher in watchers.items():
            page.on(event, watcher)
        page.goto(path if path.startswith("http") else url + path)
        return page

    yield open_
    for page, fresh in taken:
        for event, watcher in watchers.items():
            page.remove_listener(event, watcher)
        tabs.give_back(page, url, fresh)
    assert complaints == Complaints(), complaints
