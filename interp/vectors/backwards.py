"""Back-patching (Biran et al. 2024, "Hopping too late"): later layers into earlier ones.

What a token has after a later block is written at the same token after an earlier one, and the
blocks between get to work on it again. Published success counts a case if any pair of layers mends
it; among many pairs some mend a case by chance. So here one pair is chosen on half of the cases and
judged on the other half, and a mismatched prompt's vector goes through the same search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import PromptError, SiteError
from interp.generation.answers import score_answers
from interp.metrics import Metric, Term
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.places import At, WordsBySpan, token_places
from interp.stats import proportion_interval
from interp.stats.clusters import Clusters, number_clusters
from interp.vectors.grid import check_layers
from interp.vectors.halves import halves, joined, partners
from interp.vectors.results import attributes, coordinates
from interp.vectors.sources import read_vectors
from interp.vectors.table import Vectors
from interp.vectors.target import Target, read_after

__all__ = ["back_patching"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

SEARCHES = ("own", "mismatched")
"""Whose vector is written: that of the prompt itself, or of another one, the control."""


def answered(logits: Tensor, targets: Tensor) -> Tensor:
    """1 where greedy decoding gives the whole answer [row]."""
    return ((logits.argmax(-1) == targets) | (targets < 0)).all(1).to(torch.float32)


ANSWERED = Metric(
    "answered",
    "share of cases",
    (Term("answer", "answer", answered),),
    "whether greedy decoding gives the whole answer",
)


@typed
def back_patching(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    at: At = "last",
    spans: WordsBySpan | None = None,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    clusters: Clusters | None = None,
    seed: Seed = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Put what a token has at a later layer into an earlier one, where the model answers wrong.

    Cases are the prompts that greedy decoding does not answer as given; only they are patched. A
    case is mended by a pair of layers if greedy decoding then gives the whole answer.

    Args:
        model: the model.
        prompts: texts.
        answers: what should follow each, as written (" Paris", with its space).
        at: the token that is moved, one of each prompt: a number (negative from the end), "last",
            a label ("subject -1"), or for each prompt its number, [[3], [5], …].
        spans: where names stand: {"subject": ["Tom Cruise", …]}.
        site: "resid_post" and so on; not "pattern".
        layers: which layers to move between; all if left out.
        clusters: which prompts ask the same; those with one prompt or one answer if left out.
            Halves share no cluster, and a mismatched prompt is of another one.
        seed: of the halves and of what is mismatched.
        batch_size: rows in one pass; from a memory estimate if left out.
        progress: called with (runs done, runs in all).

    Returns:
        For each `search`, "own" and "mismatched" (the vector of another prompt of the same half
        is written instead): mended(search, example, source_layer, target_layer), 1 or 0, NaN
        where the target layer is not the earlier one and for prompts that are no cases;
        chosen_source_layer and chosen_target_layer, the pair that mends most cases of the first
        half (of equals the first, `ties` tells how many there are; -1 where none mends any), and
        chosen_rate, the share that it mends there; held_out_rate, the share of the other half's
        cases that it mends, with its 95% interval held_out_low and held_out_high (NaN where no pair
        was chosen); any_pair_rate, any_pair_low and
        any_pair_high, the share of all cases that some pair or other mends. By example: answered,
        whether it is no case; half, "chosen on" or "held out"; partner, the mismatched example.
        The attribute `statement` says it in words.

    Raises:
        PromptError: hardly any prompt is answered wrong, too few questions, or no such token.
        SiteError: no such site or layer, or fewer than two layers.
        ArgumentError: passes without a row.
    """
    tos = check_layers(model, site, layers, written=True)
    if len(tos) < 2:
        raise SiteError("Back-patching moves between layers; name two at least.")
    right = score_answers(model, prompts, answers)["correct"].values
    cases = np.nonzero(~right)[0]
    if len(cases) == 0:
        raise PromptError(
            f"The model answers all {len(right)} prompts rightly, so there is nothing to mend; "
            "give some that it answers wrong."
        )
    asked = Target.of(model, prompts, ANSWERED, answers, None, 0)
    where = _one_token(token_places(asked.batch, at, spans).tokens)
    same = _clusters(asked, clusters)
    cluster = np.unique(same[cases], return_inverse=True)[1]
    half = halves(cluster, seed)
    partner = partners(cluster, half, seed)
    vectors = read_vectors(model, asked.batch, site, tos, cases, where[cases])
    moves = _Moves.between(len(tos), len(cases), partner)
    table = Vectors(
        site,
        vectors.flatten(0, 1),
        example=cases[moves.case],
        layer=np.asarray(tos)[moves.target],
        position=where[cases][moves.case],
        vector=moves.source * len(cases) + moves.read,
    )
    scores = read_after(model, asked, table, batch_size, progress).scores
    assert scores is not None
    mended = np.full((len(SEARCHES), len(cases), len(tos), len(tos)), np.nan)
    mended[moves.search, moves.case, moves.source, moves.target] = scores
    found = {name: judged(mended[i], half, cluster, tos) for i, name in enumerate(SEARCHES)}
    every = np.full((len(SEARCHES), len(right), len(tos), len(tos)), np.nan, np.float32)
    every[:, cases] = mended
    names = np.full(len(right), "", dtype=object)
    names[cases] = np.where(half == 0, "chosen on", "held out")
    other = np.full(len(right), -1)
    other[cases] = cases[partner]
    dims = ("search", "example", "source_layer", "target_layer")
    attrs = attributes(model, "back-patching", site, asked)
    return xr.Dataset(
        {
            "mended": (dims, every),
            "answered": ("example", right),
            **{key: ("search", [one[key] for one in found.values()]) for key in found["own"]},
        },
        coords={
            "search": list(SEARCHES),
            "source_layer": list(tos),
            "target_layer": list(tos),
            **coordinates(asked),
            "half": ("example", names),
            "partner": ("example", other),
            "cluster": ("example", same),
        },
        attrs={
            **attrs,
            "seed": seed,
            "n_cases": len(cases),
            "n_pairs": len(tos) * (len(tos) - 1) // 2,
            "statement": _statement(found, half, len(tos)),
        },
    )


@dataclass(frozen=True)
class _Moves:
    """One run for each search, case and pair of layers, the target layer the earlier one [row].

    Attributes:
        read: the case whose vector is written.
    """

    search: Indices
    case: Indices
    source: Indices
    target: Indices
    read: Indices

    @classmethod
    def between(cls, n_layers: int, n_cases: int, partner: Indices) -> _Moves:
        source, target = np.nonzero(np.tri(n_layers, k=-1, dtype=np.bool_))
        search, case, pair = (
            index.ravel() for index in np.indices((len(SEARCHES), n_cases, len(source)))
        )
        read = np.where(search == 0, case, partner[case])
        return cls(search, case, source[pair], target[pair], read)


def _one_token(places: tuple[tuple[tuple[int, ...], ...], ...]) -> Indices:
    if len(places) != 1 or any(len(tokens) != 1 for tokens in places[0]):
        raise PromptError(
            "Back-patching moves one token of each prompt; name one that all of them have, such as "
            "'last' or 'subject -1'."
        )
    return np.array([tokens[0] for tokens in places[0]], dtype=np.int64)


def _clusters(asked: Target, clusters: Clusters | None) -> Indices:
    """Numbers of the clusters [example]; equal prompts are of one in any case."""
    assert asked.questions is not None  # there are answers
    n = len(asked.batch)
    prompts = [tuple(asked.batch.row(i)) for i in range(n)]
    if clusters is None:
        return joined(prompts, asked.questions.answer_ids)
    return joined(prompts, number_clusters(n, clusters)[0].tolist())


def judged(
    mended: Floats, half: Indices, clusters: Indices, layers: Sequence[int]
) -> dict[str, Any]:
    """One search: chosen on the first half, judged on the second, and any pair on both."""
    rates = mended[half == 0].mean(0)  # NaN where there is no such pair
    best = float(np.nanmax(rates))
    source, target = np.unravel_index(int(np.nanargmax(rates)), rates.shape)
    if best > 0:
        held_out = mended[half == 1, source, target]
        rate, (low, high) = (
            float(held_out.mean()),
            proportion_interval(held_out, clusters[half == 1]),
        )
    else:  # no pair was chosen, so there is none to judge
        rate = low = high = np.nan
    anyhow = np.nanmax(mended, axis=(1, 2))
    any_low, any_high = proportion_interval(anyhow, clusters)
    return {
        "chosen_source_layer": layers[int(source)] if best > 0 else -1,
        "chosen_target_layer": layers[int(target)] if best > 0 else -1,
        "ties": int((rates == best).sum()),
        "chosen_rate": best,
        "held_out_rate": rate,
        "held_out_low": low,
        "held_out_high": high,
        "any_pair_rate": float(anyhow.mean()),
        "any_pair_low": any_low,
        "any_pair_high": any_high,
    }


def _statement(found: dict[str, dict[str, Any]], half: Indices, n_layers: int) -> str:
    own, other = (found[name] for name in SEARCHES)

    def chosen(one: dict[str, Any]) -> str:
        if one["chosen_rate"] == 0:
            return "no pair mends any case that it would be chosen on, so there is none to judge"
        tied = f" (one of {one['ties']} alike)" if one["ties"] > 1 else ""
        return (
            f"layer {one['chosen_source_layer']} into {one['chosen_target_layer']}{tied} mends "
            f"{one['held_out_rate']:.2f} [{one['held_out_low']:.2f}, {one['held_out_high']:.2f}]"
        )

    return (
        f"Chosen on {int((half == 0).sum())} cases and judged on {int((half == 1).sum())} held-out "
        f"ones: {chosen(own)}; with a mismatched prompt's vector, {chosen(other)}. Some pair or "
        f"other of {n_layers * (n_layers - 1) // 2} mends {own['any_pair_rate']:.2f} of all cases, "
        f"with a mismatched vector {other['any_pair_rate']:.2f}."
    )
