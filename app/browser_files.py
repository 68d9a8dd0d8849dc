"""Files of Streamlit's own page: which of them a page needs soon, and how they are answered.

A page consists of more than a hundred modules, which a browser that was never here before waits
for. They never change, so that they are answered from memory: looked up, opened and read anew, each
takes three times as long of the server's one thread.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.figure_module import sooner

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Headings come first: what draws them has to be there before what draws figures.
_WORDS = (
    *("Html", "Selectbox", "Radio", "Button", "ButtonGroup", "DownloadButton", "TextInput"),
    "BidiComponent",
)
_TABLES, _FIGURES = ("DataFrame",), ("PlotlyChart",)
_WITHOUT = ("start", "study", "circuit", "jobs")
"""Pages whose first screen has neither figures nor tables."""
_IMPORTED = re.compile(r"(?:from|import)\s*[\"'`]\./([\w.-]+\.js)[\"'`]")

_FOLDER = "/static/"
_LENGTH = b"content-length"
_PARTLY = (b"range", b"if-none-match", b"if-modified-since", b"if-range")


def modules(page: str = "") -> tuple[str, ...]:
    """Paths of Streamlit's modules that draw headings, controls and components of our own, and
    tables and figures where the first screen has some, with all that these import and Streamlit's
    page does not name itself.

    Args:
        page: its name; empty for the usual one.
    """
    return _paths(_drawing(page))


def later_modules(page: str) -> tuple[str, ...]:
    """Those that other pages and what is below the screen need besides."""
    now = set(modules(page))
    return tuple(path for path in _paths((*_WORDS, *_TABLES, *_FIGURES)) if path not in now)


def _drawing(page: str) -> tuple[str, ...]:
    if page in _WITHOUT:
        return _WORDS
    tables = _TABLES if page in ("", "examples") else ()
    return (*_WORDS, *tables, *_FIGURES)


@functools.cache
def _paths(drawing: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of modules, by the beginnings of their names, and of what they import."""
    import streamlit

    static = Path(streamlit.__file__).with_name("static")
    folder = static / "static" / "js"
    own = static.joinpath("index.html").read_text(encoding="utf-8")
    found: dict[str, None] = {}
    todo = [at.name for name in drawing[::-1] for at in folder.glob(f"{name}.*.js")]
    while todo:
        name = todo.pop()
        if name in found or name in own or not (folder / name).is_file():
            continue
        found[name] = None
        todo += _IMPORTED.findall((folder / name).read_text(encoding="utf-8"))
    return tuple(f"/static/js/{name}" for name in found)


class KeptFiles:
    """ASGI middleware that gives again what the application has given, where the application says
    that it stays as it is for ever (`immutable`), and the module that draws figures so that it is
    ready sooner.

    Requests for parts of a file, or for a file if it has changed, are the application's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._kept: dict[str, tuple[Message, Message]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _whole(scope):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path not in self._kept:
            given: list[Message] = []

            async def noted(message: Message) -> None:
                given.append(message)

            await self._app(scope, receive, noted)
            if not _stays(given):
                for message in given:
                    await send(message)
                return
            self._kept[path] = _in_one_piece(path, given)
        start, body = self._kept[path]
        await send({**start, "headers": list(start["headers"])})
        await send(body)


def _whole(scope: Scope) -> bool:
    """Whether all of a file is asked for, whatever the browser has."""
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and scope["path"].startswith(_FOLDER)
        and not any(name.lower() in _PARTLY for name, _ in scope["headers"])
    )


def _stays(given: Sequence[Message]) -> bool:
    """Whether messages are the whole answer with a file that never changes.

    Where a browser leaves, the answer ends in the middle, or behind its headers.
    """
    if not given or given[0]["type"] != "http.response.start":
        return False
    if given[-1]["type"] != "http.response.body" or given[-1].get("more_body", False):
        return False
    headers = {name.lower(): value for name, value in given[0]["headers"]}
    length = sum(len(piece.get("body", b"")) for piece in given[1:])
    return (
        given[0]["status"] == 200
        and b"immutable" in headers.get(b"cache-control", b"")
        and headers.get(_LENGTH) == b"%d" % length
    )


def _in_one_piece(path: str, given: Sequence[Message]) -> tuple[Message, Message]:
    """The beginning and the body of such an answer."""
    start, *pieces = given
    body = b"".join(piece.get("body", b"") for piece in pieces)
    headers = [(name, value) for name, value in start["headers"] if name.lower() != _LENGTH]
    if path.rpartition("/")[2].startswith(f"{_FIGURES[0]}."):
        body = sooner(body)
    headers.append((_LENGTH, b"%d" % len(body)))
    return {**start, "headers": headers}, {"type": "http.response.body", "body": body}
