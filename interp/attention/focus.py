"""How far the end of a prompt attends to its instruction, and heads in which that falls.

Attention Tracker (Hung et al. 2024): where data hold an instruction of their own, some heads look
from the last token less at the instruction that was given. Heads are chosen on a few pairs of
prompts; what they then tell has to be seen on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from cache.arguments import Seed, typed
from interp.attention.patterns import check_values, last_to_spans, patterns_of, value_lengths
from interp.errors import PromptError, SiteError, StatisticsError
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.masks import span_mask
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.results import Focus
from interp.sites import Site
from interp.stats import auroc, auroc_interval

__all__ = [
    "FocusDetector",
    "evaluate_detector",
    "fit_focus_detector",
    "instruction_focus",
    "select_heads",
]

Span: TypeAlias = "Sequence[str] | Bool[Tensor, 'example position']"
_STRICTEST = 5.0
_STEPS = 50
_NOTHING = 1e-8


@typed
def instruction_focus(
    model: Model,
    prompts: Prompts | str | TokenBatch,
    instruction: Sequence[str] | Bool[Tensor, "example position"],
    data: Sequence[str] | Bool[Tensor, "example position"],
    *,
    weighted: bool = False,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Attention from the last token of each prompt to its instruction, and to its data.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        instruction: the words of each prompt that are its instruction, which it holds once; or a
            mask of its tokens.
        data: likewise its data.
        weighted: whether to add what is moved: attention times the length of v W_O.
        progress: called with (prompts done, prompts in all).

    Returns:
        attention(example, layer, head, span): summed over the tokens of the span, "instruction" or
        "data"; focus(example, layer, head): the instruction's share of both, between 0 and 1. With
        `weighted` also moved(…, span) in the unit of the stream, and moved_focus.

    Raises:
        PromptError: empty or too long prompts, a span that a prompt does not hold once or that has
            no token, or spans that overlap.
        SiteError: the model does not show its patterns.
        ModelError: with `weighted`, its heads do not put out pattern times values.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    masks = torch.stack([_mask(model, batch, instruction), _mask(model, batch, data)])
    if bool(masks.all(0).any()):
        raise PromptError("Instruction and data share a token; name pieces that lie apart.")
    if weighted:
        check_values(model, batch)
    shape = (len(batch), model.n_layers, model.n_heads, 2)
    names = ("attention", "moved") if weighted else ("attention",)
    found = {name: np.zeros(shape, np.float32) for name in names}
    for start, stop, activations in patterns_of(
        model, batch, range(model.n_layers), values=weighted
    ):
        ends, here = batch.lengths[start:stop] - 1, masks[:, start:stop]
        for layer in range(model.n_layers):
            pattern = activations[Site("pattern", layer)].float()
            sums = {"attention": last_to_spans(pattern, ends, here)}
            if weighted:
                lengths = value_lengths(model, layer, activations[Site("v", layer)])
                sums["moved"] = last_to_spans(pattern * lengths[:, :, None], ends, here)
            for name, value in sums.items():
                found[name][start:stop, layer] = value.cpu().numpy()
        if progress:
            progress(stop, len(batch))
    dims = ("example", "layer", "head", "span")
    variables: dict[str, Any] = {}
    for name, values in found.items():
        variables[name] = (dims, values)
        share = values[..., 0] / np.maximum(values.sum(-1), _NOTHING)
        variables["focus" if name == "attention" else "moved_focus"] = (dims[:3], share)
    coords = {
        "layer": np.arange(model.n_layers),
        "head": np.arange(model.n_heads),
        "span": ["instruction", "data"],
        "prompt": ("example", list(batch.texts)),
    }
    return xr.Dataset(variables, coords, {"instrument": "instruction focus", **model.identity})


@typed
def select_heads(
    clean: Focus, attacked: Focus, *, n: float | None = None, least: int = 1
) -> xr.Dataset:
    """Heads whose focus falls by more than n times the spread of both kinds of prompts.

    Args:
        clean: result of `instruction_focus` on prompts without an injection.
        attacked: on prompts with one.
        n: of standard deviations; if left out the largest of 5, 4.9, 4.8, … at which `least` heads
            are left, or 0.
        least: how many heads must be left, where n is.

    Returns:
        difference(layer, head): mean focus of the clean minus that of the attacked prompts;
        spread(layer, head): the sum of both standard deviations; chosen(layer, head): whether
        difference − n · spread > 0. The attribute n tells which was taken.

    Raises:
        PromptError: results of different models, or fewer than two prompts of a kind.
        StatisticsError: n is negative or not finite, or there are not so many heads.
    """
    first, second = _both(clean, attacked)
    if min(len(first), len(second)) < 2:
        raise PromptError("Heads are chosen by a spread over prompts; give two or more of each.")
    if n is not None and not 0 <= n < np.inf:
        raise StatisticsError(f"n is {n}; give a number of standard deviations, 0 or more.")
    difference = first.mean(0) - second.mean(0)
    spread = first.std(0) + second.std(0)
    if not 1 <= least <= difference.size:
        raise StatisticsError(
            f"{least} of {difference.size} heads cannot be chosen; give 1 to all."
        )
    steps = np.linspace(_STRICTEST, 0, _STEPS + 1).round(9)
    tried = [float(step) for step in steps] if n is None else [n]
    left = [int((difference - each * spread > 0).sum()) for each in tried]
    taken = next((each for each, many in zip(tried, left, strict=True) if many >= least), tried[-1])
    dims = ("layer", "head")
    return xr.Dataset(
        {
            "difference": (dims, difference),
            "spread": (dims, spread),
            "chosen": (dims, difference - taken * spread > 0),
        },
        {name: clean[name].values for name in dims},
        {"instrument": "head selection", "n": float(taken), **_identity(clean)},
    )


@typed
@dataclass(frozen=True)
class FocusDetector:
    """Says of a prompt that its data hold an injection where the focus of some heads is low.

    Attributes:
        heads: (layer, head) of each.
        threshold: a lower score is flagged.
        n: how many standard deviations they were chosen by.

    Raises:
        StatisticsError: there are no heads, or a number is not finite.
    """

    heads: tuple[tuple[int, int], ...]
    threshold: float
    n: float

    def __post_init__(self) -> None:
        if not self.heads or not np.isfinite([self.threshold, self.n]).all():
            raise StatisticsError(
                "A detector needs heads, a finite threshold and a finite n; fit one with "
                "fit_focus_detector."
            )

    @typed
    def score(self, focus: Focus) -> xr.DataArray:
        """The mean focus of the heads (example); low where there is an injection.

        Raises:
            SiteError: the result lacks one of the heads.
        """
        return _score(focus, self.heads)

    @typed
    def flags(self, focus: Focus) -> xr.DataArray:
        """Whether an injection is said to be there (example)."""
        return self.score(focus) < self.threshold


@typed
def fit_focus_detector(
    clean: Focus, attacked: Focus, *, n: float | None = None, least: int = 1
) -> FocusDetector:
    """Choose heads as `select_heads` does, and the threshold half way between both mean scores.

    Raises:
        PromptError, StatisticsError: as for `select_heads`; also where no head is left.
    """
    selected = select_heads(clean, attacked, n=n, least=least)
    chosen = selected["chosen"].values
    heads = tuple(
        (int(selected["layer"][i]), int(selected["head"][j])) for i, j in np.argwhere(chosen)
    )
    if not heads:
        raise PromptError(
            f"In no head does the focus on the instruction fall by more than "
            f"{selected.attrs['n']:g} spreads, so there is nothing to detect injections by."
        )
    means = [float(_score(one, heads).mean()) for one in (clean, attacked)]
    return FocusDetector(heads, sum(means) / 2, selected.attrs["n"])


@typed
def evaluate_detector(
    detector: FocusDetector,
    clean: Focus,
    attacked: Focus,
    *,
    draws: int = 200,
    seed: Seed = 0,
    confidence: float = 0.95,
) -> xr.Dataset:
    """How well a detector tells prompts with an injection from others that it has not seen.

    Args:
        detector: fitted on other prompts, best of other families of attacks.
        clean: result of `instruction_focus`; the prompts must be independent.
        attacked: likewise, of prompts with an injection.
        draws: how many sets of as many random heads to compare with.
        seed: of these.
        confidence: of the interval.

    Returns:
        clean_score(clean_example), attacked_score(attacked_example); auroc() with low() and high()
        (see `auroc_interval`); found() and false_alarms(), the shares that are flagged; all_heads()
        and by_head(layer, head), the area by the mean over all heads and by each alone; random(
        draw), by as many heads at random.

    Raises:
        PromptError: results of different models.
        SiteError: a result lacks one of the heads.
    """
    first, second = _both(clean, attacked)
    one, other = (detector.score(each).values for each in (clean, attacked))
    low, high = auroc_interval(-other, -one, confidence)
    flat = [each.reshape(len(each), -1) for each in (first, second)]
    rng = np.random.default_rng(seed)
    sets = [rng.choice(flat[0].shape[1], len(detector.heads), replace=False) for _ in range(draws)]
    random = [auroc(-flat[1][:, each].mean(1), -flat[0][:, each].mean(1)) for each in sets]
    alone = [auroc(-b, -a) for a, b in zip(flat[0].T, flat[1].T, strict=True)]
    return xr.Dataset(
        {
            "clean_score": ("clean_example", one),
            "attacked_score": ("attacked_example", other),
            "auroc": auroc(-other, -one),
            "low": low,
            "high": high,
            "found": float((other < detector.threshold).mean()),
            "false_alarms": float((one < detector.threshold).mean()),
            "all_heads": auroc(-flat[1].mean(1), -flat[0].mean(1)),
            "by_head": (("layer", "head"), np.reshape(alone, first.shape[1:])),
            "random": ("draw", np.array(random)),
        },
        {name: clean[name].values for name in ("layer", "head")},
        {"instrument": "injection detector", "confidence": confidence, **_identity(clean)},
    )


def _score(focus: xr.Dataset, heads: Sequence[tuple[int, int]]) -> xr.DataArray:
    try:
        each = [focus["focus"].sel(layer=layer, head=head, drop=True) for layer, head in heads]
    except KeyError as error:
        raise SiteError(
            "The detector reads heads that are not among these; measure the focus in its model."
        ) from error
    return xr.concat(each, "chosen").mean("chosen")


def _both(
    clean: xr.Dataset, attacked: xr.Dataset
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Focus [example, layer, head] of both."""
    if _identity(clean) != _identity(attacked):
        raise PromptError("These are results of two models; measure both kinds of prompts in one.")
    dims = ("example", "layer", "head")
    first, second = (
        one["focus"].transpose(*dims).values.astype(np.float64) for one in (clean, attacked)
    )
    if first.shape[1:] != second.shape[1:]:
        raise PromptError("These results are of different heads; measure both of all heads.")
    return first, second


def _identity(result: xr.Dataset) -> dict[str, Any]:
    return {name: value for name, value in result.attrs.items() if name != "instrument"}


def _mask(model: Model, batch: TokenBatch, span: Span) -> Bool[Tensor, "example position"]:
    if not isinstance(span, Tensor):
        return span_mask(model, batch, span)
    if span.shape != batch.ids.shape:
        raise PromptError(
            f"A mask of a span is true or false for each token {tuple(batch.ids.shape)}."
        )
    real = torch.arange(span.shape[1]) < batch.lengths[:, None]
    mask = span.cpu()
    if not bool((mask & real).any(1).all()) or bool((mask & ~real).any()):
        raise PromptError("A span has one or more of its own prompt's tokens; this mask has not.")
    return mask
