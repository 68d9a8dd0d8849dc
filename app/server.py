"""Starts the explorer: `python app/server.py [--port N] [--root DIR] [--run DIR]`.

Streamlit serves it, behind a guard of our own (`app.guard`), on this computer only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_HOST = "localhost"


def options(port: int) -> dict[str, Any]:
    """Streamlit's options; they win over what stands in a user's own configuration."""
    return {
        "server.address": _HOST,
        "server.port": port,
        # Without it Streamlit asks for an e-mail address and waits.
        "server.headless": True,
        "server.showEmailPrompt": False,
        "server.allowedHosts": ["localhost", "127.0.0.1", "::1"],
        "server.corsAllowedOrigins": [],
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.baseUrlPath": "",
        # Where it is not set, Streamlit asks outside for this computer's address.
        "browser.serverAddress": _HOST,
        "browser.serverPort": port,
        "browser.gatherUsageStats": False,
        "client.allowedOrigins": [f"http://{_HOST}:{port}"],
        # It looks at every object of every library after each click, for a third of a second; what
        # takes much memory are models, and those are collected when another is loaded.
        "runner.postScriptGC": False,
        # What the session state says of a control is also its default: a browser shows it sooner.
        "global.disableWidgetStateDuplicationWarning": True,
        "logger.level": "warning",
        "logger.hideWelcomeMessage": True,
    }


def _scripts() -> list[str]:
    """The scripts inside of Streamlit's own page."""
    import streamlit

    page = Path(streamlit.__file__).with_name("static") / "index.html"
    return re.findall(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)


def answer_at_once(loop: asyncio.AbstractEventLoop) -> None:
    """Have servers of this loop hold nothing back that is small (Nagle's algorithm).

    Each of the page's hundred modules would else wait 40 ms until the browser has acknowledged its
    headers. asyncio sees to that only for sockets whose protocol was named when they were made.
    """
    make = loop.create_server

    async def made(*args: Any, sock: socket.socket | None = None, **settings: Any) -> Any:
        if sock is not None:  # what it accepts is as it is
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await make(*args, sock=sock, **settings)

    loop.create_server = made  # type: ignore[method-assign]


@contextlib.asynccontextmanager
async def up(root: Path) -> AsyncIterator[None]:
    """What is done before the first request is answered.

    Args:
        root: the folder of runs.
    """
    from app import starting

    answer_at_once(asyncio.get_running_loop())
    starting.begin(root)
    yield


def main() -> None:
    """Serve until a signal ends it. `--port` is ours, the rest is the page's."""
    import streamlit as st
    from starlette.middleware import Middleware

    from app import arguments
    from app.browser_files import KeptFiles, modules
    from app.guard import Guard, names

    parser = argparse.ArgumentParser(prog="obverse app", add_help=False)
    parser.add_argument("--port", type=int, default=8501)
    given, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    guard = Middleware(Guard, hosts=names(given.port), scripts=_scripts(), modules=modules)

    root = arguments.parse(rest).root
    app = st.App(
        _HERE / "main.py", middleware=[guard, Middleware(KeptFiles)], lifespan=lambda _app: up(root)
    )
    app.run(config=options(given.port))


if __name__ == "__main__":
    # Python puts this file's folder first, where `app` itself cannot be found; and what is found
    # elsewhere by that name is another's.
    sys.path.insert(0, str(_HERE.parent))
    main()
