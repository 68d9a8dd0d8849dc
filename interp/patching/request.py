"""What a sweep or an estimate was asked for: as it is written down, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from torch import Tensor

from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.patching.cells import By, Cells, check_by, check_layers, lay_out
from interp.patching.groups import Neurons
from interp.patching.values import (
    RUNS,
    Constants,
    Direction,
    Replacement,
    TwoRuns,
    all_runs,
    check_direction,
    constants,
    for_each_token,
    places,
)
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import Prompts
from interp.sites import Site


class Options(TypedDict, total=False):
    """What `sweep`, `estimate` and `refine` replace, and with what: their arguments by name.

    What may be None is None where it is left out.

    Attributes:
        by: one cell for each "position" (the default of sites without heads), "span", "head" (all
            positions together; the default of sites with heads), or ("head", "position"). At
            "mlp_act" also "neurons", alone (all positions together) or with a position or span. At
            "pattern" one or several of "head" (the default), "destination" and "source": what is
            not named is replaced together.
        direction: "denoising" (the default) puts clean activations into the corrupted run,
            "noising" corrupted ones into the clean run. With another source, the run that is
            changed: the corrupted one, or the clean one (the default there).
        source: what is put in: the "other" run's activation (the default), "zero", the "mean" over
            the tokens of the `reference` prompts, or a value for each layer: {layer: [d_model]},
            [neuron] at "mlp_act", or [head, d_head] at sites with heads. Or one for each token of
            the run that is changed, {layer: [example, position, …]}: what `capture` has read from
            another model, say. Patterns take "other" and "zero"; what is left of a pattern is not
            scaled up to sum to 1.
        reference: prompts for the mean.
        layers: the ones to patch; all if left out.
        positions: the positions to patch, by number, label ("subject -1") or span ("subject");
            all if left out. At "pattern" they are the destinations.
        heads: the ones to patch; all if left out.
        neurons: how many consecutive neurons make a group, or the neurons of each group; about 32
            groups if left out.
        attended: at "pattern" the sources to patch, named like `positions`; all if left out.
    """

    by: By | Sequence[By] | None
    direction: Direction | None
    source: Replacement
    reference: Prompts | None
    layers: Sequence[int] | None
    positions: Sequence[int | str] | None
    heads: Sequence[int] | None
    neurons: Neurons | None
    attended: Sequence[int | str] | None


@dataclass(frozen=True)
class Request:
    """A sweep of one model, checked and laid out. It is sent to workers, which have the model.

    Attributes:
        pairs: clean and corrupted prompts with answers.
        metric: what is read.
        direction: which run is changed.
        cells: what is replaced, one by one.
        constants: what is put in, where that is not the other run's activation.
        source: what the result calls it: "other", "zero", "mean" or "given".
    """

    pairs: PromptPairs
    metric: Metric
    direction: Direction
    cells: Cells
    constants: Constants | None
    source: str

    @classmethod
    def of(
        cls, model: Model, pairs: PromptPairs, site: str, metric: Metric | str, options: Options
    ) -> Request:
        """What `sweep` is given.

        Raises:
            SiteError, PromptError, MetricError: as for `sweep`.
        """
        axes = check_by(site, options.get("by"))
        layers = check_layers(model, site, options.get("layers"))
        metric = get_metric(metric)
        source = options.get("source", "other")
        direction = check_direction(options.get("direction"), source)
        sites = [Site(site, layer) for layer in layers]
        changed = pairs.prompts(RUNS[direction][0])
        values = constants(model, sites, source, options.get("reference"), changed)
        where = places(pairs, direction, constant=values is not None)
        cells = lay_out(
            model,
            pairs.alignment,
            where,
            site,
            layers,
            axes,
            positions=options.get("positions"),
            heads=options.get("heads"),
            neurons=options.get("neurons"),
            attended=options.get("attended"),
        )
        named = source if isinstance(source, str) else "given"
        return cls(pairs, metric, direction, cells, values, named)

    def part(self, examples: range) -> Request:
        """The same of some of the pairs, with what is put in on the CPU."""
        values = self.constants
        return replace(
            self,
            pairs=self.pairs.subset(examples),
            cells=self.cells.subset(examples),
            constants=None
            if values is None
            else {s: _part(s, v, examples) for s, v in values.items()},
        )

    def all_runs(self, model: Model) -> list[TwoRuns]:
        """The two runs for each kind of sequence that the metric is read from."""
        values = self.constants
        if values is not None:
            values = {site: v.to(model.device, model.dtype) for site, v in values.items()}
        return all_runs(model, self.pairs, self.metric, self.direction, values)


def _part(site: Site, value: Tensor, examples: range) -> Tensor:
    if for_each_token(site, value):
        value = value[examples.start : examples.stop]
    return value.cpu()
