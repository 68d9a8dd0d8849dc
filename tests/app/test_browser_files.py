"""Which of Streamlit's modules a page asks for, and when; files that are answered from memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from app.browser_files import KeptFiles, later_modules, modules
from app.figure_module import sooner
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
        body = b"let a" + scope["path"].encode()
        length = (b"Content-Length", b"%d" % len(body))
        headers = [(b"content-type", b"application/javascript"), length, self.header]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})


def asked(
    application: Application,
    times: Iterable[tuple[str, str]],
    *headers: tuple[bytes, bytes],
) -> list[tuple[Any, bytes]]:
    """The beginning and the whole body of each answer, given (method, path)."""
    kept, answers = KeptFiles(application), []

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


@pytest.mark.slow
def test_a_page_without_figures_on_its_first_screen_reads_what_draws_them_later() -> None:
    every = set(modules())
    for page in PAGES:
        now, later = modules(page), later_modules(page)
        assert set(now) | set(later) == every
        assert not set(now) & set(later)
    assert any("/PlotlyChart." in path for path in later_modules("study"))
    assert any("/PlotlyChart." in path for path in modules("probes"))
    assert modules("no such page") == modules("training")


@pytest.fixture(scope="module")
def figure_module() -> bytes:
    """What Streamlit draws figures with."""
    import streamlit

    (path,) = Path(streamlit.__file__).with_name("static").glob("static/js/PlotlyChart.*.js")
    return path.read_bytes()


def test_kinds_of_traces_that_no_page_draws_wait_and_nothing_else_is_changed(
    figure_module: bytes,
) -> None:
    register = re.compile(rb"\.register\(\[([\w$(),]+)\]\)")
    (every,) = (set(one.split(b",")) for one in register.findall(figure_module))
    now = sooner(figure_module)
    (first,) = (set(one.split(b",")) for one in register.findall(now))
    (rest,) = (set(one.split(b",")) for one in re.findall(rb"\(\)=>\[([\w$(),]+)\]\)", now))
    assert len(first) == 3  # bars, maps, calendars; lines are a part of Plotly itself
    assert first | rest == every
    assert not first & rest
    before, at, after = figure_module.partition(b".register([")
    assert now.startswith(before + at)
    assert now.endswith(after.partition(b"])")[2])


@pytest.mark.parametrize(
    "other", [b"", b"export{a as default}", b'n.register([Iu(),hee()]),"lib/"']
)
def test_a_module_that_is_built_differently_is_left_as_it_is(other: bytes) -> None:
    assert sooner(other) == other


def test_the_module_of_figures_is_given_changed_and_its_length_is_told(
    figure_module: bytes,
) -> None:
    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [FOR_EVER, (b"Content-Length", b"%d" % len(figure_module))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": figure_module})

    path = "/static/js/PlotlyChart.abc.js"
    for start, body in asked(application, [("GET", path), ("GET", path)]):  # type: ignore[arg-type]
        assert body == sooner(figure_module) != figure_module
        lengths = [value for name, value in start["headers"] if name.lower() == b"content-length"]
        assert lengths == [b"%d" % len(body)]


PIECE = {"type": "http.response.body", "body": b"let", "more_body": True}


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([], id="behind its headers"),
        pytest.param([PIECE], id="in the middle"),
        pytest.param([PIECE, {"type": "http.response.body", "body": b""}], id="with an end"),
    ],
)
def test_an_answer_that_breaks_off_is_not_kept(pieces: list[Any]) -> None:
    class Broken(Application):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.asked += 1
            headers = [FOR_EVER, (b"content-length", b"5")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for piece in pieces:
                await send(dict(piece))

    application = Broken(200, FOR_EVER)
    asked(application, [("GET", PATH)] * 2)
    assert application.asked == 2


@pytest.mark.parametrize("turns", [0, 10, 100, 1000])
def test_a_browser_that_leaves_spoils_no_file_for_the_next_one(tmp_path: Path, turns: int) -> None:
    from starlette.responses import FileResponse

    file = tmp_path / "a.js"
    file.write_bytes(b"let a;" * 40_000)  # in several pieces
    policy = {name.decode(): value.decode() for name, value in [FOR_EVER]}
    kept = KeptFiles(FileResponse(file, headers=policy))
    scope = {"type": "http", "method": "GET", "path": PATH, "headers": []}

    async def ask(leaves: bool) -> bytes:
        sent: list[Any] = []

        async def receive() -> Any:
            for _ in range(turns):  # of the event loop, until it leaves
                await asyncio.sleep(0)
            if not leaves:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await kept(scope, receive, send)
        return b"".join(one.get("body", b"") for one in sent)

    async def both() -> bytes:
        await ask(leaves=True)
        return await ask(leaves=False)

    assert asyncio.run(both()) == file.read_bytes()
