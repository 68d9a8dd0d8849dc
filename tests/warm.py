"""Processes of their own that start at once: forked from one that has imported what takes long.

Each is a process like any other, with its own environment, folder, streams and end; only what
importing does, and what Python itself does as it starts and ends, calls for a fresh interpreter.
The one that stands ready is small and has one thread: to fork the process that runs the tests,
with all that they import, would take longer than most of them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Process:
    """A module as `python -m` runs it; of `subprocess.Popen`'s methods those that tests need."""

    def __init__(
        self, module: str, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]
    ) -> None:
        self.returncode: int | None = None
        pipes = [os.pipe() for _ in range(3)]
        try:
            self.pid = _ask([module, list(arguments), str(cwd), dict(env)], [w for _, w in pipes])
        finally:
            for _, descriptor in pipes:
                os.close(descriptor)
        self.stdout, self.stderr, self._end = (os.fdopen(r, encoding="utf-8") for r, _ in pipes)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None) -> int:
        """The exit code; negative, the signal that ended it."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = int(self._end.read())
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end; returns what it has written that was not read yet."""
        with ThreadPoolExecutor(2) as pool:
            read = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            said = read[0].result(), read[1].result()
        for stream in (self.stdout, self.stderr, self._end):
            stream.close()
        return said


class Worker(Process):
    """What `interp.execute.processes` starts, in the place of `subprocess.Popen` there."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        pass_fds: Sequence[int],
        start_new_session: bool,
    ) -> None:
        assert stdin == subprocess.DEVNULL
        assert start_new_session
        python, option, code, number, *paths = command
        assert (python, option, [int(number)]) == (sys.executable, "-c", list(pass_fds))
        self.returncode: int | None = None
        end, theirs = os.pipe()
        try:
            request = ["", [code, *paths], os.getcwd(), dict(env)]
            self.pid = _ask(request, [1, 2, theirs, *pass_fds])
        finally:
            os.close(theirs)
        self._end = os.fdopen(end, encoding="utf-8")

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        self._end.close()
        return code


def _ask(request: list[Any], descriptors: list[int]) -> int:
    """Have a process made; returns its id."""
    channel, packed = _channel(), json.dumps(request).encode()
    socket.send_fds(channel, [len(packed).to_bytes(8, "big")], descriptors)
    channel.sendall(packed)
    return int.from_bytes(channel.recv(8), "big")


@functools.cache
def _channel() -> socket.socket:
    """To the process that forks the others; it ends when the tests do."""
    ours, theirs = socket.socketpair()
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    return ours


def _serve(channel: socket.socket) -> Any:
    """Fork a process for each request; returns the request, in that process."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ends: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([channel, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for pid in list(ends):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    os.write(ends[pid], str(os.waitstatus_to_exitcode(status)).encode())
                    os.close(ends.pop(pid))
        if channel in ready:
            size, descriptors, _, _ = socket.recv_fds(channel, 8, 4)
            if not size:
                os._exit(0)
            out, err, end, *passed = descriptors
            request = json.loads(channel.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
            if passed:
                _import_models()
            pid = os.fork()
            if not pid:
                break
            for descriptor in (out, err, *passed):
                os.close(descriptor)
            ends[pid] = end
            channel.sendall(pid.to_bytes(8, "big"))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(out, 1)
    os.dup2(err, 2)
    channel.close()
    for descriptor in (woken, wake, out, err, end, *ends.values()):
        os.close(descriptor)
    return [*request, *passed]


def _become(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """As Python would start there."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    paths = env.get("PYTHONPATH", "")
    sys.path[:1] = [cwd, *(path for path in paths.split(os.pathsep) if path)]
    sys.argv[1:] = arguments
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)


@functools.cache
def _import_models() -> None:
    """What workers need of models beside the rest."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, LlamaForCausalLM

    assert all((TransformerBridge, AutoModelForCausalLM, AutoTokenizer))
    assert all((GPT2LMHeadModel, LlamaForCausalLM))
    gc.freeze()


def _work(descriptor: int) -> None:
    """What `python -c` does with the arguments; the descriptor has another number here."""
    os.setsid()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    code, *paths = sys.argv[1:]
    sys.argv = ["-c", str(descriptor), *paths]
    exec(code, {"__name__": "__main__"})


def _run(module: str, passed: list[int]) -> int:
    """Run a module as Python runs its main script, or a worker; returns the exit code."""
    try:
        if passed:
            _work(*passed)
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    import h5py
    import pandas as pd
    import pyarrow.parquet
    import pydantic.fields
    import rich.progress
    import torch
    import typer.main
    import xarray as xr

    import experiments.cli
    import experiments.runner

    __all__ = ["experiments", "h5py", "pd", "pyarrow", "pydantic", "rich", "torch", "typer"]
    __all__ += ["xr"]
    gc.freeze()
    chosen, given, folder, environment, *passed = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(given, folder, environment)
    code = _run(chosen, passed)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # To take apart what was imported takes a second.
    os._exit(code)
