"""The explorer's server, in a process that ends with the one that started it.

However that ends: a process that is killed with SIGKILL can tell nobody, but the system closes its
end of the pipe.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["serve", "served"]

# Modules are looked for where the starting process looks, and before anything is imported.
_SERVER = (
    "import json, sys; fd, paths = int(sys.argv.pop(1)), sys.argv.pop(1); "
    "sys.path[:] = json.loads(paths); "
    "from experiments.cli.serving import serve; serve(fd)"
)
_SECONDS_TO_END = 5.0


@contextmanager
def served(
    arguments: list[str], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs a script, and is gone after the block.

    Args:
        arguments: the script's path, and what it is told.
        environment: variables of its own.
    """
    watched, kept = os.pipe()
    try:
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", _SERVER, str(watched), json.dumps(sys.path), *arguments],
                env={**os.environ, **(environment or {})},
                pass_fds=[watched],
                stdin=subprocess.DEVNULL,
                # Its own greeting goes to stdout; errors go to stderr.
                stdout=subprocess.DEVNULL,
                # Ctrl-C reaches all that a terminal runs: it is the starting process that hears
                # it, and ends this one.
                start_new_session=True,
            )
        finally:
            os.close(watched)
        try:
            yield child
        finally:
            _stop(child)
    finally:
        os.close(kept)


def serve(descriptor: int) -> None:
    """What the process does; `sys.argv` holds the script and its arguments."""
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with(descriptor: int) -> None:
    """End this process when the other end of the pipe, which nobody writes to, is closed."""
    os.read(descriptor, 1)
    os._exit(1)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
