"""Which edges carry a behaviour: gradient estimates of what corrupting each one does, or the truth.

Sources: EAP, Syed et al. 2023; EAP-IG, Hanna et al. 2024; the variants compared in MIB, Mueller et
al. 2025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from cache.arguments import typed
from interp.circuits.exact import exact_scores
from interp.circuits.ladder import Ladder
from interp.components.components import Components
from interp.components.contrast import Contrast, contrasts
from interp.components.graph import Graph
from interp.errors import MetricError, SiteError
from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.progress import Progress, counter
from interp.prompts.pairs import PromptPairs, Run

Method = Literal["eap", "eap-ig", "eap-ig-activations", "clean-corrupted", "exact"]
Scores = npt.NDArray[np.float32]


@typed
def attribute_edges(
    model: Model,
    pairs: PromptPairs,
    metric: Metric | str = "logit_diff",
    *,
    method: Method = "eap-ig",
    steps: int = 5,
    by: Literal["position"] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """How much the metric drops when an edge of the clean run carries the corrupted run's value.

    An edge leads from a writer (embedding, head, MLP) to a reader (query, key or value input of a
    head, MLP, unembedding). Corrupting it replaces the writer's part of what this one reader reads.

    Args:
        model: the model; its blocks must be sums of heads and MLPs. Where a norm stands behind
            attention, a head writes what it adds with the norm's scale held at that of each run.
        pairs: clean and corrupted prompts with answers.
        metric: what to read, or its name.
        method: "eap", one gradient in the clean run; "eap-ig", the mean gradient over runs whose
            embedding lies between corrupted and clean; "eap-ig-activations", the same with each
            layer's heads and each MLP between; "clean-corrupted", the mean gradient of both runs;
            "exact", one run for each edge: the truth, and slow.
        steps: points on the way, for the two methods with "ig".
        by: "position" tells apart the positions at which the reader reads.
        progress: called with (pairs done, pairs in all), or for "exact" with edges.

    Returns:
        score(source, destination): mean over the pairs, in the metric's unit, NaN where there is
        no edge; positive where the edge supports the clean answer.
        by_example(example, source, destination): the same for each pair; and by="position"
        position_score(position, source, destination), the part of `score` at each position.
        clean(example) and corrupt(example): the metric of the two runs.

    Raises:
        ModelError: the model is no such sum.
        SiteError: steps below 1.
        PromptError: the metric needs foils that are not given.
        MetricError: there is no such metric, or it has no gradient.
    """
    metric = get_metric(metric)
    _check(metric, method, steps, by)
    parts = Components(model, pairs.reading("clean", metric.reads[0]).ids)
    graph = Graph.of(model)
    shape = (len(graph.sources), len(graph.destinations))
    scores = np.zeros((len(pairs), *shape), dtype=np.float32)
    at = np.zeros((len(pairs.alignment), *shape), dtype=np.float32) if by else None
    unpatched: dict[Run, Scores] = {
        run: np.zeros(len(pairs), np.float32) for run in ("clean", "corrupt")
    }
    rows = 1 if method == "exact" else _rows(model, method, steps)
    each = graph.n_edges if method == "exact" else 1
    count = counter(progress, each * len(pairs) * len(metric.reads))
    length = max(pairs.reading("clean", read).ids.shape[1] for read in metric.reads)
    memory = _memory(model, graph, rows, length)
    runs = contrasts(parts, pairs, metric, "clean", memory=memory, for_packing=method == "exact")
    for contrast in runs:
        mine = contrast.examples.numpy()
        if method == "exact":
            scores[mine] += exact_scores(contrast, graph, count)
        else:
            found = _from_gradients(contrast, graph, method, steps, positions=at is not None)
            if at is not None:
                _add_by_slot(at, pairs, mine, found)
                found = found.sum(1)
            scores[mine] += found.cpu().numpy()
            count(len(mine))
        unpatched["clean"][mine] += contrast.base_value.cpu().numpy()
        unpatched["corrupt"][mine] += contrast.other_value.cpu().numpy()
    scores[:, ~graph.real] = np.nan
    attrs = {
        "instrument": "edge attribution",
        "method": method,
        "steps": steps if "ig" in method else 1,
        "metric": metric.name,
        "unit": metric.unit,
        **parts.attrs,
        **graph.attrs,
        **model.identity,
    }
    return _label(pairs, graph, scores, at, unpatched, attrs)


def _check(metric: Metric, method: str, steps: int, by: str | None) -> None:
    if method != "exact" and metric.name == "rank":
        raise MetricError("A rank has no gradient; choose another metric, or method='exact'.")
    if steps < 1:
        raise SiteError(f"There must be at least 1 step, not {steps}.")
    if by not in (None, "position") or (by and method == "exact"):
        raise SiteError("Edges are told apart by 'position' only, and not by the exact method.")


def _mixes(method: Method, steps: int) -> Sequence[float]:
    """Shares of the clean run at which gradients are taken."""
    if method == "eap":
        return (1.0,)
    if method == "clean-corrupted":
        return (1.0, 0.0)
    # Left and right Riemann sums, as in the authors' code, so that results can be compared.
    first = 0 if method == "eap-ig" else 1
    return tuple((step + first) / steps for step in range(steps))


def _rows(model: Model, method: Method, steps: int) -> int:
    groups = 2 * model.n_layers + 1 if method == "eap-ig-activations" else 1
    return 1 + groups * len(_mixes(method, steps))


def _memory(model: Model, graph: Graph, rows: int, length: int) -> int:
    """Bytes for one pair: the rows' streams, one layer's readers, one layer's writers."""
    stream = length * model.d_model * model.dtype.itemsize
    readers = graph.n_heads + 2 * graph.n_key_value_heads
    scores = 4 * len(graph.sources) * readers
    return rows * (model.n_layers + 1) * stream + (3 * readers + graph.n_heads) * stream + scores


def _from_gradients(
    contrast: Contrast, graph: Graph, method: Method, steps: int, *, positions: bool
) -> Tensor:
    """Scores [example, source, destination], or [example, position, source, destination]."""
    n_examples, n_positions, _ = contrast.shape
    shape = (len(graph.sources), len(graph.destinations))
    extra = (n_positions,) if positions else ()
    scores = torch.zeros(n_examples, *extra, *shape, device=contrast.base.pre(0).device)
    over = "ewpd,erpd->epwr" if positions else "ewpd,erpd->ewr"

    def collect(layer: int, reader: str, gradient: Tensor) -> None:
        if reader == "attn":
            readers = graph.attention_readers(layer)
            whole, partly = layer, False
        elif reader == "mlp":
            readers = slice(graph.mlp_reader(layer), graph.mlp_reader(layer) + 1)
            whole, partly = layer, graph.mlp_reads_heads
        else:
            readers, whole, partly = slice(shape[1] - 1, shape[1]), graph.n_layers, False
        # One layer's writers at a time: all of them would not fit for long prompts.
        with torch.no_grad():
            gradient = gradient.float()
            first = contrast.input_change()[:, None].float()
            scores[..., :1, readers] = torch.einsum(over, first, gradient)
            for below in range(whole + partly):
                writers = slice(graph.heads_of(below).start, graph.mlp_writer(below) + 1)
                change = contrast.layer_change(below).float()
                if below == layer:
                    writers, change = graph.heads_of(below), change[:, :-1]
                scores[..., writers, readers] = torch.einsum(over, change, gradient)

    ladder = Ladder(contrast, _mixes(method, steps), everywhere=method == "eap-ig-activations")
    ladder.gradients(collect)
    return scores


def _add_by_slot(
    at: Scores, pairs: PromptPairs, examples: npt.NDArray[np.int64], found: Tensor
) -> None:
    slots = pairs.alignment.clean[examples]
    for slot in range(slots.shape[1]):
        present = np.nonzero(slots[:, slot] >= 0)[0]
        here = found[torch.from_numpy(present), torch.from_numpy(slots[present, slot])]
        at[slot] += here.sum(0).cpu().numpy() / len(pairs)


def _label(
    pairs: PromptPairs,
    graph: Graph,
    scores: Scores,
    at: Scores | None,
    unpatched: dict[Run, Scores],
    attrs: Mapping[str, object],
) -> xr.Dataset:
    edge = ("source", "destination")
    result = xr.Dataset(
        {
            "score": (edge, scores.mean(0)),
            "by_example": (("example", *edge), scores),
            "clean": ("example", unpatched["clean"]),
            "corrupt": ("example", unpatched["corrupt"]),
        },
        coords={
            "source": list(graph.sources),
            "destination": list(graph.destinations),
            "clean_prompt": ("example", list(pairs.clean.texts)),
            "corrupt_prompt": ("example", list(pairs.corrupt.texts)),
        },
        attrs=attrs,
    )
    if at is None:
        return result
    at[:, ~graph.real] = np.nan
    return result.assign(position_score=(("position", *edge), at)).assign_coords(
        position=range(len(pairs.alignment)),
        position_label=("position", list(pairs.alignment.labels)),
    )
