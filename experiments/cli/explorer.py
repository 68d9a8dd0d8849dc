"""`obverse app`: the explorer, on this computer only."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from cache.errors import ObverseError
from experiments.cli import options
from experiments.cli.console import guarded, say
from experiments.cli.serving import served

__all__ = ["explorer"]

_HOST = "localhost"
_SECONDS_TO_START = 60.0


@guarded(stopped="The explorer is stopped.")
def explorer(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this computer.")] = 8501,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Open this run directory.",
            show_default="the newest run",
            parser=options.folder,
            metavar="FOLDER",
        ),
    ] = None,
    root: options.Runs = options.DEFAULT_RUNS,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Open the explorer in the browser.

    It listens on this computer only: whoever can reach it can make it compute. Ctrl-C ends it.

    Examples:

    - `obverse app`
    - `obverse app --port 8600 --run runs/reversal-curse/…`
    - `obverse app --device-map auto`
    """
    if run is not None:
        from experiments.records import RunRecord

        RunRecord.open(run)
    lies = options.environment(device_map, offload_folder, max_memory)
    check_port(port)
    address = f"http://{_HOST}:{port}"
    say(f"Starting the explorer at {address} …")
    with served(server_arguments(port, run, root), lies) as child:
        if not _answers(child, port):
            raise ObverseError(
                "The explorer did not start; what it printed above says why, or try --port."
            )
        say("The explorer is ready; Ctrl-C ends it.")
        if browser and _has_display():
            webbrowser.open(address)
        code = child.wait()
    if code != 0:
        raise ObverseError(f"The explorer ended with exit code {code}; start it again.")


def server_arguments(port: int, run: Path | None, root: Path) -> list[str]:
    # Not by its name: a user's own folder `app` would be found first.
    server = Path(__file__).resolve().parents[2] / "app" / "server.py"
    if not server.is_file():
        raise ObverseError("The explorer is not installed; install obverse with 'pip install'.")
    arguments = [str(server), "--port", str(port), "--root", str(root)]
    return arguments + ([] if run is None else ["--run", str(run)])


def check_port(port: int) -> None:
    """Raise unless `port` is free on every address that the host name stands for."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        _HOST, port, type=socket.SOCK_STREAM
    ):
        with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
            # As servers do it: a port whose last owner has just ended counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise ObverseError(
                        f"Port {port} is in use; end what uses it, or choose another --port."
                    ) from error
                if error.errno == errno.EACCES:
                    raise ObverseError(
                        f"Port {port} is reserved for the system; choose a --port above 1023."
                    ) from error
                # An address family that this computer does not have is no obstacle.


def _answers(child: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server takes connections; False if it ends or takes too long."""
    deadline = time.monotonic() + _SECONDS_TO_START
    while child.poll() is None and time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((_HOST, port), timeout=1),
        ):
            return True
        time.sleep(0.1)
    return False


def _has_display() -> bool:
    """Whether a browser can open a window; without one it would take over the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
