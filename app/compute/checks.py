"""What must be so if numbers are right: each is computed in a second way, and compared.

Every check runs the model anew, through other code than what it checks as far as there is some:
a mistake in one of them shows as a difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.explorer import Pair

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from interp.model.model import Model
    from interp.prompts.pairs import PromptPairs
    from interp.prompts.tokens import TokenBatch

_HIDES = 0.25  # of what is shown: rounding that is larger could hide a mistake
_MOST = 8  # places of a prompt that are patched with themselves


@dataclass(frozen=True)
class Check:
    """Something that must be so if the figure's numbers are right.

    Attributes:
        name: in few words, "Contributions sum".
        good: whether it is so.
        said: what was found, as a sentence with the number.
        sure: whether it could have turned out otherwise: in a type that rounds by more than a
            quarter of what is shown, what is wrong may look right.
    """

    name: str
    good: bool
    said: str
    sure: bool = True


def patches(model: Model, pair: Pair, site: str, layer: int) -> tuple[Check, ...]:
    """Patching at one layer: with the run's own activations, and before the prompts differ.

    Before their first differing token two runs of a causal model are the same, so that patches
    there, taken from the other prompt, must change nothing. Sweeps do not even run these cells;
    here they are run.
    """
    from app.compute.pairs import build
    from interp.forward.capture import capture
    from interp.kinds import site_kind

    pairs = build(model, [pair])
    name = f"{site}.{layer}"
    corrupt, clean = (
        capture(model, pairs.prompts(run), name)[name] for run in ("corrupt", "clean")
    )
    per_head = site_kind(site).per_head
    slots = np.unique(np.linspace(0, len(pairs.alignment) - 1, _MOST).round().astype(int))
    moved, allowed, effect = _changed(
        model, pairs, site, layer, corrupt, None if per_head else slots
    )
    where = f"at layer {layer}"
    own = _weighed(
        model,
        "Itself: no change",
        (moved, allowed, effect),
        f"Put back {where}, the run’s own activations move the metric by {_small(moved)}; up to "
        f"{_small(allowed)} is rounding.",
    )
    same = _before_the_difference(pairs)
    here, there = pairs.alignment.corrupt[0], pairs.alignment.clean[0]
    before = np.nonzero((here >= 0) & (here < same))[0]
    if not len(before):
        return own, spans(model, pair)
    mixed = corrupt.clone()
    mixed[:, here[before]] = clean[:, there[before]]
    moved, allowed, _ = _changed(model, pairs, site, layer, mixed, None if per_head else before)
    n = f"{len(before)} token{'s' if len(before) > 1 else ''}"
    sham = _weighed(
        model,
        "Sham near 0",
        (moved, allowed, effect),
        f"Patched {where} at the {n} before the prompts differ, where nothing can be carried, the "
        f"metric moves by {_small(moved)}; up to {_small(allowed)} is rounding.",
    )
    return own, sham, spans(model, pair)


def stored(model: Model, pair: Pair, result: xr.Dataset) -> tuple[Check, ...]:
    """Whether a map that was stored is of this model: the patch that moves its metric most is run
    again. What else is checked of patches says nothing of numbers that lie in a file.

    Args:
        result: the map of this pair.
    """
    from app.compute.pairs import build
    from interp.patching.single import patch_once

    name = "Stored = model"
    told = result["patched"].isel(example=0)
    values = np.abs(told.values.astype(float) - float(result["corrupt"][0]))
    if result.attrs.get("fingerprint") != model.fingerprint:
        said = "The model that is open has another fingerprint than the one that was patched."
        return (Check(name, True, said, sure=False),)
    if result.attrs.get("metric") != "logit_diff" or not np.isfinite(values).any():
        return ()
    layer, column = (int(at) for at in np.unravel_index(np.nanargmax(values), values.shape))
    pairs, head, position = build(model, [pair]), None, None
    if "head" in told.dims:
        head = int(told["head"][column])
    else:
        label = str(result["position_label"].values[column])
        if label not in pairs.positions:
            return (Check(name, False, f"The pair has no place ‘{label}’, which is stored."),)
        position = pairs.positions.index(label)
    depth, site = int(told["layer"][layer]), str(result.attrs["site"])
    found = patch_once(model, pairs, site, depth, position=position, head=head, k=1)
    metric = found["answer_logit"] - found["foil_logit"]
    numbers = {run: float(result[run][0]) for run in ("clean", "corrupt")}
    numbers["patched"] = float(told[layer, column])
    both = [(value, float(metric.sel(run=run))) for run, value in numbers.items()]
    rounding = 1e-3 if model.dtype.itemsize > 2 else 0.25
    good = all(abs(own - value) <= rounding + 0.05 * abs(own) for value, own in both)
    value, own = both[-1]
    told_of = f"The patch that moves most, at layer {depth}, gives {_plain(own)} when it is run"
    return (Check(name, good, f"{told_of} again; stored is {_plain(value)}."),)


def _changed(
    model: Model,
    pairs: PromptPairs,
    site: str,
    layer: int,
    values: Tensor,
    slots: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]] | None,
) -> tuple[float, float, float]:
    """By how much patches move the metric at most, and by how much rounding may; and how far apart
    both runs are."""
    from interp.patching import sweep

    found = sweep(
        model,
        pairs,
        site,
        layers=[layer],
        positions=None if slots is None else [int(slot) for slot in slots],
        direction="denoising",
        source={layer: values},
    )
    moved = np.abs((found["patched"] - found["corrupt"]).values)
    if "position" in found.dims:  # elsewhere a cell is empty because nothing stands against it
        here = pairs.alignment.clean[0][found["position"].values]
        moved = moved[..., here >= 0]
    clean, corrupt = (float(found[run].values[0]) for run in ("clean", "corrupt"))
    size = np.max(np.abs([clean, corrupt]))
    most = max(_largest_logit(model, pairs.prompts(run)) for run in ("clean", "corrupt"))
    # What is no number is no agreement: NaN is larger than whatever may be.
    allowed = _allowed(model, float(size), most)
    return float(np.max(moved, initial=0.0)), allowed, abs(clean - corrupt)


def _before_the_difference(pairs: PromptPairs) -> int:
    """How many tokens the two prompts have in common at their beginning."""
    clean, corrupt = (pairs.prompts(run).row(0) for run in ("clean", "corrupt"))
    same = [a == b for a, b in zip(clean, corrupt, strict=False)]
    return same.index(False) if False in same else len(same)


def spans(model: Model, pair: Pair) -> Check:
    """Whether the named words stand against each other, and the ends, in the same order."""
    from app.compute.pairs import aligned, build
    from interp.prompts.alignment import token_range
    from interp.prompts.pairs import occurrences

    pairs = build(model, [pair])
    here, there = pairs.alignment.clean[0], pairs.alignment.corrupt[0]
    matched = [(int(a), int(b)) for a, b in zip(here, there, strict=True) if a >= 0]
    inside = []
    for run, words in zip(("clean", "corrupt"), pair.words, strict=True):
        batch, text = pairs.prompts(run), getattr(pair, run)  # type: ignore[arg-type]
        offsets, start = batch.offsets[0], occurrences(text, words)[0]
        assert offsets is not None
        inside.append(range(*token_range(text, offsets, start, start + len(words))))
    ends = tuple(int(pairs.prompts(run).lengths[0]) - 1 for run in ("clean", "corrupt"))
    ordered = all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(matched))
    named = all((a in inside[0]) == (b in inside[1]) for a, b in matched)
    last = ends in matched and (inside[0][-1], inside[1][-1]) in matched
    lone = sum(map(len, aligned(model, pair).unmatched))
    counted = f"{len(matched)} tokens stand against each other, {lone} against none"
    if ordered and named and last:
        return Check("Spans align", True, f"{counted}; the ends of the “{pair.span}” do.")
    return Check(
        "Spans align",
        False,
        f"The tokens of the “{pair.span}” or the last ones do not stand against each other "
        f"({counted}).",
    )


def last_layer(model: Model, lens: xr.Dataset, prompt: str) -> Check:
    """Whether the lens of the last layer is what the model itself predicts."""
    import torch

    from interp.generation.logits import logits

    ours = lens.isel(example=0, layer=-1, position=-1)
    read = np.asarray(ours["top_prob"].values, dtype=float)
    said = logits(model, [prompt])[0].cpu()
    top = said.softmax(-1).topk(min(len(read) + 1, len(said)))
    own = top.values.double().numpy()
    off = float(np.abs(own[: len(read)] - read).max())
    # Of many tokens each is unlikely: what may be rounding is told beside the likeliest of them.
    rounding = 2 * float(torch.finfo(model.dtype).eps) * float(said.abs().max())
    allowed = float(own[0]) * max(_allowed(model, 1.0), min(1.0, rounding))
    names = model.token_strings(top.indices.tolist())
    apart = np.abs(np.diff(own)) > 2 * allowed
    sure = np.append(True, apart)[: len(read)] & np.append(apart, False)[: len(read)]
    told = [str(token) for token in ours["top_token"].values]
    others = [told[i] for i in np.flatnonzero(sure) if told[i] != names[i]]
    found = (
        f"Read from the last layer, the likeliest tokens’ probabilities differ from the model’s "
        f"own by {_small(off)}; up to {_small(allowed)} is rounding."
    )
    if others:
        found += f" ‘{others[0]}’ is not the token that the model says there."
    if others:
        return Check("Last layer = model", False, found)
    return _weighed(model, "Last layer = model", (off, allowed, float(own[0])), found)


def contributions(
    model: Model, result: xr.Dataset, prompt: str, answer: str, foil: str | None
) -> Check:
    """Whether the shares of one prompt's attribution add up to the model's own logits."""
    from interp.generation.logits import logits
    from interp.prompts.pairs import continuations
    from interp.prompts.tokens import tokenise

    texts = [answer] if foil is None else [answer, foil]
    ids = continuations(model, tokenise(model, [prompt] * len(texts)), texts)
    own = [float(x) for x in logits(model, [prompt])[0, [one[0] for one in ids]].cpu()]
    whole = own[0] - (own[1] if foil is not None else 0.0)
    parts = result["contribution"].values.astype(float)
    total = float(np.nansum(parts)) + float(result.get("rounding", np.zeros(1))[0])
    of = float(result[str(result.attrs["of"])][0])
    # What a soft cap makes of the sum is no sum.
    told = float(result["capped"][0]) if "capped" in result else total
    size = float(np.max([np.nanmax(np.abs(parts), initial=0.0), *np.abs(own)]))
    allowed = _allowed(model, size, size)
    off = float(np.max(np.abs([told - whole, total - of])))
    return _weighed(
        model,
        "Contributions sum",
        (off, allowed, abs(whole)),
        f"The {parts.size} shares add up to {_plain(total)}, and the model’s own logits give "
        f"{_plain(whole)}; they may differ by {_small(allowed)}.",
    )


def no_change(model: Model, off: float, largest: float) -> Check:
    """Whether a question's own vector, put back, leaves probabilities, the largest of which is
    told, as they are but for `off`."""
    allowed = _allowed(model, 1.0) * largest
    return _weighed(
        model,
        "Itself: no change",
        (off, allowed, largest),
        f"The question’s own vector, put back at its place, moves the likeliest tokens’ "
        f"probabilities by {_small(off)}; up to {_small(allowed)} is rounding.",
    )


def whole_circuit(model: Model, pairs: PromptPairs, whole: float, empty: float) -> Check:
    """Whether all edges together are the model on the clean prompts, and none the corrupted run.

    Args:
        whole, empty: mean logit differences with all edges and without any.
    """
    import torch

    from interp.generation.logits import logits

    tokens = torch.stack([pairs.first_tokens(read) for read in ("answer", "foil")], 1)
    own, most = [], 0.0
    for run in ("clean", "corrupt"):
        found = logits(model, pairs.prompts(run))
        most = max(most, float(found.abs().max()))
        read = found.gather(1, tokens.to(found.device)).double()
        own.append(float((read[:, 0] - read[:, 1]).mean()))
    off = float(np.max(np.abs([whole - own[0], empty - own[1]])))
    allowed = _allowed(model, float(np.max(np.abs(own))), most)
    return _weighed(
        model,
        "All edges = model",
        (off, allowed, abs(own[0] - own[1])),
        f"With all edges the logit difference is {_plain(whole)} and without any {_plain(empty)}; "
        f"the model’s own are {_plain(own[0])} on the clean prompts and {_plain(own[1])} on the "
        f"corrupted ones.",
    )


def _largest_logit(model: Model, prompts: TokenBatch) -> float:
    from interp.generation.logits import logits

    return float(logits(model, prompts).abs().max())


def _weighed(model: Model, name: str, numbers: tuple[float, float, float], said: str) -> Check:
    """What was found, held against what rounding may do, and that against what is shown.

    Args:
        numbers: by how much something is off, by how much it may be, and the size of what is shown.
    """
    off, allowed, shown = numbers
    good, sure = off <= allowed, True
    if good and model.dtype.itemsize <= 2 and allowed > _HIDES * shown:
        sure = False
        said += (
            f" In {str(model.dtype).removeprefix('torch.')} that tells little: what is shown has a "
            f"size of {_small(shown)}. Load the model in float32 to have it checked."
        )
    return Check(name, good, said, sure)


def _allowed(model: Model, size: float, most: float = 1.0) -> float:
    """By how much numbers of this size may differ in the model's type.

    Args:
        most: the largest number that such a one is the difference of. What is small because all of
            them are has no more room than they have.
    """
    from interp.forward.passes import TOLERANCE

    return float(TOLERANCE[model.dtype]) * float(np.max([min(1.0, most), size]))


def _small(value: float) -> str:
    return f"{value:.1g}".replace("e-0", "e-")


def _plain(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
