"""Workers that are Ray actors, on a cluster or on a local instance started for them."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from interp.errors import ExecutionError
from interp.execute.messages import Work
from interp.execute.settings import MOST_WORKERS, cores, limits
from interp.execute.signals import signals_held

# Units and results are small; without this Ray sets a third of the memory aside.
_OBJECT_STORE_BYTES = 256 << 20
_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_REMOVE = 3.0


class Actor:
    """A worker: `Work` in a process of Ray's."""

    def __init__(self, threads: int) -> None:
        os.environ.update(limits(threads))
        self._threads = threads
        self._work = Work()

    def start(self, message: bytes) -> bytes:
        """See `Work.start`."""
        reply = self._work.start(message)
        if "torch" in sys.modules:
            # Ray's process may have read the environment before it became this actor.
            sys.modules["torch"].set_num_threads(self._threads)
        return reply

    def run(self, message: bytes) -> bytes:
        """See `Work.run`."""
        return self._work.run(message)


class Actors:
    """Ray actors.

    Attributes:
        limit: how many there may be.
    """

    def __init__(self, workers: int | None, address: str | None) -> None:
        import ray

        self._ray = ray
        self._actors: list[Any] = []
        self._pending: dict[Any, Any] = {}  # reference of a reply → actor
        self._own = not ray.is_initialized()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        try:
            if self._own:
                self._folder = _connect(address, workers)
            elif address not in (None, "auto", _connected_to()):
                raise ExecutionError(
                    f"This process is connected to another Ray cluster than '{address}'; call "
                    "ray.shutdown() first, or leave the address out."
                )
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self.limit, self._threads, self._gpus = _share(nodes, workers)
        except BaseException:
            self.close()
            raise

    def launch(self, start: bytes) -> Any:
        """Ask for an actor; it answers when Ray has found it a place and it is ready."""
        remote = self._ray.remote(Actor).options(
            num_cpus=0 if self._gpus else self._threads, num_gpus=self._gpus, max_restarts=0
        )
        actor = remote.remote(self._threads)
        self._actors.append(actor)
        self._pending[actor.start.remote(start)] = actor
        return actor

    def submit(self, actor: Any, message: bytes) -> None:
        """Send a message; an actor that has died meanwhile is told of by `wait`."""
        self._pending[actor.run.remote(message)] = actor

    def wait(self) -> list[tuple[Any, bytes | str]]:
        """What actors answered, at least one: a reply, or in a few words how it died."""
        self._ray.wait(list(self._pending), num_returns=1)
        done, _ = self._ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        found: list[tuple[Any, bytes | str]] = []
        for reference in done:
            actor = self._pending.pop(reference)
            try:
                found.append((actor, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                # An actor's methods raise nothing themselves.
                self._actors.remove(actor)
                found.append((actor, _first_line(error)))
        return found

    def close(self) -> None:
        """End all actors, whatever they are doing, and leave the cluster as it was."""
        with signals_held():
            actors, self._actors, self._pending = self._actors, [], {}
            for actor in actors:
                with contextlib.suppress(Exception):
                    self._ray.kill(actor)
            folder, self._folder = self._folder, None
            if self._own:
                _end(folder)


def _connect(address: str | None, workers: int | None) -> tempfile.TemporaryDirectory[str] | None:
    """Connect to the cluster that is meant, or start a local instance; returns the latter's folder.

    It holds logs and sockets. It is in /tmp as Ray's own, since a socket's path must be short, but
    not in /tmp/ray, which may be somebody else's.
    """
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or None
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address in (None, "local"):
        # What Ray has started it ends only once it has started all of it: a signal waits for that.
        with signals_held() as waiting, _handlers_kept(), _loopback_only():
            folder = tempfile.TemporaryDirectory(
                prefix="obverse-ray-", dir="/tmp", ignore_cleanup_errors=True
            )
            try:
                ray.init(
                    address="local",
                    num_cpus=max(cores(), workers or 0),
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=folder.name,
                    **quiet,
                )
                if waiting:
                    raise ExecutionError("A signal ended this while Ray was starting; start again.")
            except BaseException:
                _end(folder)
                raise
        return folder
    assert address is not None
    _check_reachable(address)
    try:
        with _handlers_kept():
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises several unrelated types here
        raise ExecutionError(
            f"Ray cannot connect to '{address}' ({_first_line(error)}); check that the cluster "
            "runs, with the same versions of Python and Ray."
        ) from error
    return None


def _end(folder: tempfile.TemporaryDirectory[str] | None) -> None:
    """Leave the cluster; end a local instance wholly, and remove its folder."""
    import ray

    wait = {"wait_for_processes": True} if folder is not None else {}
    if "wait_for_processes" not in inspect.signature(ray.shutdown).parameters:
        wait = {}  # before Ray 2.5x
    with contextlib.suppress(Exception):
        ray.shutdown(**wait)
    if folder is not None:
        deadline = time.monotonic() + _SECONDS_TO_REMOVE
        folder.cleanup()
        # A process that is about to end may write its last line meanwhile.
        while os.path.exists(folder.name) and time.monotonic() < deadline:
            time.sleep(0.1)
            shutil.rmtree(folder.name, ignore_errors=True)


def _connected_to() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _check_reachable(address: str) -> None:
    """Tell at once what Ray would try for a minute."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", or whatever else Ray makes of it
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise ExecutionError(
            f"Nothing answers at '{address}' ({error.strerror or error}); give the address that "
            "'ray start --head' printed, or leave it out for a local instance."
        ) from error


def _share(nodes: list[dict[str, float]], workers: int | None) -> tuple[int, int, int]:
    """Of the machines of a cluster: (workers, CPUs or threads of each, GPUs of each).

    Without GPUs each worker gets as many CPUs as fit: all of them must find a place together.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        if workers is not None and workers > gpus:
            raise ExecutionError(
                f"The cluster has {gpus} GPUs for {workers} workers; choose at most {gpus}."
            )
        count = workers or gpus
        return count, max(1, sum(cpus) // gpus), 1
    count = workers or sum(min(n, MOST_WORKERS) for n in cpus)
    if count == 0 or count > sum(cpus):
        raise ExecutionError(
            f"The cluster has {sum(cpus)} CPUs for {workers or 'any'} workers; choose at most as "
            "many, or add machines."
        )
    each = next(n for n in range(max(cpus), 0, -1) if sum(cpu // n for cpu in cpus) >= count)
    return count, each, 0


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which may mean something here."""
    import ray._private.utils as utils

    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a local instance listen on 127.0.0.1 alone, as Ray does on other systems than Linux.

    Whoever reaches one of its ports can run code.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
