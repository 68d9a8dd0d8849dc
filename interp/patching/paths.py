"""Path patching (Wang et al. 2022; Goldowsky-Dill et al. 2023): from a sender to a receiver only.

A sender's output is replaced by the other run's, but only the receivers see it: directly, and
through chosen components, while everything else between stays as it was. What the receivers make
of their changed inputs then reaches the rest of the model freely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from cache.arguments import typed
from interp.components.components import Components
from interp.components.contrast import Contrast, contrasts
from interp.components.graph import Graph
from interp.components.wiring import Reference, Wiring, wiring_memory, writer_changes
from interp.errors import SiteError
from interp.forward.access import Change, changing
from interp.forward.passes import resume
from interp.metrics import Metric, get_metric
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress, counter
from interp.prompts.pairs import PromptPairs, Run
from interp.sites import Site

Scores = npt.NDArray[np.float32]


@typed
def patch_paths(
    model: Model,
    pairs: PromptPairs,
    receivers: str | Sequence[str],
    metric: Metric | str = "logit_diff",
    *,
    senders: Sequence[str] | None = None,
    through: Sequence[str] | Literal["mlps"] = (),
    direction: Literal["noising", "denoising"] = "noising",
    positions: Sequence[int | str] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """What each sender tells the receivers, and what that does to the metric.

    Args:
        model: the model; its blocks must be sums of heads and MLPs. Where a norm stands behind
            attention, a head writes what it adds with the norm's scale held at that of each run.
        pairs: clean and corrupted prompts with answers.
        receivers: inputs that see the change, all together: "a9.h6.q" (what layer 9 head 6 makes
            its query of), "a9.h6" (its query, key and value), "m10" (the MLP of layer 10), or
            "logits", alone. With grouped queries, ".k" and ".v" count key-value heads.
        metric: what to read, or its name.
        senders: writers whose output is replaced, one at a time: "input" (the embedding), "a3.h0",
            "m2"; all that stand before a receiver if left out.
        through: writers that pass the change on; "mlps" for all MLPs.
        direction: "noising" puts the corrupted run's outputs into the clean run, "denoising" the
            reverse.
        positions: where the sender's output is replaced, by number, label or span; everywhere if
            left out.
        progress: called with (paths done, paths in all), each example counted.

    Returns:
        patched(example, sender), clean(example), corrupt(example); layer(sender) and head(sender),
        -1 where there is none.

    Raises:
        SiteError: an unknown or late sender, receiver or component, or "logits" beside others.
        PromptError: position out of range, or the metric needs foils that are not given.
        ModelError: the model is no sum of heads and MLPs.
    """
    metric = get_metric(metric)
    base: Run = "clean" if direction == "noising" else "corrupt"
    parts = Components(model, pairs.reading(base, metric.reads[0]).ids)
    paths = _paths(Graph.of(model), receivers, senders, through)
    patched = np.zeros((len(pairs), len(paths.senders)), dtype=np.float32)
    unpatched = {run: np.zeros(len(pairs), np.float32) for run in ("clean", "corrupt")}
    other = "corrupt" if base == "clean" else "clean"
    slots = list(pairs.alignment.slots(positions))
    at = getattr(pairs.alignment, base)[:, slots]
    count = counter(progress, patched.size * len(metric.reads))
    for contrast in contrasts(parts, pairs, metric, base, for_packing=True):
        mine = contrast.examples.numpy()
        where = None if positions is None else _mask(contrast, at[mine])
        for start, stop, scores in _patch(contrast, paths, where):
            rows, sender = np.divmod(np.arange(start, stop), len(paths.senders))
            patched[mine[rows], sender] += scores
            count(stop - start)
        unpatched[base][mine] += contrast.base_value.cpu().numpy()
        unpatched[other][mine] += contrast.other_value.cpu().numpy()
    names = [paths.graph.sources[i] for i in paths.senders]
    return xr.Dataset(
        {
            "patched": (("example", "sender"), patched),
            "clean": ("example", unpatched["clean"]),
            "corrupt": ("example", unpatched["corrupt"]),
        },
        coords={
            "sender": names,
            "layer": ("sender", [paths.graph.place(name)[0] for name in names]),
            "head": ("sender", [paths.graph.place(name)[1] for name in names]),
            "clean_prompt": ("example", list(pairs.clean.texts)),
            "corrupt_prompt": ("example", list(pairs.corrupt.texts)),
        },
        attrs={
            "instrument": "path patching",
            "receivers": ", ".join(paths.graph.destinations[i] for i in paths.receivers),
            "through": ", ".join(paths.graph.sources[i] for i in paths.through) or "nothing",
            "metric": metric.name,
            "unit": metric.unit,
            "direction": direction,
            **parts.attrs,
            **model.identity,
        },
    )


@dataclass(frozen=True)
class _Paths:
    """What to patch, as indices of the graph's sources and destinations."""

    graph: Graph
    senders: tuple[int, ...]
    receivers: tuple[int, ...]
    through: tuple[int, ...]

    def active(self, senders: Tensor) -> Tensor:
        """The edges that carry the change [row, source, destination]."""
        graph = self.graph
        seen = np.asarray(graph.feeds[:, list(self.through)].any(1))
        seen[list(self.receivers)] = True
        passing = np.zeros_like(graph.real)
        passing[list(self.through)] = seen
        active = torch.from_numpy(passing)[None].repeat(len(senders), 1, 1)
        active[torch.arange(len(senders)), senders] = torch.from_numpy(seen)
        return active & torch.from_numpy(graph.real)


def _paths(
    graph: Graph,
    receivers: str | Sequence[str],
    senders: Sequence[str] | None,
    through: Sequence[str] | Literal["mlps"],
) -> _Paths:
    named = [receivers] if isinstance(receivers, str) else list(receivers)
    found = sorted({index for name in named for index in graph.find_destinations(name)})
    if not found or (len(found) > 1 and found[-1] == len(graph.destinations) - 1):
        raise SiteError(
            "Name at least one receiver, and 'logits' alone: nothing comes after it through which "
            "other receivers could act."
        )
    if through == "mlps":
        through = [f"m{layer}" for layer in range(graph.n_layers)]
    before = np.asarray(graph.real[:, found].any(1))
    chosen = (
        np.nonzero(before)[0]
        if senders is None
        else np.array([graph.find_source(name) for name in dict.fromkeys(senders)], dtype=int)
    )
    late = [graph.sources[i] for i in chosen if not before[i]]
    if late or not len(chosen):
        raise SiteError(
            f"'{late[0]}' stands behind all receivers; choose an earlier sender."
            if late
            else "There are no senders; name at least one, or leave `senders` out."
        )
    passing = tuple(sorted({graph.find_source(name) for name in through}))
    return _Paths(graph, tuple(int(i) for i in chosen), tuple(found), passing)


def _mask(contrast: Contrast, positions: npt.NDArray[np.int64]) -> Tensor:
    """1 at the chosen positions [example, position, 1]."""
    mask = torch.zeros(contrast.shape[:2])
    for example, chosen in enumerate(positions):
        mask[example, torch.from_numpy(chosen[chosen >= 0])] = 1.0
    base = contrast.base.pre(0)
    return mask[..., None].to(device=base.device, dtype=base.dtype)


def _patch(
    contrast: Contrast, paths: _Paths, where: Tensor | None
) -> Iterator[tuple[int, int, Scores]]:
    """Scores of the cells, examples one after another, each with all senders."""
    reference = Reference.base_run(contrast)
    example = torch.arange(len(contrast)).repeat_interleave(len(paths.senders))
    sender = torch.tensor(paths.senders).repeat(len(contrast))

    def work(start: int, stop: int) -> Scores:
        rows, writers = example[start:stop], sender[start:stop]
        change = writer_changes(contrast, paths.graph, writers, rows)
        if where is not None:
            change = change * where[rows]
        wiring = Wiring(contrast, paths.graph, reference, paths.active(writers), rows)
        wiring.fix(writers, change)
        last = wiring.run()
        if paths.receivers[-1] < len(paths.graph.destinations) - 1:
            last = _onwards(contrast, paths, wiring, rows)
        scores = contrast.scorer.value(last, contrast.examples[rows])
        return np.asarray(scores.cpu().numpy(), dtype=np.float32)

    memory = wiring_memory(contrast, paths.graph, 1 + len(paths.through))
    return batches(len(example), rows_that_fit(contrast.parts.model, memory), work)


def _onwards(contrast: Contrast, paths: _Paths, wiring: Wiring, rows: Tensor) -> Tensor:
    """The final stream of a run in which the receivers read what they were told."""
    parts, base, graph = contrast.parts, contrast.base, paths.graph
    by_layer: dict[int, list[int]] = {}
    for receiver in paths.receivers:
        by_layer.setdefault(graph.layer_of(receiver), []).append(receiver)
    device_rows = rows.to(parts.model.device)
    hidden = base.pre(min(by_layer))[rows]
    for layer in range(min(by_layer), max(by_layer) + 1):
        changes = [
            _reading(contrast, graph, layer, receiver, wiring.read(receiver))
            for receiver in by_layer.get(layer, ())
        ]
        with changing(parts.model, changes):
            hidden = resume(
                parts.model, base.recording, hidden, device_rows, start=layer, stop=layer + 1
            )
    start = max(by_layer) + 1
    span = contrast.span(hidden - base.pre(start)[rows], rows)
    return resume(parts.model, base.recording, hidden, device_rows, start=start, span=span)


def _reading(
    contrast: Contrast, graph: Graph, layer: int, receiver: int, stream: Tensor
) -> tuple[Site, Change]:
    """A change by which one reader makes of this stream what it does, and others as always."""
    parts = contrast.parts
    with torch.no_grad():
        if receiver == graph.mlp_reader(layer):
            value = parts.mlp(layer, stream)
            return Site("mlp_out", layer), lambda _: value
        projection, head = graph.head_read_by(receiver)
        alone = torch.tensor([head], device=stream.device)
        made = parts.read(layer, projection, stream[:, None], alone)[:, 0]

    def put(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, :, head] = made
        return value

    return Site(projection, layer), put
