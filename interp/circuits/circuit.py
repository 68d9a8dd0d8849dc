"""A set of edges that is claimed to carry a behaviour, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.arguments import typed
from cache.files import read_bytes, write_atomic
from interp.components.graph import Edges, Graph
from interp.errors import ModelError, StorageError
from interp.model.model import Model
from interp.notebook import cut, picture

if TYPE_CHECKING:
    import networkx as nx

_FORMAT = "obverse circuit 1"
# Edges in a notebook.
_SHOWN = 20


@typed
@dataclass(frozen=True)
class Circuit:
    """Edges of one model.

    Attributes:
        graph: all edges that the model has.
        included: those of the circuit [source, destination].
        scores: what each edge was chosen by [source, destination], NaN where there is none.
        identity: name and fingerprint of the model, and the version of Obverse.
        settings: how the edges were scored and chosen.
        positions: labels of the position axis, where scores were told apart by position.
        position: for each edge the position where most of its score lies [source, destination];
            -1 where it is not known.
        found_on: clean prompts of the pairs that the edges were scored on; none where that is not
            known. What a circuit does is measured on other pairs.
    """

    graph: Graph
    included: Edges
    scores: npt.NDArray[np.float32]
    identity: Mapping[str, str]
    settings: Mapping[str, str | int | float]
    positions: tuple[str, ...] = ()
    position: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    found_on: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.included.sum())

    def __repr__(self) -> str:
        return (
            f"Circuit({len(self)} of {self.graph.n_edges} edges, {len(self.nodes)} nodes, "
            f"{self.identity.get('model', '?')})"
        )

    def _repr_html_(self) -> str:
        index = {name: i for i, name in enumerate(self.graph.sources)}
        targets = {name: i for i, name in enumerate(self.graph.destinations)}
        rows = []
        for source, destination in self.edges[:_SHOWN]:
            at = index[source], targets[destination]
            score, place = self.scores[at], int(self.position[at]) if self.position.size else -1
            where = self.positions[place] if 0 <= place < len(self.positions) else ""
            told = f"{score:+.3g}" if np.isfinite(score) else ""
            rows.append([source, destination, told, *([where] if self.positions else [])])
        columns = ["from", "to", "score", *(["position"] if self.positions else [])]
        more = len(self) - _SHOWN
        note = f"… and {more:,} more edge{'s' if more != 1 else ''}" if more > 0 else ""
        title = f"Circuit of {cut(self.identity.get('model', '?'))}"
        title += f": {len(self):,} of {self.graph.n_edges:,} edges, {len(self.nodes):,} nodes"
        return picture(title, columns, rows, note)

    @property
    def edges(self) -> list[tuple[str, str]]:
        """(source, destination) of each edge, the largest |score| first."""
        found = np.argwhere(self.included)
        size = np.abs(np.nan_to_num(self.scores[self.included]))
        return [
            (self.graph.sources[s], self.graph.destinations[d])
            for s, d in found[np.argsort(-size, kind="stable")]
        ]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Writers that the circuit's edges lead from or to, and "logits", in the model's order."""
        used = self.included.any(1) | (self.included.any(0) @ self.graph.feeds)
        names = [name for name, present in zip(self.graph.sources, used, strict=True) if present]
        return (*names, "logits") if self.included[:, -1].any() else tuple(names)

    def jaccard(self, other: Circuit) -> float:
        """Edges that both have, as a share of those that either has; 1 for two empty ones."""
        return jaccard(self.included, other.included)

    def to_networkx(self) -> nx.MultiDiGraph:
        """Nodes are writers and "logits"; each edge has `reader` ("q", "k", "v", "mlp", "logits")
        and `score`."""
        import networkx as nx

        graph = nx.MultiDiGraph(**self.identity)
        graph.add_nodes_from(self.nodes)
        for source, destination in np.argwhere(self.included):
            name = self.graph.destinations[destination]
            kind = name.rsplit(".", 1)[1] if "." in name else "mlp" if name[0] == "m" else name
            for target in self.targets(int(destination)):
                graph.add_edge(
                    self.graph.sources[source],
                    target,
                    reader=kind,
                    score=float(self.scores[source, destination]),
                )
        return graph

    def targets(self, destination: int) -> tuple[str, ...]:
        """The nodes that a reader belongs to: all heads that share a key, if they are in the
        circuit."""
        if destination == len(self.graph.destinations) - 1:
            return ("logits",)
        fed = [self.graph.sources[i] for i in np.nonzero(self.graph.feeds[destination])[0]]
        # A shared key may serve heads that the circuit does not use.
        used = [name for name in fed if self.included[self.graph.sources.index(name)].any()]
        return tuple(used or fed)

    def save(self, path: Path | str) -> None:
        """Write the circuit as JSON.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        edges = [
            {
                "source": self.graph.sources[s],
                "destination": self.graph.destinations[d],
                "score": _finite(self.scores[s, d]),
                "position": int(self.position[s, d]) if self.position.size else -1,
            }
            for s, d in np.argwhere(self.included)
        ]
        content = {
            "format": _FORMAT,
            "identity": dict(self.identity),
            "graph": asdict(self.graph),
            "settings": dict(self.settings),
            "positions": list(self.positions),
            "found_on": list(self.found_on),
            "edges": edges,
        }
        write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path | str, model: Model) -> Circuit:
        """Read a circuit of this model; edges that it does not have get no score.

        Raises:
            StorageError: there is no such file, or it is no circuit.
            ModelError: it belongs to another model.
        """
        try:
            content = json.loads(read_bytes(path))
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            identity = {str(k): str(v) for k, v in content["identity"].items()}
            if identity["fingerprint"] != model.fingerprint:
                raise ModelError(
                    f"The circuit in '{path}' belongs to the model '{identity['model']}' with "
                    f"fingerprint {identity['fingerprint']}, not to {model.name} "
                    f"({model.fingerprint}); load that model, or find a circuit of this one."
                )
            graph = Graph.of(model)
            positions = tuple(str(label) for label in content["positions"])
            return _read_edges(graph, content, identity, positions)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(
                f"'{path}' is not a circuit that Obverse wrote ({_reason(error)}); save it again."
            ) from error


def jaccard(first: Edges, second: Edges) -> float:
    """Edges in both as a share of those in either; 1 where both are empty."""
    either = int((first | second).sum())
    return int((first & second).sum()) / either if either else 1.0


def _read_edges(
    graph: Graph, content: dict[str, Any], identity: dict[str, str], positions: tuple[str, ...]
) -> Circuit:
    shape = graph.real.shape
    included = np.zeros(shape, dtype=bool)
    scores = np.full(shape, np.nan, dtype=np.float32)
    position = np.full(shape, -1, dtype=np.int64)
    for edge in content["edges"]:
        at = (
            graph.sources.index(edge["source"]),
            graph.destinations.index(edge["destination"]),
        )
        if not graph.real[at]:
            raise ValueError(f"{edge['source']} cannot reach {edge['destination']}")
        included[at] = True
        scores[at] = np.nan if edge["score"] is None else float(edge["score"])
        if np.isinf(scores[at]) or (edge["score"] is not None and np.isnan(scores[at])):
            raise ValueError("a score is not finite")
        position[at] = int(edge["position"])
        if not -1 <= position[at] < max(1, len(positions)):
            raise ValueError("an edge stands at a position that is not there")
    settings = {
        str(key): value
        for key, value in content["settings"].items()
        if isinstance(value, str | int | float)
    }
    # Circuits of earlier versions do not say.
    found_on = content.get("found_on", [])
    if not isinstance(found_on, list) or not all(isinstance(text, str) for text in found_on):
        raise ValueError("the prompts that it was found on are no texts")
    return Circuit(
        graph, included, scores, identity, settings, positions, position, tuple(found_on)
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]
