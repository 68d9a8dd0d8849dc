"""How many threads a model is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

# Parameters. Below this, threads wait for each other longer than they work: on two cores one thread
# is as fast as two on an idle machine, and ten times faster on a busy one.
_ONE_THREAD = 5_000_000


@contextlib.contextmanager
def threads_for(n_parameters: int, device: torch.device) -> Iterator[None]:
    """Inside, a small model on the CPU is computed by one thread."""
    before = torch.get_num_threads()
    if device.type == "cpu" and n_parameters < _ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
