"""Only the explorer's own pages are answered, and nothing outside is asked."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app import browser_files, server, starting
from app.guard import Guard, names
from experiments.records import RunRecord
from tests.app.pages import root_of

pytestmark = pytest.mark.slow

PORT = 8501
OWN = f"localhost:{PORT}"
RECORDING = Path(__file__).with_name("recording")


def answer(kind: str = "http", method: str = "GET", **headers: str | list[str]) -> list[Any]:
    """What comes back through the guard from an application that answers everything."""
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"Content-Security-Policy", b"none")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [
        (name.replace("_", "-").encode(), value.encode())
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    scope = {"type": kind, "method": method, "path": "/", "headers": raw}
    asyncio.run(Guard(application, names(PORT), ["go()"])(scope, receive, send))
    return sent


def status(**headers: Any) -> int:
    return int(answer(**headers)[0]["status"])


@pytest.mark.parametrize("host", [OWN, f"127.0.0.1:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_its_own_names_are_answered(host: str) -> None:
    assert status(host=host) == 200
    assert status(host=host, origin=f"http://{host.lower()}") == 200


def test_a_page_names_the_modules_that_it_will_need() -> None:
    """As they lie in the installed Streamlit; answers that are no page name none."""
    import streamlit

    def links(kind: bytes) -> list[bytes]:
        sent: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-type", kind)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def keep(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "headers": [(b"host", OWN.encode())]}
        guard = Guard(application, names(PORT), modules=browser_files.modules)
        asyncio.run(guard(scope, keep, keep))  # type: ignore[arg-type]
        return [value for name, value in sent[0]["headers"] if name == b"link"]

    found = [link.decode().split(">")[0].removeprefix("</") for link in links(b"text/html")]
    static = Path(streamlit.__file__).with_name("static")
    assert all((static / path).is_file() for path in found)
    drawing = [Path(path).name.split(".")[0] for path in found]
    assert {"Html", "Selectbox", "DataFrame", "BidiComponent", "PlotlyChart"} <= set(drawing)
    assert drawing.index("Html") == 0  # what draws headings
    # What these import is named, too, unless Streamlit's page names it.
    page = (static / "index.html").read_text()
    imported = [
        name
        for path in found
        for name in re.findall(r'from"\./([^"]+\.js)"', (static / path).read_text())
    ]
    assert len(imported) > 20
    for name in imported:
        assert name in page or f"static/js/{name}" in found
    assert len(set(found)) == len(found) < 100
    assert links(b"text/javascript") == []


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/", b"text/html; charset=utf-8", 200),
        ("/facts", b"text/html", 307),
        ("//evil.example/facts", b"text/html", 307),
        ("/static/js/a.js", b"text/javascript", 200),
        ("/_stcore/health", b"text/plain", 200),
    ],
)
def test_a_page_at_another_path_is_sent_to_its_own(path: str, kind: bytes, status: int) -> None:
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", kind), (b"Content-Length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"page"})

    async def keep(message: Any) -> None:
        sent.append(message)

    own = [(b"host", OWN.encode())]
    scope = {"type": "http", "method": "GET", "path": path, "headers": own}
    asyncio.run(
        Guard(application, names(PORT))(scope | {"query_string": b"example=3"}, keep, keep)  # type: ignore[arg-type]
    )
    start, body = sent
    headers = [(name.lower(), value) for name, value in start["headers"]]
    moved = status == 307
    assert start["status"] == status
    assert [v for n, v in headers if n == b"location"] == ([b"/?example=3"] if moved else [])
    assert [v for n, v in headers if n == b"content-length"] == [b"0" if moved else b"4"]
    assert body["body"] == (b"" if moved else b"page")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", f"evil.example:{PORT}", "localhost", "localhost:8502", f"0.0.0.0:{PORT}"),
        *(f"localhost.evil.example:{PORT}", f"localhost.:{PORT}", f"evil@localhost:{PORT}", ""),
        *(f"127.0.0.1:{PORT}.evil.example", f"localhost:{PORT},evil.example", []),
        [OWN, "evil.example"],
    ],
)
def test_other_names_are_not(host: str | list[str]) -> None:
    assert status(host=host) == 421
    (closed,) = answer("websocket", host=host)
    assert closed["type"] == "websocket.close"


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://evil.example",
            "null",
            "http://localhost:8888",
            f"https://{OWN}",
            "http://localhost",
        ),
        *(f"http://127.0.0.1:{PORT}", f"http://{OWN}.evil.example", f"http://evil@{OWN}", ""),
        [f"http://{OWN}", "http://evil.example"],
    ],
)
def test_pages_of_another_origin_are_not_answered(origin: str | list[str]) -> None:
    assert status(host=OWN, origin=origin) == 403
    (closed,) = answer("websocket", host=OWN, origin=origin)
    assert closed["type"] == "websocket.close"


def test_a_foreign_page_may_link_to_it_but_embed_nothing_of_it() -> None:
    for site in ("cross-site", "same-site"):
        sent = {"host": OWN, "sec_fetch_site": site}
        assert status(**sent, sec_fetch_mode="no-cors") == 403
        assert status(**sent, sec_fetch_mode="navigate") == 200
    assert status(host=OWN, sec_fetch_site="same-origin", sec_fetch_mode="cors") == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_is_taken(method: str) -> None:
    assert status(method=method, host=OWN) == 405


def test_pages_load_nothing_from_elsewhere_and_are_in_no_frame() -> None:
    headers = answer(host=OWN)[0]["headers"]
    policies = [value.decode() for name, value in headers if name.lower().endswith(b"policy")]
    (policy,) = [policy for policy in policies if "default-src" in policy]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'self'" in policy
    assert f"connect-src 'self' ws://{OWN} " in policy
    scripts = policy.split("script-src ")[1].split(";")[0]
    assert scripts.startswith("'self' blob: 'sha256-")
    assert "unsafe" not in scripts


def test_what_the_server_answers_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a socket that is made as Streamlit makes its own."""
    begun: list[Path] = []
    monkeypatch.setattr(starting, "begin", begun.append)

    async def held_back() -> bool:
        loop, met = asyncio.get_running_loop(), asyncio.Event()
        seen: list[bool] = []

        class Meeting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                it = transport.get_extra_info("socket")
                seen.append(not it.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()
                met.set()

        listening = socket.socket(socket.AF_INET)
        listening.bind(("127.0.0.1", 0))
        async with (
            server.up(Path("runs")),
            await loop.create_server(Meeting, sock=listening),
        ):
            with socket.create_connection(listening.getsockname(), timeout=10):
                await met.wait()
        return seen[0]

    assert not asyncio.run(held_back())
    assert begun == [Path("runs")]


@pytest.fixture(scope="module")
def running(record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The port of an explorer, and a file with every address that it has turned to."""
    folder = tmp_path_factory.mktemp("server")
    log = folder / "connections.txt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    paths = [str(RECORDING), str(Path(__file__).resolve().parents[2])]
    child = subprocess.Popen(
        [sys.executable, server.__file__, "--port", str(port), "--root", str(root_of(record))],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OBVERSE_CONNECTIONS": str(log),
            # What a user's own settings allow must not open it.
            "STREAMLIT_SERVER_ENABLE_CORS": "false",
            "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
            "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "true",
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port, log
    finally:
        child.terminate()
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def fetch(port: int, path: str, **headers: str) -> int:
    lines = [
        f"GET {path} HTTP/1.1",
        *(f"{n}: {v}" for n, v in headers.items()),
        "Connection: close",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(100).split()[1])


PATHS = ("/", "/_stcore/health", "/_stcore/host-config", "/media/x.png", "/_stcore/upload_file/a/b")


def test_every_address_of_a_running_explorer_is_guarded(running: Any) -> None:
    port, _ = running
    own = f"localhost:{port}"
    for path in (*PATHS, "/_stcore/metrics", "/_stcore/agent/openapi.json", "/static/css/none.css"):
        assert fetch(port, path, Host="evil.example") == 421, path
        assert fetch(port, path, Host=own, Origin="http://evil.example") == 403, path
        assert fetch(port, path, Host=own, Origin="http://localhost:8888") == 403, path
    assert fetch(port, "/_stcore/health", Host=own) == 200


def test_the_websocket_of_a_running_explorer_is_guarded_and_it_asks_nobody(running: Any) -> None:
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    port, log = running
    url = f"ws://localhost:{port}/_stcore/stream"
    for origin in ("http://evil.example", "http://localhost:8888", "null"):
        with pytest.raises(InvalidStatus):
            connect(url, origin=origin)  # type: ignore[arg-type]
    with pytest.raises(InvalidStatus):
        connect(url, additional_headers={"Host": "evil.example"})
    # A whole page, with its model, by the rightful way in.
    with connect(url, origin=f"http://localhost:{port}", max_size=None) as page:  # type: ignore[arg-type]
        asked = BackMsg()
        asked.rerun_script.query_string = ""
        page.send(asked.SerializeToString())
        said, told = b"", ForwardMsg()
        while told.WhichOneof("type") != "script_finished":
            said += (message := page.recv(timeout=60))  # type: ignore[operator, assignment]
            told.ParseFromString(message)
    assert b"Tom Cruise" in said
    assert not log.exists(), log.read_text()


def test_the_recording_of_addresses_notices_one(tmp_path: Path) -> None:
    code = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('8.8.8.8', 1))"
    log = tmp_path / "log"
    named = {"PYTHONPATH": str(RECORDING), "OBVERSE_CONNECTIONS": str(log)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | named, check=False)
    assert log.read_text() == "socket.connect 8.8.8.8\n"
