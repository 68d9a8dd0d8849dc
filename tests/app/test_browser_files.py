"""Which of Streamlit's modules a page asks for, and when; files that are answered from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from app.browser_files import KeptFiles, later_modules, modules
from app.selection import PAGES

FOR_EVER = (b"cache-control", b"public, immutable, max-age=31536000")
PATH = "/static/js/a.js"


class Application:
    """Gives each file in two pieces, and counts how often it is asked."""

    def __init__(self, status: int, header: tuple[bytes, bytes]) -> None:
        self.status = status
        self.header = header
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        headers = [(b"content-type", b"application/javascript"), self.header]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"let a", "more_body": True})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


def asked(
    application: Application,
    times: Iterable[tuple[str, str]],
    *headers: tuple[bytes, bytes],
) -> list[tuple[Any, bytes]]:
    """The beginning and the whole body of each answer, given (method, path)."""
    kept, answers = KeptFiles(application), []  # type: ignore[var-annotated]

    async def ask(method: str, path: str) -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                sent.append({**message, "headers": list(message["headers"])})
                message["headers"].append((b"x-added", b"by the one around it"))
            else:
                sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        await kept(scope, send, send)  # type: ignore[arg-type]
        answers.append((sent[0], b"".join(one["body"] for one in sent[1:])))

    for method, path in times:
        asyncio.run(ask(method, path))
    return answers


def test_what_stays_for_ever_is_asked_for_once_and_given_whole() -> None:
    application = Application(200, FOR_EVER)
    other = "/static/js/b.js"
    answers = asked(application, [("GET", PATH), ("GET", other), ("GET", PATH), ("GET", PATH)])
    assert application.asked == 2
    assert [body for _, body in answers] == [
        f"let a{one}".encode() for one in (PATH, other, PATH, PATH)
    ]
    assert answers[0][0] == answers[2][0] == answers[3][0]


@pytest.mark.parametrize(
    ("status", "header", "method", "path", "sent"),
    [
        (200, (b"cache-control", b"no-cache"), "GET", PATH, ()),
        (404, FOR_EVER, "GET", PATH, ()),
        (206, FOR_EVER, "GET", PATH, ((b"Range", b"bytes=0-3"),)),
        (304, FOR_EVER, "GET", PATH, ((b"if-none-match", b'"a"'),)),
        (200, FOR_EVER, "HEAD", PATH, ()),
        (200, FOR_EVER, "GET", "/media/a.js", ()),
    ],
)
def test_anything_else_is_asked_for_each_time(
    status: int,
    header: tuple[bytes, bytes],
    method: str,
    path: str,
    sent: tuple[tuple[bytes, bytes], ...],
) -> None:
    application = Application(status, header)
    asked(application, [(method, path)] * 2, *sent)
    assert application.asked == 2


def test_a_page_without_figures_on_its_first_screen_reads_what_draws_them_later() -> None:
    every = set(modules())
    for page in PAGES:
        now, later = modules(page), later_modules(page)
        assert set(now) | set(later) == every
        assert not set(now) & set(later)
    assert any("/PlotlyChart." in path for path in later_modules("study"))
    assert any("/PlotlyChart." in path for path in modules("probes"))
    assert modules("no such page") == modules("training")
