"""What is put in the place of an activation, and the runs that this is about."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from interp.components.heads import linear_in_heads
from interp.errors import SiteError
from interp.forward.capture import capture
from interp.forward.passes import Recording
from interp.metrics import Metric, Scorer
from interp.model.model import Model
from interp.patching.table import Indices, Mask, Places
from interp.prompts.pairs import PromptPairs, Reading, Run
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site, shape_at

Replacement = Literal["other", "zero", "mean"] | Mapping[int, Tensor]
Constants = Mapping[Site, Tensor]
"""By site one value [d_model], [neuron] or [head, d_head], the same for every position and example;
of patterns [head, 1, 1]. Or one for each token of the run that is changed: [example, position, …].
"""

Direction = Literal["denoising", "noising"]

# (the run that is changed, the run that the values come from)
RUNS: dict[str, tuple[Run, Run]] = {
    "denoising": ("corrupt", "clean"),
    "noising": ("clean", "corrupt"),
}


class Runs(abc.ABC):
    """What a table of edits is about, as one kind of sequence is read.

    Attributes:
        model: which runs.
        base: the run that is changed, as it is read.
    """

    model: Model
    base: Scorer

    def __len__(self) -> int:
        return len(self.base.reading.ids)

    @property
    @abc.abstractmethod
    def scored(self) -> Mapping[Run, Scorer]:
        """The runs as they are read, the one that is changed first."""

    @property
    @abc.abstractmethod
    def places(self) -> Places:
        """Where the slots of a table stand in the run that is changed, and in the other."""

    @property
    @abc.abstractmethod
    def copies(self) -> bool:
        """Whether what is put in is recorded from the last of the runs."""

    @abc.abstractmethod
    def values(self, site: Site, source: Recording, offset: int) -> Tensor:
        """What is put in at `site`: [example, position, …], or vectors that a table numbers.

        Args:
            source: a recording of the last of the runs.
            offset: its first example.
        """

    @abc.abstractmethod
    def idle(self) -> Mask:
        """Slots where what is put in is known to be what was there [example, slot]."""

    @property
    def length(self) -> int:
        """Tokens in the longest of the runs."""
        return max(scorer.reading.ids.shape[1] for scorer in self.scored.values())

    @functools.cached_property
    def heads_add(self) -> bool:
        """Whether what heads put out is patched without running their attention."""
        return linear_in_heads(self.model, self.base.reading.ids)


@dataclass(frozen=True)
class GivenVectors(Runs):
    """A run of some prompts, and the vectors that are put into it.

    Attributes:
        base: the run, as it is read.
        lengths: tokens of each prompt [example]; what is forced after it is never changed.
        vectors: [vector, d_model] or [vector, head, d_head], as the table numbers them; they may
            lie elsewhere than the model.
    """

    model: Model
    base: Scorer
    lengths: Indices
    vectors: Tensor

    @property
    def scored(self) -> Mapping[Run, Scorer]:
        return {"clean": self.base}

    @property
    def places(self) -> Places:
        index = np.tile(np.arange(int(self.lengths.max())), (len(self.lengths), 1))
        index[index >= self.lengths[:, None]] = -1
        return Places(index, index)

    @property
    def copies(self) -> bool:
        return False

    def values(self, site: Site, source: Recording, offset: int) -> Tensor:
        return self.vectors

    def idle(self) -> Mask:
        return np.zeros((len(self.lengths), int(self.lengths.max())), dtype=np.bool_)


@dataclass(frozen=True)
class TwoRuns(Runs):
    """The two runs as one kind of sequence is read, and what is put in.

    Attributes:
        base, source: the run that is changed and the other, as they are read.
        constants: what is put in at each site, where that is not the other run's activation.
    """

    model: Model
    pairs: PromptPairs
    direction: Direction
    base: Scorer
    source: Scorer
    constants: Constants | None = None

    @property
    def readings(self) -> tuple[Reading, Reading]:
        """The sequences of the run that is changed, and of the other."""
        return self.base.reading, self.source.reading

    @property
    def scored(self) -> Mapping[Run, Scorer]:
        return dict(zip(RUNS[self.direction], (self.base, self.source), strict=True))

    @property
    def places(self) -> Places:
        return places(self.pairs, self.direction, constant=self.constants is not None)

    @property
    def copies(self) -> bool:
        return self.constants is None

    def values(self, site: Site, source: Recording, offset: int) -> Tensor:
        if self.constants is None:
            return source[site]
        constant = self.constants[site]
        if for_each_token(site, constant):
            return constant[offset : offset + source.batch]
        if site.kind.pairwise:
            return constant.expand(source.batch, -1, self.length, self.length)
        return constant.expand(source.batch, self.length, *constant.shape)

    def idle(self) -> Mask:
        # Two runs that start with the same tokens have the same activations there.
        here, there = self.places.destination, self.places.origin
        if self.constants is not None:
            return np.zeros(here.shape, dtype=np.bool_)
        base, source = (reading.ids for reading in self.readings)
        width = min(base.shape[1], source.shape[1])
        differs = (base[:, :width] != source[:, :width]).numpy()
        shared = np.where(differs.any(1), differs.argmax(1), width)
        return np.asarray((here == there) & (here < shared[:, None]))


def places(pairs: PromptPairs, direction: Direction, *, constant: bool) -> Places:
    """Where the pairs' slots stand in the run that is changed and in the other.

    Args:
        constant: whether a constant is put in, which has no place of its own.
    """
    slots: Mapping[Run, Indices] = {
        "clean": pairs.alignment.clean,
        "corrupt": pairs.alignment.corrupt,
    }
    base, source = RUNS[direction]
    return Places(slots[base], slots[base if constant else source])


def all_runs(
    model: Model,
    pairs: PromptPairs,
    metric: Metric,
    direction: Direction,
    constants: Constants | None,
) -> list[TwoRuns]:
    """The two runs for each kind of sequence that the metric is read from."""
    found = []
    for read in metric.reads:
        base, source = (
            Scorer.of(model, pairs, metric, read, pairs.reading(run, read))
            for run in RUNS[direction]
        )
        found.append(TwoRuns(model, pairs, direction, base, source, constants))
    return found


def check_direction(direction: str | None, source: object) -> Direction:
    """The direction that is meant, by default that of the source.

    Raises:
        SiteError: there is no such direction.
    """
    other = isinstance(source, str) and source == "other"
    chosen = direction or ("denoising" if other else "noising")
    if chosen not in RUNS:
        raise SiteError(f"Unknown direction '{chosen}'; choose 'denoising' or 'noising'.")
    return "denoising" if chosen == "denoising" else "noising"


def constants(
    model: Model,
    sites: Sequence[Site],
    source: Replacement,
    reference: Prompts | None,
    changed: TokenBatch | None = None,
) -> Constants | None:
    """The values that `source` stands for; None for "other", which is no constant.

    Args:
        source: "zero"; "mean", the mean over all tokens of the `reference` prompts but BOS; or a
            value for each layer, of each token or of all.
        changed: the prompts of the run that is changed, whose tokens may have values of their own.

    Raises:
        SiteError: an unknown source, a mean without reference prompts, values that do not fit, or
            patterns that are to be replaced by anything else than the other run's or zero.
    """
    if isinstance(source, str) and source == "other":
        return None
    for site in sites:
        if source != "zero" and not site.kind.has_mean:
            raise SiteError(
                f"{site.kind.plural} of different prompts have no common mean or value; replace "
                "them by source='other' or 'zero'."
            )
    if isinstance(source, Mapping):
        return {site: _fitting(model, source, site, changed) for site in sites}
    if source == "zero":
        return {
            site: torch.zeros(_shape(model, site), device=model.device, dtype=model.dtype)
            for site in sites
        }
    if source != "mean":
        raise SiteError(
            f"Unknown source {source!r}; choose 'other', 'zero', 'mean', or give a tensor by layer."
        )
    if reference is None:
        raise SiteError("A mean is taken over prompts; give them as reference=….")
    batch = tokenise(model, reference, what="reference prompts")
    real = torch.arange(batch.ids.shape[1])[None, :] < batch.lengths[:, None]
    if model.tokenizer.bos_token_id is not None:
        # The residual stream at BOS is like no other, and large.
        real &= batch.ids != model.tokenizer.bos_token_id
    found = capture(model, batch, sites)
    return {site: found[str(site)][real.to(model.device)].mean(0) for site in sites}


def _shape(model: Model, site: Site) -> tuple[int, ...]:
    return (*shape_at(model, site.name), *((1, 1) if site.kind.pairwise else ()))


def for_each_token(site: Site, value: Tensor) -> bool:
    """Whether what is given is [example, position, …], and not one value for all tokens."""
    return value.ndim > len(site.kind.axes)


def _fitting(
    model: Model, source: Mapping[int, Tensor], site: Site, changed: TokenBatch | None
) -> Tensor:
    shape = _shape(model, site)
    value = source.get(site.layer)
    if value is None or not _fits(tuple(value.shape), shape, changed):
        each = (
            "" if changed is None else f", or {(*changed.ids.shape, *shape)} for each token of it"
        )
        raise SiteError(f"Give a value of shape {shape} for layer {site.layer}{each}.")
    real = value = value.detach()
    if changed is not None and for_each_token(site, value):
        there = torch.arange(value.shape[1]) < changed.lengths[:, None]
        real = value[there.to(value.device)]
    if value.is_complex() or not bool(torch.isfinite(real).all()):
        raise SiteError(
            f"The values for layer {site.layer} are not all finite; give numbers for every token."
        )
    if not bool(torch.isfinite(real.to(model.dtype)).all()):
        raise SiteError(
            f"Some values for layer {site.layer} are too large for {model.dtype}, in which "
            f"{model.name} runs; scale them down."
        )
    return value.to(device=model.device, dtype=model.dtype)


def _fits(given: tuple[int, ...], shape: tuple[int, ...], changed: TokenBatch | None) -> bool:
    if given == shape or changed is None:
        return given == shape
    n, width = changed.ids.shape
    # Recorded with an answer behind the prompt they may be longer.
    return (
        len(given) == 2 + len(shape)
        and given[0] == n
        and given[1] >= width
        and (given[2:] == shape)
    )
