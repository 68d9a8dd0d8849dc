"""Workers that are Ray actors, on a cluster or on a local instance started for them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from interp.errors import ExecutionError, first_sentence
from interp.execute.connection import Connection, connected_to, import_ray
from interp.execute.messages import Work
from interp.execute.settings import MOST_WORKERS, limits
from interp.execute.signals import signals_held


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

    Args:
        gpus: of each, where the cluster has any.

    Attributes:
        limit: how many there may be.
    """

    def __init__(self, workers: int | None, address: str | None, gpus: int = 1) -> None:
        self._ray = ray = import_ray(address)
        self._actors: list[Any] = []
        self._pending: dict[Any, Any] = {}  # reference of a reply → actor
        self._connection: Connection | None = None
        try:
            if not ray.is_initialized():
                self._connection = Connection(address, workers)
            elif address not in (None, "auto", connected_to()):
                raise ExecutionError(
                    f"This process is connected to another Ray cluster than '{address}'; call "
                    "ray.shutdown() first, or leave the address out."
                )
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self.limit, self._threads, self._gpus = share_of_each(nodes, workers, gpus)
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
                found.append((actor, first_sentence(error).rstrip(".")))
        return found

    def close(self) -> None:
        """End all actors, whatever they are doing, and leave the cluster as it was."""
        with signals_held():
            actors, self._actors, self._pending = self._actors, [], {}
            for actor in actors:
                with contextlib.suppress(Exception):
                    self._ray.kill(actor)
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


def share_of_each(
    nodes: list[dict[str, float]], workers: int | None, each_gpus: int = 1
) -> tuple[int, int, int]:
    """Of the machines of a cluster: (workers, CPUs or threads of each, GPUs of each).

    A worker's GPUs are in one machine.
    Without GPUs each worker gets as many CPUs as fit: all of them must find a place together.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        most = sum(int(node.get("GPU", 0)) // each_gpus for node in nodes)
        if most == 0 or (workers is not None and workers > most):
            needs = f", each of which needs {each_gpus} in one machine" if each_gpus > 1 else ""
            raise ExecutionError(
                f"The cluster has {gpus} GPUs for {workers or 'any'} workers{needs}; choose at "
                f"most {most}, or place the model on fewer."
            )
        count = workers or most
        return count, max(1, sum(cpus) // gpus) * each_gpus, each_gpus
    count = workers or sum(min(n, MOST_WORKERS) for n in cpus)
    if count == 0 or count > sum(cpus):
        raise ExecutionError(
            f"The cluster has {sum(cpus)} CPUs for {workers or 'any'} workers; choose at most as "
            "many, or add machines."
        )
    each = next(n for n in range(max(cpus), 0, -1) if sum(cpu // n for cpu in cpus) >= count)
    return count, each, 0
