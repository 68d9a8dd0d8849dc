"""How well each method finds the edges of a known circuit.

`python -m tests.interp.circuits.auroc` prints a table of all planted models and the trained one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import numpy as np
import xarray as xr
from sklearn.metrics import roc_auc_score

from interp.circuits import attribute_edges
from interp.circuits.edges import Method
from interp.components.graph import Graph
from tests.interp.circuits.planted import BUILDERS, Planted
from tests.interp.circuits.trained import trained_induction

METHODS: tuple[Method, ...] = get_args(Method)
MODELS: dict[str, Callable[[], Planted]] = {**BUILDERS, "trained induction": trained_induction}


def edge_auroc(found: xr.Dataset, truth: np.ndarray[Any, Any], real: np.ndarray[Any, Any]) -> float:
    """Area under the ROC curve of |score| for being a true edge, over all real edges.

    Sizes and not signs, because an estimate may get the sign of a true edge wrong, and because
    pruning goes by size too.
    """
    return float(roc_auc_score(truth[real], np.abs(found["score"].values[real])))


def by_method(planted: Planted, n: int = 16, steps: int = 5) -> dict[Method, float]:
    """The AUROC of each method on `n` random pairs."""
    model = planted.load()
    graph, pairs = Graph.of(model), planted.pairs(model, n)
    truth = planted.truth(graph)
    return {
        method: edge_auroc(
            attribute_edges(model, pairs, method=method, steps=steps), truth, graph.real
        )
        for method in METHODS
    }


def table(models: Iterable[Planted]) -> str:
    """A Markdown table: one row for each model, one column for each method."""
    head = "| model | " + " | ".join(METHODS) + " |"
    lines = [head, "|---|" + "---:|" * len(METHODS)]
    lines += [_line(planted.name, by_method(planted)) for planted in models]
    return "\n".join(lines)


def _line(name: str, values: Mapping[Method, float]) -> str:
    return f"| {name} | " + " | ".join(f"{values[method]:.3f}" for method in METHODS) + " |"


if __name__ == "__main__":
    sys.stdout.write(table(build() for build in MODELS.values()) + "\n")
