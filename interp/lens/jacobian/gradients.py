"""Jacobians of the final stream by the streams before it, summed over positions and prompts.

A prompt's Jacobian at a layer is the mean over positions t of V of the sum over t' of V of
∂ h_final(t') / ∂ h(t), where V leaves out the first positions and the last one. Row i of it is one
backward pass with the i-th unit vector as cotangent at all of V, which gives that row for all
layers and for as many prompts as are run together. Nothing before t depends on t, so that t' ≥ t
needs no mask; and nothing of V depends on the last token, which is not run at all.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelError, first_sentence
from interp.forward.passes import record, recording_memory, resume
from interp.model.memory import (
    available_memory,
    fitting_threads,
    is_out_of_memory,
    rows_that_fit,
)
from interp.model.model import Model
from interp.prompts.tokens import pad
from interp.sites import Site

__all__ = ["Summed", "Work", "work_for"]


@dataclass(frozen=True)
class Summed:
    """Over some prompts.

    Attributes:
        total: the sum of their Jacobians [layer, d_model, d_model], on the CPU.
        squares: of the squared lengths (Frobenius) of each [layer].
    """

    total: Float[Tensor, "layer d_model d_model"]
    squares: Float[Tensor, " layer"]


@dataclass(frozen=True)
class Work:
    """How Jacobians are computed on this model and machine.

    Attributes:
        layers: of the streams that are differentiated by: 0 is the embedding.
        skip_first: positions at a prompt's start that V leaves out.
        prompts_at_once: that fit into memory, in each thread.
        copies: of each prompt in a batch, each with a cotangent of its own.
        threads: that run backward at the same time, each for a part of the rows.
    """

    model: Model
    layers: tuple[int, ...]
    skip_first: int
    prompts_at_once: int
    copies: int
    threads: int

    def __call__(self, rows: Sequence[Sequence[int]], told: Callable[[int], None]) -> Summed:
        """The Jacobians of some prompts.

        Args:
            rows: the prompts' token ids, each with a position in V.
            told: called with how many of the d_model rows are done, as they are.
        """
        width = self.model.d_model
        bounds = [round(i * width / self.threads) for i in range(self.threads + 1)]
        # Hooks are shared, so that forward passes come one after the other, in this thread.
        with fitting_threads(self.model):
            graphs = [self._graph(rows) for _ in range(self.threads)]
        stop = threading.Event()
        with ThreadPoolExecutor(max(1, self.threads - 1), initializer=_one_thread) as pool:
            try:
                others: list[Future[Summed]] = [
                    pool.submit(graphs[i].rows, bounds[i], bounds[i + 1], stop)
                    for i in range(1, self.threads)
                ]
                with _alone(self.threads > 1):
                    mine = graphs[0].rows(0, bounds[1], stop, lambda n: told(n * self.threads))
                found = [mine, *(other.result() for other in others)]
            finally:
                stop.set()
        squares = torch.stack([part.squares for part in found]).sum(0)
        return Summed(torch.cat([part.total for part in found], dim=1), squares)

    def along(
        self, row: Sequence[int], directions: Float[Tensor, "direction d_model"]
    ) -> Float[Tensor, "layer direction d_model"]:
        """Sums of the rows of one prompt's Jacobians, weighted by each of the directions."""
        work = replace(self, copies=len(directions))
        with fitting_threads(self.model):
            graph = work._graph([row])
            return torch.stack([means[0] for means in graph.means(graph.at_tokens(directions))])

    def _graph(self, rows: Sequence[Sequence[int]]) -> _Graph:
        """Run the prompts so that the final stream can be differentiated by the others."""
        model, copies = self.model, self.copies
        batch = pad([list(row)[:-1] for row in rows], ("",) * len(rows))
        ids, first = batch.ids, self.layers[0]
        inside = torch.arange(ids.shape[1]) < batch.lengths[:, None]
        inside[:, : self.skip_first] = False
        recording = record(model, ids, [Site("resid_pre", first)])
        number = torch.arange(len(rows), device=model.device).repeat_interleave(copies)
        stream = recording[Site("resid_pre", first)][number].requires_grad_()
        streams = {first: stream}
        try:
            for layer in range(first, model.n_layers):
                stream = resume(
                    model, recording, stream, number, start=layer, stop=layer + 1, grad=True
                )
                streams[layer + 1] = stream
        except RuntimeError as error:
            raise _not_differentiable(model, error) from error
        wanted = [streams[layer] for layer in self.layers]
        return _Graph(model, wanted, stream, inside.to(model.device), copies)


@dataclass(frozen=True)
class _Graph:
    """Streams of some prompts, each prompt `copies` times.

    Attributes:
        inside: which positions are of V [prompt, position].
    """

    model: Model
    streams: list[Float[Tensor, "row position d_model"]]
    final: Float[Tensor, "row position d_model"]
    inside: Tensor
    copies: int

    def rows(
        self,
        start: int,
        stop: int,
        stopped: threading.Event,
        told: Callable[[int], None] = lambda _: None,
    ) -> Summed:
        """Rows `start` to `stop` of the Jacobians of all streams, summed over the prompts."""
        width = self.final.shape[-1]
        total = torch.zeros(len(self.streams), stop - start, width, dtype=self._exact)
        squares = torch.zeros(len(self.streams), dtype=torch.float64)
        unit = torch.eye(width, dtype=self.final.dtype, device=self.final.device)
        for row in range(start, stop, self.copies):
            if stopped.is_set():
                break
            here = range(row, min(row + self.copies, stop))
            at = slice(row - start, here.stop - start)
            for layer, means in enumerate(self.means(self.at_tokens(unit[row : here.stop]))):
                means = means[:, : len(here)]
                total[layer, at] = means.sum(0).cpu()
                squares[layer] += means.square().sum().cpu()
            told(here.stop - start)
        return Summed(total, squares)

    @property
    def _exact(self) -> torch.dtype:
        """Of sums."""
        return torch.float64 if self.final.dtype == torch.float64 else torch.float32

    def at_tokens(self, directions: Float[Tensor, "direction d_model"]) -> Tensor:
        """A cotangent of the final streams: one direction for each copy, at all of V."""
        n, length, width = len(self.inside), self.inside.shape[1], self.final.shape[-1]
        cotangent = torch.zeros_like(self.final)
        by_copy = cotangent.view(n, self.copies, length, width)[:, : len(directions)]
        torch.mul(self.inside[:, None, :, None], directions[None, :, None], out=by_copy)
        return cotangent

    def means(self, cotangent: Tensor) -> Iterator[Float[Tensor, "prompt copy d_model"]]:
        """The gradients by each stream, averaged over V."""
        try:
            # Kept to the end: the next cotangent needs it too.
            found = torch.autograd.grad(self.final, self.streams, cotangent, retain_graph=True)
        except RuntimeError as error:
            raise _not_differentiable(self.model, error) from error
        share = self.inside.to(self._exact)
        share = (share / share.sum(1, keepdim=True)).repeat_interleave(self.copies, 0)[:, None]
        for gradient in found:
            means = torch.bmm(share, gradient.to(self._exact))
            yield means.view(len(self.inside), self.copies, -1)


def work_for(
    model: Model, layers: Sequence[int], skip_first: int, n_prompts: int, length: int
) -> Work:
    """How to compute the Jacobians of so many prompts of at most `length` tokens."""
    depth = model.n_layers - layers[0]
    # What backward needs is kept of every block, beside the streams and the gradients of one.
    row = recording_memory(model, length, depth + 4) + depth * model.memory_per_row(length)
    # On a CPU the budget is what stays near its caches, and backward goes through one block after
    # the other: twice the budget was the fastest (by a tenth, on the bundled model).
    size = rows_that_fit(model, row // 2 if model.device.type == "cpu" else row)
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    memory = available_memory()
    if memory is not None:
        threads = min(threads, memory // 2 // (size * row))
    threads = max(1, min(threads, model.d_model))
    copies = max(1, min(size // n_prompts, -(-model.d_model // threads)))
    return Work(model, tuple(layers), skip_first, max(1, size // copies), copies, threads)


def _not_differentiable(model: Model, error: RuntimeError) -> RuntimeError | ModelError:
    if is_out_of_memory(error):
        return error
    return ModelError(
        f"{model.name} cannot be differentiated by its streams ({first_sentence(error)}); choose "
        "another architecture."
    )


def _one_thread() -> None:
    # Of this thread alone: the others do the same, each for rows of its own.
    torch.set_num_threads(1)


@contextlib.contextmanager
def _alone(several: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    if several:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
