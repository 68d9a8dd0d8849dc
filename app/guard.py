"""Who may talk to the explorer: pages of its own, in a browser on this computer.

A server on localhost can be reached by every page that a browser has open: by name, where a
foreign name is made to point here (DNS rebinding), and across origins, where no cookie is needed.
So only requests to the names that were asked for are answered, and those that a page sends only
where that page is the explorer itself. What is answered must not load from elsewhere, nor be
framed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("localhost", "127.0.0.1", "[::1]")
_METHODS = ("GET", "HEAD")  # nothing is uploaded, and there is no login


def names(port: int, hosts: Collection[str] = LOCAL) -> frozenset[str]:
    """The values of Host that name the explorer; port 80 is left out by browsers."""
    return frozenset(f"{host}:{port}" for host in hosts) | (
        frozenset(hosts) if port == 80 else frozenset()
    )


class Guard:
    """ASGI middleware in front of everything: pages, media, uploads, health and the websocket.

    Args:
        hosts: the values of the Host header that are answered, with their port (`names`).
        scripts: scripts that may stand inside of the page; others load from the explorer only.
        modules: paths of modules that a page needs soon, given its name, so that browsers fetch
            them at once and not when they come by a figure.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str],
        scripts: Sequence[str] = (),
        modules: Callable[[str], Sequence[str]] = lambda _page: (),
    ) -> None:
        self._app = app
        self._modules = modules
        self._hosts = frozenset(hosts)
        self._scripts = "".join(f" '{_hash(script)}'" for script in scripts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is not None:
            await _refuse(scope, receive, send, *refused)
            return
        host = _headers(scope, b"host")[0]
        moved = False

        async def guarded(message: Message) -> None:
            nonlocal moved
            if message["type"] == "http.response.start":
                headers = [h for h in message["headers"] if h[0].lower() not in _REPLACED]
                page = any(h[0].lower() == b"content-type" and b"html" in h[1] for h in headers)
                soon = self._soon(scope) if page else []
                # The page answers at any path, and would look for its own files there.
                moved = page and scope.get("path", "/") != "/"
                if moved:
                    query = scope.get("query_string", b"")
                    message["status"] = 307
                    headers, soon = [(b"location", b"/?" + query), (b"content-length", b"0")], []
                message["headers"] = [*headers, *_answer(host, self._scripts), *soon]
            elif moved:
                message["body"] = b""
            await send(message)

        await self._app(scope, receive, guarded)

    def _soon(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Headers that name the modules of the page that is asked for."""
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        return [
            (b"link", f"<{path}>; rel=modulepreload; crossorigin".encode("latin-1"))
            for path in self._modules(asked.get("page", [""])[-1])
        ]

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, or None where the request may be answered."""
        hosts, origins = _headers(scope, b"host"), _headers(scope, b"origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 421, f"The explorer answers only at {' or '.join(sorted(self._hosts))}."
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return 403, "The explorer answers only its own pages."
        # Without an Origin header a foreign page can still embed what it may not read.
        site, mode = _headers(scope, b"sec-fetch-site"), _headers(scope, b"sec-fetch-mode")
        if site and site[0] in ("cross-site", "same-site") and mode[:1] != ["navigate"]:
            return 403, "The explorer answers only its own pages."
        if scope["type"] == "http" and scope["method"] not in _METHODS:
            return 405, "The explorer takes nothing but GET."
        return None


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _answer(host: str, scripts: str) -> list[tuple[bytes, bytes]]:
    """Headers of every answer: nothing from elsewhere, no frames around it, no traces left."""
    policy = "; ".join(
        (
            "default-src 'self'",
            # Streamlit hands components of our own to the browser as blobs.
            f"script-src 'self' blob:{scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            f"connect-src 'self' ws://{host} data: blob:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )
    return [
        (b"content-security-policy", policy.encode("latin-1")),
        (b"x-frame-options", b"DENY"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),  # the address holds prompts
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
    ]


_REPLACED = {name for name, _ in _answer("", "")}


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
