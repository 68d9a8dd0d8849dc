"""What corrupting one edge really does, edge by edge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interp.components.components import PROJECTIONS
from interp.components.contrast import Contrast
from interp.components.graph import Graph
from interp.components.wiring import writer_changes
from interp.forward.passes import resume
from interp.model.memory import batches, rows_that_fit


def exact_scores(
    contrast: Contrast, graph: Graph, progress: Callable[[int], None]
) -> npt.NDArray[np.float32]:
    """Drop of the metric when this edge alone carries the other run's value.

    Returns:
        [example, source, destination]; 0 where there is no edge.
    """
    scores = np.zeros((len(contrast), *graph.real.shape), dtype=np.float32)
    for destination in range(len(graph.destinations)):
        sources = np.nonzero(graph.real[:, destination])[0]
        example, source = np.meshgrid(np.arange(len(contrast)), sources, indexing="ij")
        cells = np.stack([example.ravel(), source.ravel()])
        per_row = 2 * contrast.parts.model.memory_per_row(contrast.shape[1])

        def work(start: int, stop: int) -> Tensor:
            rows, writers = (torch.from_numpy(c[start:stop]) for c in cells)  # noqa: B023
            return _corrupted(contrast, graph, destination, writers, rows)  # noqa: B023

        size = rows_that_fit(contrast.parts.model, per_row)
        for start, stop, value in batches(cells.shape[1], size, work):
            rows, writers = cells[:, start:stop]
            drop = contrast.base_value[torch.from_numpy(rows)] - value
            scores[rows, writers, destination] = drop.cpu().numpy()
            progress(stop - start)
    return scores


def _corrupted(
    contrast: Contrast, graph: Graph, destination: int, writers: Tensor, rows: Tensor
) -> Tensor:
    """The metric of each row, whose destination reads the other run's value of its writer."""
    parts, base, n_layers = contrast.parts, contrast.base, graph.n_layers
    change = writer_changes(contrast, graph, writers, rows)
    examples = contrast.examples[rows]
    layer = graph.layer_of(destination)
    with torch.no_grad():
        if layer == n_layers:
            return contrast.scorer.value(base.pre(n_layers)[rows] + change, examples)
        if destination == graph.mlp_reader(layer):
            stream = base.pre(layer)[rows] + change
            if parts.mlp_reads_mid:
                stream = base.pre(layer + 1)[rows] - base.mlp(layer)[rows] + change
            hidden = base.pre(layer + 1)[rows] + parts.mlp(layer, stream) - base.mlp(layer)[rows]
        else:
            hidden = _after_head(contrast, graph, layer, destination, change, rows)
    final = resume(
        parts.model,
        base.recording,
        hidden,
        rows.to(hidden.device),
        start=layer + 1,
        span=contrast.span(change, rows),
    )
    return contrast.scorer.value(final, examples)


def _after_head(
    contrast: Contrast, graph: Graph, layer: int, destination: int, change: Tensor, rows: Tensor
) -> Tensor:
    """The stream out of the layer, where one query, key or value reads something else."""
    parts, base = contrast.parts, contrast.base
    stream = base.pre(layer)[rows]
    normed = parts.normed(layer, "attn", stream)
    given = {p: parts.projected(layer, p, normed) for p in PROJECTIONS}
    projection, head = graph.head_read_by(destination)
    alone = torch.tensor([head], device=stream.device)
    given[projection][:, :, alone] = parts.read(
        layer, projection, (stream + change)[:, None], alone
    ).transpose(1, 2)
    z = parts.attend(layer, base, rows, given["q"], given["k"], given["v"])
    added = parts.attention_out(layer, z) - parts.attention_out(layer, base.z(layer)[rows])
    after = base.pre(layer + 1)[rows] + added
    if not parts.mlp_reads_mid:
        return after
    unchanged = base.mlp(layer)[rows]
    return after - unchanged + parts.mlp(layer, after - unchanged)
