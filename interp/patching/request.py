"""What a sweep or an estimate was asked for, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.patching.cells import By, Cells, check_by, check_layers, lay_out
from interp.patching.groups import Neurons
from interp.patching.values import (
    Constants,
    Direction,
    Source,
    TwoRuns,
    all_runs,
    check_direction,
    constants,
    places,
)
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import Prompts
from interp.sites import Site


@dataclass(frozen=True)
class Request:
    """A sweep: the arguments of `sweep`, checked and with their defaults."""

    model: Model
    pairs: PromptPairs
    site: str
    metric: Metric
    direction: Direction
    layers: tuple[int, ...]
    cells: Cells
    constants: Constants | None
    source: str

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: PromptPairs,
        site: str,
        metric: Metric | str,
        *,
        by: By | Sequence[By] | None,
        direction: Direction | None,
        source: Source,
        reference: Prompts | None,
        layers: Sequence[int] | None,
        positions: Sequence[int | str] | None,
        heads: Sequence[int] | None,
        neurons: Neurons | None,
        attended: Sequence[int | str] | None,
    ) -> Request:
        """See `sweep`."""
        axes = check_by(site, by)
        chosen = check_layers(model, site, layers)
        metric = get_metric(metric)
        chosen_direction = check_direction(direction, source)
        values = constants(model, [Site(site, layer) for layer in chosen], source, reference)
        cells = lay_out(
            model,
            pairs.alignment,
            places(pairs, chosen_direction, constant=values is not None),
            site,
            axes,
            positions=positions,
            heads=heads,
            neurons=neurons,
            attended=attended,
        )
        named = source if isinstance(source, str) else "given"
        return cls(model, pairs, site, metric, chosen_direction, chosen, cells, values, named)

    def all_runs(self, batch_size: int | None = None) -> list[TwoRuns]:
        """The two runs for each kind of sequence that the metric is read from."""
        return all_runs(
            self.model, self.pairs, self.metric, self.direction, self.constants, batch_size
        )
