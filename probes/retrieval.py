"""Is a thing with too many values to be a class, another name say, told by the activations?

A linear map from activations to vectors of the things (their unembedding, say) is fitted on some
groups; on the others, what it says is compared with the vectors of all things that stand there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from scipy import stats as scipy_stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import ProbeError
from interp.stats import holm
from interp.stats.proportions import score_intervals
from probes.controls import splits
from probes.controls.order import in_sequence
from probes.controls.shuffling import arrangements, shuffled, too_few
from probes.controls.significance import Floats, against_shuffled, group_interval
from probes.features import Features, alike, example_groups, fittable
from probes.labels import Codes, Labels, check_numbers, group_codes

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)


@typed
def retrieve(
    features: Any,
    items: Sequence[str],
    vectors: Mapping[str, Float[Tensor, " target"]],
    *,
    groups: Any = None,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    nulls: int = 20,
    seed: Seed = 0,
) -> xr.Dataset:
    """How often the right item is preferred to another one, by ridge regression into its vector.

    Args:
        features: as for `fit_probes`.
        items: the right item of each example.
        vectors: a vector for each item.
        groups: see `probe_report`; the items if left out. All examples of an item must be in one
            group, so that no item is both learned and tested.
        strengths: penalties to choose from, times the site's mean variance per dim; each fold is
            judged at the one that the other folds choose.
        folds: of the cross-validation.
        nulls: how often items are given to the wrong groups, at least 3.
        seed: of folds and shuffles.

    Returns:
        preferred(site), the share of other items of the fold that the right one beats (chance is
        1/2), with `_low` and `_high` (95%: over groups, and no narrower than shuffled items vary,
        since all items of a fold are judged by one map and vary together); null(site, null), the
        same with shuffled items; p_value and p_corrected (Holm, over sites); beaten(site, example).

    Raises:
        ProbeError: items without a vector, an item in several groups, or too few items.
    """
    found = fittable(features)
    names = np.asarray(items)
    if names.shape != (len(found),):
        raise ProbeError(
            f"There are {len(found)} examples but items of shape {names.shape}; give one for each."
        )
    classes, codes = np.unique(names, return_inverse=True)
    missing = [str(name) for name in classes if name not in vectors]
    if missing:
        raise ProbeError(f"There is no vector for '{missing[0]}'; give one for each item.")
    check_numbers(strengths, folds=(folds, 2), nulls=(nulls, 3), seed=(seed, 0))
    by_group = _groups(found, codes, groups)
    for item in range(len(classes)):
        if len(np.unique(by_group[codes == item])) > 1:
            raise ProbeError(
                f"'{classes[item]}' stands in several groups, so it could be learned and tested; "
                "put all examples of an item into one group."
            )
    of_items = [torch.as_tensor(vectors[name]).detach().double().cpu() for name in classes]
    for name, vector in zip(classes, of_items, strict=True):
        if vector.ndim != 1 or vector.shape != of_items[0].shape or not vector.isfinite().all():
            raise ProbeError(
                f"The vector of '{name}' is not one of {of_items[0].numel()} finite numbers like "
                "the others; give all items vectors of one length."
            )
    target = torch.stack(of_items)
    rng = np.random.default_rng(seed)
    everything = Labels(np.zeros(len(found), dtype=np.int64), ("all",))
    fold_of = splits.folds(everything, by_group, folds, rng)
    if min(len(np.unique(codes[fold_of == fold])) for fold in range(folds)) < 2:
        raise ProbeError("Each fold needs at least two items to choose from; use fewer folds.")
    turned = in_sequence(found.values, by_group)
    ways = arrangements(codes, by_group, within=fold_of, turned=turned)
    if warning := too_few(ways, len(found.sites)):
        warnings.warn(warning, stacklevel=2)
    answers = [codes]
    for _ in range(nulls):
        answers.append(shuffled(codes, by_group, rng, within=fold_of, turned=turned)[0])
    beaten = np.stack(
        [_beaten(site, np.stack(answers), target, fold_of, strengths) for site in found.values]
    )
    chosen = _cross_fitted(beaten, fold_of)
    scores = chosen.mean(2)
    low, high = _interval(chosen[:, 0], by_group, scores[:, 1:])
    p = against_shuffled(scores[:, 0], scores[:, 1:], least=1 / ways)
    coords = {
        "site": list(found.sites),
        "item": ("example", [str(name) for name in names]),
        "group": ("example", by_group),
    }
    attrs = {
        **found.identity,
        "obverse_version": version("obverse"),
        "instrument": "retrieve",
        "items": len(classes),
        "groups": int(by_group.max()) + 1,
        "folds": folds,
        "seed": seed,
        "arrangements": ways,
        "inside_groups": "turned" if turned else "shuffled",
    }
    return xr.Dataset(
        {
            "preferred": ("site", scores[:, 0]),
            "preferred_low": ("site", low),
            "preferred_high": ("site", high),
            "null": (("site", "null"), scores[:, 1:]),
            "p_value": ("site", p),
            "p_corrected": ("site", holm(p)),
            "beaten": (("site", "example"), chosen[:, 0]),
        },
        coords,
        attrs,
    )


def _groups(found: Features, codes: Codes, groups: Any) -> Codes:
    """The groups that are given; else items, those of examples that are the very same in one."""
    if groups is not None:
        return example_groups(found, groups)
    ends = codes, int(codes.max()) + 1 + alike(found)
    size = int(ends[1].max()) + 1
    links = coo_array((np.ones(len(found)), ends), shape=(size, size))
    part = connected_components(links, directed=False)[1]
    return group_codes(part[codes], len(found))


def _interval(chosen: Floats, groups: Codes, null: Floats) -> tuple[Floats, Floats]:
    """The wider of two score intervals: of as many trials as groups tell, or as shuffles do.

    Args:
        chosen: [site, example].
        groups: of the examples.
        null: scores of shuffled items [site, shuffle].
    """
    low, high = group_interval(chosen, groups)
    # Chance is one half, of which so many trials vary as much.
    trials = 0.25 / np.maximum(null.var(1, ddof=1), 1e-12)
    t = float(scipy_stats.t.ppf(0.975, null.shape[1] - 1))
    below, above = score_intervals(chosen.mean(1), trials, t)
    return np.minimum(low, below), np.maximum(high, above)


def _beaten(
    x: Float[Tensor, "example dim"],
    answers: npt.NDArray[np.int64],
    target: Float[Tensor, "item target"],
    fold_of: Codes,
    strengths: Sequence[float],
) -> npt.NDArray[np.float64]:
    """[labels, strength, example]: the share of the fold's other items with a lower cosine."""
    out = np.zeros((len(answers), len(strengths), x.shape[0]))
    values = x.double().cpu()
    for fold in range(int(fold_of.max()) + 1):
        tested = torch.as_tensor(fold_of == fold)
        train, test = values[~tested], values[tested]
        mean = train.mean(0)
        eigenvalues, axes = torch.linalg.eigh((train - mean).T @ (train - mean))
        scale = eigenvalues.sum() / train.numel()
        seen, asked = (train - mean) @ axes, (test - mean) @ axes
        for which, codes in enumerate(torch.as_tensor(answers)):
            wanted = target[codes[~tested]]
            centre = wanted.mean(0)
            cross = seen.T @ (wanted - centre)
            candidates = codes[tested].unique()
            known = torch.nn.functional.normalize(target[candidates] - centre, dim=1)
            right = torch.searchsorted(candidates, codes[tested])
            for number, strength in enumerate(strengths):
                shrunk = cross / (eigenvalues.clamp(min=0) + strength * scale + 1e-30)[:, None]
                cosine = torch.nn.functional.normalize(asked @ shrunk, dim=1) @ known.T
                own = cosine.gather(1, right[:, None])
                # Itself is tied with itself; other ties count half.
                won = (cosine < own).sum(1) + ((cosine == own).sum(1) - 1) / 2
                out[which, number, tested.numpy()] = (won / (len(candidates) - 1)).numpy()
    return out


def _cross_fitted(beaten: npt.NDArray[np.float64], fold_of: Codes) -> npt.NDArray[np.float64]:
    """[site, labels, example] at the strength that is best on the other folds."""
    out = np.empty((*beaten.shape[:2], beaten.shape[3]))
    for fold in range(int(fold_of.max()) + 1):
        tested = fold_of == fold
        best = beaten[..., ~tested].mean(3).argmax(2)
        picked = np.take_along_axis(beaten[..., tested], best[..., None, None], 2)
        out[..., tested] = picked[:, :, 0]
    return out
