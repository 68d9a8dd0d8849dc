"""The edges of a model: every writer of the residual stream to every later reader of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interp.components.components import PROJECTIONS, Components, Projection
from interp.errors import SiteError
from interp.model.model import Model

_NAMED = re.compile(r"[am](\d+)(?:\.h(\d+))?\Z")

Edges = npt.NDArray[np.bool_]
"""A set of edges [source, destination]."""


@dataclass(frozen=True)
class Graph:
    """Names and order of the nodes, as the literature on edge attribution has them.

    Sources are "input" (the embedding), "a0.h0" (layer 0 head 0), "m0" (the MLP of layer 0), …;
    destinations are "a0.h0.q", "a0.h0.k", "a0.h0.v" (what a head makes queries, keys and values
    of), "m0", …, "logits". With grouped queries there are as many ".k" and ".v" as there are
    key-value heads.

    Attributes:
        mlp_reads_heads: whether an MLP reads the heads of its own layer (not in parallel blocks).
    """

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    mlp_reads_heads: bool

    @classmethod
    def of(cls, model: Model | Components) -> Graph:
        model = model.model if isinstance(model, Components) else model
        return cls(
            model.n_layers, model.n_heads, model.n_key_value_heads, not model.parallel_blocks
        )

    @classmethod
    def from_attrs(cls, attrs: Mapping[Hashable, Any]) -> Graph:
        """The graph that a result was made on, from what it notes (see `attrs`)."""
        layers, heads, shared = (
            int(attrs[name]) for name in ("n_layers", "n_heads", "n_key_value_heads")
        )
        return cls(layers, heads, shared, bool(attrs["mlp_reads_heads"]))

    @property
    def attrs(self) -> dict[str, int]:
        """Plain numbers to be kept with a result."""
        return {name: int(value) for name, value in asdict(self).items()}

    @functools.cached_property
    def sources(self) -> tuple[str, ...]:
        layers = (
            (*(f"a{i}.h{h}" for h in range(self.n_heads)), f"m{i}") for i in range(self.n_layers)
        )
        return ("input", *(name for layer in layers for name in layer))

    @functools.cached_property
    def destinations(self) -> tuple[str, ...]:
        names: list[str] = []
        for layer in range(self.n_layers):
            for projection in PROJECTIONS:
                names += [f"a{layer}.h{h}.{projection}" for h in range(self.heads(projection))]
            names.append(f"m{layer}")
        return (*names, "logits")

    @functools.cached_property
    def real(self) -> Edges:
        """Which pairs are edges at all: writers that stand before the reader."""
        edges = np.zeros((len(self.sources), len(self.destinations)), dtype=bool)
        for layer in range(self.n_layers):
            edges[: self.heads_of(layer).start, self.attention_readers(layer)] = True
            edges[: self.before_mlp(layer), self.mlp_reader(layer)] = True
        edges[:, -1] = True
        return edges

    def find_source(self, name: str) -> int:
        """The index of a writer; a SiteError where there is no such."""
        if name in self.sources:
            return self.sources.index(name)
        raise SiteError(
            f"There is no writer '{name}'; writers are 'input', 'a0.h0' to "
            f"'a{self.n_layers - 1}.h{self.n_heads - 1}', and 'm0' to 'm{self.n_layers - 1}'."
        )

    def find_destinations(self, name: str) -> tuple[int, ...]:
        """The index of a reader, or of a head's three: "a1.h2" for its query, key and value."""
        if name in self.destinations:
            return (self.destinations.index(name),)
        if name in self.sources and name != "input":
            return tuple(int(i) for i in np.nonzero(self.feeds[:, self.sources.index(name)])[0])
        raise SiteError(
            f"There is no reader '{name}'; readers are 'a0.h0.q' to "
            f"'a{self.n_layers - 1}.h{self.n_key_value_heads - 1}.v', 'm0' to "
            f"'m{self.n_layers - 1}', and 'logits'."
        )

    def place(self, source: str) -> tuple[int, int]:
        """Layer and head of a writer; -1 for what it has not."""
        named = _NAMED.match(source)
        if named is None:
            return -1, -1
        return int(named[1]), -1 if named[2] is None else int(named[2])

    @property
    def n_edges(self) -> int:
        return int(self.real.sum())

    @functools.cached_property
    def feeds(self) -> Edges:
        """Which reader is an input of which writer [destination, source]."""
        out = np.zeros((len(self.destinations), len(self.sources)), dtype=bool)
        for layer in range(self.n_layers):
            writers = self.heads_of(layer)
            for projection in PROJECTIONS:
                first = self.readers(layer, projection).start
                for head in range(self.n_heads):
                    shared = head if projection == "q" else head // self.queries_per_key
                    out[first + shared, writers.start + head] = True
            out[self.mlp_reader(layer), self.mlp_writer(layer)] = True
        return out

    @property
    def queries_per_key(self) -> int:
        """Heads that share one key-value head."""
        return self.n_heads // self.n_key_value_heads

    def heads(self, projection: Projection) -> int:
        return self.n_heads if projection == "q" else self.n_key_value_heads

    def heads_of(self, layer: int) -> slice:
        """The sources that are heads of this layer."""
        start = 1 + layer * (self.n_heads + 1)
        return slice(start, start + self.n_heads)

    def mlp_writer(self, layer: int) -> int:
        return (layer + 1) * (self.n_heads + 1)

    def before_mlp(self, layer: int) -> int:
        """How many sources, from the first on, the MLP of this layer reads."""
        first = 1 + layer * (self.n_heads + 1)
        return first + self.n_heads if self.mlp_reads_heads else first

    def attention_readers(self, layer: int) -> slice:
        """The destinations that are queries, keys and values of this layer."""
        width = self.n_heads + 2 * self.n_key_value_heads
        return slice(layer * (width + 1), layer * (width + 1) + width)

    def readers(self, layer: int, projection: Projection) -> slice:
        start = self.attention_readers(layer).start
        for before in PROJECTIONS[: PROJECTIONS.index(projection)]:
            start += self.heads(before)
        return slice(start, start + self.heads(projection))

    def layer_of(self, destination: int) -> int:
        """The layer of a reader; the number of layers for the unembedding."""
        return destination // (self.n_heads + 2 * self.n_key_value_heads + 1)

    def head_read_by(self, destination: int) -> tuple[Projection, int]:
        """Of a reader that is no MLP nor the logits, its projection and head."""
        layer = self.layer_of(destination)
        projection = next(p for p in PROJECTIONS if destination < self.readers(layer, p).stop)
        return projection, destination - self.readers(layer, projection).start

    def mlp_reader(self, layer: int) -> int:
        return (layer + 1) * (self.n_heads + 2 * self.n_key_value_heads + 1) - 1
