"""Batches of sites on all cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from probes.fitting import Workspace

T = TypeVar("T")


def over_sites(
    work: Callable[[slice, Workspace], T], batches: Sequence[slice], device: torch.device
) -> Iterator[T]:
    """`work` on every batch, in order.

    On a CPU each core takes batches of its own: many short operations on a site that fits into a
    core's cache gain nothing from a second core, but two sites at a time do. Each gets memory of
    its own to work in.
    """
    workers = min(torch.get_num_threads(), len(batches)) if device.type == "cpu" else 1
    if workers <= 1:
        own = Workspace()
        yield from (work(some, own) for some in batches)
        return
    local = threading.local()

    def run(some: slice) -> T:
        if not hasattr(local, "workspace"):
            local.workspace = Workspace()
        return work(some, local.workspace)

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, "probes", torch.set_num_threads, (1,)) as pool:
            yield from pool.map(run, batches)
    finally:
        # Setting the number in a thread sets it for the matrix library of the whole process.
        torch.set_num_threads(before)
