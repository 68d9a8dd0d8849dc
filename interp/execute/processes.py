"""Workers that are processes of this machine, each a fresh Python interpreter.

Nothing is forked: torch's threads do not survive that. Nor is the main script imported again, as
multiprocessing would do it, so that scripts need no `if __name__ == "__main__":`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait

from interp.errors import ExecutionError
from interp.execute.messages import Work
from interp.execute.settings import MOST_WORKERS, cores, limits

# Before anything else is imported, modules are looked for where this process looks.
_WORKER = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from interp.execute.processes import serve; serve(int(sys.argv[1]))"
)
_SECONDS_TO_END = 3.0


@dataclass(eq=False)
class Worker:
    """A process, and this end of the pipe to it."""

    process: subprocess.Popen[bytes]
    pipe: Connection


class Processes:
    """Worker processes on this machine.

    Args:
        workers: how many; None for as many as there are GPUs for, or cores.
        gpus: of each worker, where there are any.

    Attributes:
        limit: how many there may be.
    """

    def __init__(self, workers: int | None, gpus: int = 1) -> None:
        found = _devices()
        if 0 < len(found) < gpus:
            raise ExecutionError(
                f"Each worker needs {gpus} GPUs, as many as the model lies on, and there are "
                f"{len(found)}; place it on fewer."
            )
        whole = len(found) // gpus * gpus
        self.devices = [",".join(found[at : at + gpus]) for at in range(0, whole, gpus)]
        self._several = len(found) > 1
        self.limit = workers or len(self.devices) or min(cores(), MOST_WORKERS)
        self._workers: list[Worker] = []
        self._launched = 0

    def launch(self, start: bytes) -> Worker:
        """Start a process; it answers when it is ready."""
        here, there = Pipe()
        with there:
            process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(there.fileno()), *sys.path],
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                # Ctrl-C is for the main process, which ends its workers.
                start_new_session=True,
            )
        worker = Worker(process, here)
        self._workers.append(worker)
        self._launched += 1
        self.submit(worker, start)
        return worker

    def submit(self, worker: Worker, message: bytes) -> None:
        """Send a message; a worker that has died meanwhile is told of by `wait`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send_bytes(message)

    def wait(self) -> list[tuple[Worker, bytes | str]]:
        """What workers answered, at least one: a reply, or in a few words how it died."""
        by_pipe = {worker.pipe: worker for worker in self._workers}
        found: list[tuple[Worker, bytes | str]] = []
        for pipe in wait(list(by_pipe)):
            assert isinstance(pipe, Connection)
            worker = by_pipe[pipe]
            try:
                found.append((worker, pipe.recv_bytes()))
            except (EOFError, OSError):
                self._workers.remove(worker)
                found.append((worker, _ended(worker)))
        return found

    def close(self) -> None:
        """End all processes, whatever they are doing."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.pipe.close()
        deadline = time.monotonic() + _SECONDS_TO_END
        for worker in workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _environment(self) -> dict[str, str]:
        threads = limits(max(1, cores() // self.limit))
        if not self.devices or not self._several:
            return threads
        device = self.devices[self._launched % len(self.devices)]
        return {**threads, "CUDA_VISIBLE_DEVICES": device}


def serve(descriptor: int) -> None:
    """What a worker process does: answer messages until the other end is closed."""
    pipe, work = Connection(descriptor), Work()
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send_bytes(work.start(pipe.recv_bytes()))
        while True:
            pipe.send_bytes(work.run(pipe.recv_bytes(), pipe.send_bytes))


def _end_with(descriptor: int) -> None:
    """End this process as soon as the other end of the pipe is closed, in the middle of a unit."""
    poll = select.poll()
    poll.register(descriptor, 0)  # hang-ups are told of in any case
    poll.poll()
    os._exit(1)


def _devices() -> list[str]:
    """The GPUs that CUDA shows, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _ended(worker: Worker) -> str:
    """How a process ended that closed its end of the pipe."""
    worker.pipe.close()
    try:
        code = worker.process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        code = worker.process.wait()
    if code < 0:
        return f"ended by signal {-code}, {signal.strsignal(-code)}"
    return f"exit code {code}"
