"""The estimate is the derivative of the metric along the patch, by finite differences on Hugging
Face's own model, and its agreement with exact sweeps is measured rightly."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import sweep
from interp.errors import SiteError
from interp.patching import agreement, estimate
from tests.interp import reference
from tests.interp.at_once import Place, Write, at_places, in_pattern, means, places
from tests.interp.pairs import CASES, prompt_pairs
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow

STEP = 1e-2
REFERENCE = [case.text(run) for case in CASES for run in ("clean", "corrupt")]
Toward = list[tuple[tuple[Any, ...], Tensor]]
"""Entries of an activation, and what they move toward."""


def slopes(
    tiny: Tiny,
    example: int,
    site: str,
    layer: int,
    cells: Sequence[Toward],
    run: str = "corrupt",
) -> list[float]:
    """By cell the change of the logit difference per step from one run's activation to another."""
    case = CASES[example]
    ids = tuple(case.ids(tiny, run))
    answer, foil = tiny.ids(case.answer)[len(tiny.bos)], tiny.ids(case.foil)[len(tiny.bos)]

    def move(toward: Toward, step: float, value: Tensor) -> None:
        for where, target in toward:
            value[where] += step * (target - value[where])

    moves = [functools.partial(move, toward, step) for step in (STEP, -STEP) for toward in cells]
    with reference.intervened(tiny, site, layer, *moves):
        last = reference.copies(tiny, ids, len(moves))[:, -1]
    up, down = (last[:, answer] - last[:, foil]).unflatten(0, (2, -1))
    return ((up - down) / (2 * STEP)).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("site", [*reference.STREAMS, *reference.HEADS])
def test_an_estimate_is_the_slope_along_the_patch(tiny: Tiny, site: str) -> None:
    if site not in reference.sites(tiny):
        pytest.skip("parallel blocks have no such stream")
    pairs = prompt_pairs(tiny)
    by = ("head", "position") if site in reference.HEADS else "position"
    found = estimate(tiny.model, pairs, site, by=by, method="gradient", check=0)
    change = found["patched"] - found["corrupt"]
    scale = float(np.abs(change).max())
    assert scale > 0.05
    for example, case in enumerate(CASES):
        clean = tuple(case.ids(tiny, "clean"))
        there = pairs.alignment.clean[example] >= 0
        assert np.isnan(change.values[example, :, ~there]).all()
        for layer in range(tiny.model.n_layers):
            source = reference.activation(tiny, clean, site, layer)
            units = [(h,) for h in range(source.shape[1])] if site in reference.HEADS else [()]
            cells = [
                [((int(destination), *unit), source[(int(origin), *unit)])]
                for origin, destination in zip(
                    pairs.alignment.clean[example, there],
                    pairs.alignment.corrupt[example, there],
                    strict=True,
                )
                for unit in units
            ]
            expected = slopes(tiny, example, site, layer, cells)
            ours = change.values[example, layer, there].ravel()
            np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-3 * scale + 2e-3)


GROUPS = [[0, 3, 7, 20, 21], list(range(24, 48))]
# Site and axes; neurons are grouped as above.
WAYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mlp_act", ("position",)),
    ("mlp_act", ("neurons",)),
    ("mlp_act", ("span", "neurons")),
    ("pattern", ("head",)),
    ("pattern", ("destination", "source")),
    ("pattern", ("head", "source")),
)


def writes(
    tiny: Tiny, example: int, site: str, layer: int, by: Sequence[str], direction: str
) -> list[list[Write]]:
    """What each cell of an example and layer replaces, the last axis running fastest."""
    at = places(tiny, example, direction)
    single: list[list[Place | None]] = [[place] for place in at]
    if site == "pattern":
        return [
            in_pattern(layer, head, later, earlier)
            for head, later, earlier in itertools.product(
                range(tiny.model.n_heads) if "head" in by else [slice(None)],
                single if "destination" in by else [at],
                single if "source" in by else [at],
            )
        ]
    along = single if "position" in by else [at]
    if "span" in by:
        spans = ("start", "who", "who+", "where", "end")
        along = [[place for place in at if place and place.span == span] for span in spans]
    units: list[tuple[Any, ...]] = [(group,) for group in GROUPS] if "neurons" in by else [()]
    return [
        at_places(site, layer, chosen, unit) for chosen, unit in itertools.product(along, units)
    ]


@pytest.mark.parametrize("source", ["other", "zero", "mean"])
@pytest.mark.parametrize(("site", "by"), WAYS, ids=lambda value: str(value).strip("(),"))
def test_neurons_and_patterns_are_estimated_by_their_slopes(
    tiny: Tiny, site: str, by: tuple[str, ...], source: str
) -> None:
    if (site, source) == ("pattern", "mean"):
        pytest.skip("patterns have no mean")
    direction, run = ("denoising", "corrupt") if source == "other" else ("noising", "clean")
    other = "clean" if run == "corrupt" else "corrupt"
    found = estimate(
        tiny.model,
        prompt_pairs(tiny),
        site,
        by=by,  # type: ignore[arg-type]
        source=source,  # type: ignore[arg-type]
        reference=REFERENCE,
        neurons=GROUPS if "neurons" in by else None,
        method="gradient",
        check=0,
    )
    assert found.attrs["direction"] == direction
    change = (found["patched"] - found[run]).values
    scale = float(np.nanmax(np.abs(change)))
    assert scale > 0.05
    for example, layer in ((0, 2), (1, 1), (2, 0)):
        case = CASES[example]
        there = reference.activation(tiny, tuple(case.ids(tiny, other)), site, layer)
        mean = means(tiny, REFERENCE, site, layer) if source == "mean" else torch.zeros(())

        def target(write: Write, there: Tensor = there, mean: Tensor = mean) -> Tensor:
            if source == "other":
                return there[write.there]
            return mean[write.here[1:]] if source == "mean" else mean

        cells = writes(tiny, example, site, layer, by, direction)
        ours = change[example, layer].ravel()
        assert len(ours) == len(cells)
        np.testing.assert_array_equal(np.isnan(ours), [not cell for cell in cells])
        toward = [[(write.here, target(write)) for write in cell] for cell in cells if cell]
        expected = slopes(tiny, example, site, layer, toward, run)
        kept = ours[~np.isnan(ours)]
        np.testing.assert_allclose(kept, expected, rtol=0, atol=5e-3 * scale + 2e-3)


@pytest.mark.parametrize("source", ["zero", "mean"])
@pytest.mark.parametrize("site", ["resid_mid", "mlp_out", "z"])
def test_ablations_are_estimated_by_their_slopes(llama: Tiny, site: str, source: str) -> None:
    pairs = prompt_pairs(llama)
    by = ("head", "position") if site == "z" else "position"
    found = estimate(
        llama.model,
        pairs,
        site,
        by=by,
        method="gradient",
        check=0,
        source=source,
        reference=REFERENCE,
    )  # type: ignore[arg-type]
    change = (found["patched"] - found["clean"]).values
    scale = float(np.nanmax(np.abs(change)))
    for example, layer in itertools.product(range(len(CASES)), range(llama.model.n_layers)):
        mean = means(llama, REFERENCE, site, layer)
        value = mean if source == "mean" else torch.zeros_like(mean)
        at = places(llama, example, "noising")
        ours = change[example, layer]
        there = np.array([place is not None for place in at])
        assert np.isnan(ours[~there]).all()
        units = [(head,) for head in range(len(value))] if site == "z" else [()]
        cells = [[((p.here, *unit), value[unit])] for p in at if p for unit in units]
        expected = slopes(llama, example, site, layer, cells, "clean")
        np.testing.assert_allclose(ours[there].ravel(), expected, rtol=0, atol=5e-3 * scale + 2e-3)


def test_the_last_stream_is_estimated_exactly_where_the_rest_is_linear(llama: Tiny) -> None:
    """Cells add up: all heads of all positions are the sum of single heads and positions."""
    pairs = prompt_pairs(llama)
    single = estimate(llama.model, pairs, "z", by=("head", "position"), method="gradient", check=0)
    whole = estimate(llama.model, pairs, "z", by="head", method="gradient", check=0)
    summed = (single["patched"] - single["corrupt"]).sum("position", skipna=True)
    np.testing.assert_allclose(whole["patched"] - whole["corrupt"], summed, atol=1e-4)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_unpatched_metrics_are_those_of_a_sweep(llama: Tiny, direction: str) -> None:
    pairs = prompt_pairs(llama)
    guess = estimate(llama.model, pairs, "mlp_out", "logprob_diff", direction=direction)  # type: ignore[arg-type]
    exact = sweep(llama.model, pairs, "mlp_out", "logprob_diff", direction=direction)  # type: ignore[arg-type]
    for run in ("clean", "corrupt"):
        np.testing.assert_allclose(guess[run], exact[run], atol=1e-4)
    assert guess["patched"].dims == exact["patched"].dims
    measured = agreement(guess, exact)
    changes = [
        d["patched"] - d["clean" if direction == "noising" else "corrupt"] for d in (guess, exact)
    ]
    for layer in range(llama.model.n_layers):
        a, b = (c.isel(layer=layer).values.ravel() for c in changes)
        kept = np.isfinite(a)
        expected = np.corrcoef(a[kept], b[kept])[0, 1]
        assert float(measured["correlation"][layer]) == pytest.approx(expected)


def test_agreement_is_perfect_with_itself_and_counts_flips(llama: Tiny) -> None:
    exact = sweep(llama.model, prompt_pairs(llama), "mlp_out")
    same = agreement(exact, exact)
    np.testing.assert_allclose(same["correlation"], 1.0)
    np.testing.assert_allclose(same["sign_flips"], 0.0)
    mirrored = exact.assign(patched=2 * exact["corrupt"] - exact["patched"])
    np.testing.assert_allclose(agreement(mirrored, exact)["sign_flips"], 1.0)


def test_weights_stay_frozen_and_free_of_gradients(llama: Tiny) -> None:
    estimate(llama.model, prompt_pairs(llama), "resid_mid")
    for parameter in llama.model.bridge.original_model.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert torch.is_grad_enabled()


def test_a_rank_cannot_be_estimated(llama: Tiny) -> None:
    with pytest.raises(SiteError, match="no gradient"):
        estimate(llama.model, prompt_pairs(llama), "mlp_out", "rank")
