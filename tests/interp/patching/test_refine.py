"""An estimate of all cells, in which the largest are replaced by the truth, one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import estimate, sweep
from interp.errors import SiteError
from interp.metrics import Metric, Term, target_logit
from interp.patching import refine
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import BUILDERS, Tiny
from tests.interp.untouched import untouched

pytestmark = pytest.mark.slow

CLOSE = {"rtol": 0, "atol": 1e-5}
# Site, axes, direction, metric, and what else is asked for.
REQUESTS: dict[str, tuple[str, tuple[str, ...], str, str, dict[str, Any]]] = {
    "positions": ("resid_pre", ("position",), "denoising", "logit_diff", {}),
    "heads": ("z", ("head", "position"), "noising", "logprob_diff", {}),
    "layers": ("resid_post", ("span",), "denoising", "logit_diff", {"layers": [0, 2]}),
    "neurons": (
        "mlp_act",
        ("position", "neurons"),
        "noising",
        "logit_diff",
        {"neurons": 12, "source": "zero"},
    ),
    "patterns": ("pattern", ("destination", "source"), "denoising", "answer_logprob", {}),
}

# Estimates of every method have tests of their own: the costly default where there are few cells.
METHODS = {"neurons": "gradient", "patterns": "gradient"}

# What is cut into batches and counted: all but one of the two that are of streams.
PARTS = [name for name in REQUESTS if name != "positions"]


class Asked:
    """One request, in the three ways in which it can be answered."""

    def __init__(self, tiny: Tiny, name: str) -> None:
        site, by, direction, metric, options = REQUESTS[name]
        self.tiny, self.name = tiny, name
        self.positional = (tiny.model, prompt_pairs(tiny), site, metric)
        self.options = {"by": by, "direction": direction, **options}
        self.base = "corrupt" if direction == "denoising" else "clean"

    def __call__(self, instrument: Callable[..., Any], **more: Any) -> Any:
        if self.name in METHODS and (instrument is not sweep or "only" in more):
            more = {"method": METHODS[self.name], **more}
        return instrument(*self.positional, **self.options, **more)

    def whole(self) -> tuple[xr.Dataset, xr.Dataset]:
        """All cells estimated, and all cells swept; read only."""
        return _whole(self.tiny, self.name)


@functools.cache
def _whole(tiny: Tiny, name: str) -> tuple[xr.Dataset, xr.Dataset]:
    asked = Asked(tiny, name)
    return asked(estimate, check=0), asked(sweep)


# Every request on one architecture. Of the others, whose cells and sites have tests of their own,
# heads, and one request that attends or has neurons as this architecture does.
ASKED = [
    *[("llama", name) for name in REQUESTS],
    *[("gpt2", name) for name in ("heads", "neurons")],
    *[("neox", name) for name in ("heads", "patterns")],
]


@pytest.fixture(params=ASKED, ids="-".join)
def asked(request: pytest.FixtureRequest, zoo: Callable[[str], Tiny]) -> Asked:
    architecture, name = request.param
    return Asked(zoo(architecture), name)


def places_by_estimate(asked: Asked, estimated: xr.Dataset) -> list[tuple[int, ...]]:
    """Layers and places that some pair has, the largest mean |estimated change| first."""
    change = np.abs(estimated["patched"] - estimated[asked.base]).values
    found = {}
    for place in np.ndindex(change.shape[1:]):
        of_pairs = change[(slice(None), *place)]
        there = of_pairs[~np.isnan(of_pairs)]
        if len(there):
            found[place] = float(there.mean())
    return sorted(found, key=lambda place: -found[place])


def check_cells(asked: Asked, found: xr.Dataset, estimated: xr.Dataset, swept: xr.Dataset) -> None:
    """What is marked as exact is a sweep's, the rest an estimate's."""
    assert found["exact"].dims == found["patched"].dims[1:]
    run = np.broadcast_to(found["exact"].values, found["patched"].shape)
    np.testing.assert_allclose(
        found["patched"], np.where(run, swept["patched"], estimated["patched"]), **CLOSE
    )
    for name in ("clean", "corrupt"):
        np.testing.assert_allclose(found[name], swept[name], **CLOSE)
    assert set(found.coords) == set(swept.coords)
    assert found.attrs["instrument"] == "activation patching, estimated and exact"


def test_estimates_become_exact_the_largest_first(asked: Asked) -> None:
    estimated, swept = asked.whole()
    ranking = places_by_estimate(asked, estimated)
    results = list(asked(refine))
    assert len(results) > 3
    before: set[tuple[int, ...]] = set()
    for number, found in enumerate(results):
        check_cells(asked, found, estimated, swept)
        run = {tuple(int(i) for i in place) for place in np.argwhere(found["exact"].values)}
        assert run == set(ranking[: len(run)])
        assert (len(run) > 0) == (number > 0)
        assert number == 0 or run > before
        before = run
    np.testing.assert_array_equal(results[0]["patched"], estimated["patched"])
    np.testing.assert_allclose(results[-1]["patched"], swept["patched"], **CLOSE)
    # All that some pair has; what none has is neither run nor estimated.
    there = ~swept["patched"].isnull().all("example")
    np.testing.assert_array_equal(results[-1]["exact"], there)
    moved = np.abs(swept["patched"] - estimated["patched"])
    assert float(moved.max()) > 1e-3  # or nothing above could tell them apart


def test_only_so_many_places_are_run(asked: Asked) -> None:
    estimated, swept = asked.whole()
    ranking = places_by_estimate(asked, estimated)
    # How many are run is told from their ranking alone: also none, one, and more than there are,
    # of one stream and of one that has axes of its own.
    each = asked.tiny.name == "llama" and asked.name in ("layers", "patterns")
    for only in (0, 1, 7, 10_000) if each else (7,):
        found = asked(sweep, only=only)
        check_cells(asked, found, estimated, swept)
        expected = set(ranking[:only])
        assert len(expected) == min(only, len(ranking))
        assert {tuple(place) for place in np.argwhere(found["exact"].values).tolist()} == expected
        # What all of the others come to, the test above tells.
        if only < len(ranking) or asked.name == "layers":
            *_, last = asked(refine, only=only)
            xr.testing.assert_identical(last, found)


@pytest.mark.parametrize("name", PARTS)
def test_progress_ends_at_the_number_of_places(llama: Tiny, name: str) -> None:
    asked = Asked(llama, name)
    seen: list[tuple[int, int]] = []
    refined = functools.partial(asked, refine, method="gradient")
    results = list(refined(only=5, progress=lambda *at: seen.append(at), batch_size=2))
    assert len(results) == 6
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {5}
    list(refined(progress=lambda *at: seen.append(at)))
    total = len(places_by_estimate(asked, results[0]))
    assert seen[-1] == (total, total)


@pytest.mark.parametrize("name", PARTS)
def test_batches_and_memory_do_not_matter(
    llama: Tiny, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(llama, name)
    # Both kinds of estimate, the costly one where it has a stream's cells and where it has others.
    method = "columns" if name in ("layers", "patterns") else "gradient"
    refined = functools.partial(asked, refine, only=4, method=method)
    *_, whole = refined()
    *_, cut = refined(batch_size=2)
    # One row at a time, or a few where there are many.
    budget = 1 if name == "layers" else 1 << 17
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: budget)
    *_, alone = refined()
    for other in (cut, alone):
        np.testing.assert_array_equal(other["exact"], whole["exact"])
        np.testing.assert_allclose(other["patched"], whole["patched"], **CLOSE)


class Interrupt(Exception):
    pass


# Heads stand for the architectures; what neurons and patterns place, they place on each alike.
@pytest.mark.parametrize(
    ("tiny", "name"),
    [
        *[(architecture, "heads") for architecture in BUILDERS],
        *[("llama", name) for name in ("neurons", "patterns")],
    ],
    indirect=["tiny"],
)
def test_what_is_broken_off_leaves_nothing_behind(tiny: Tiny, name: str) -> None:
    asked = Asked(tiny, name)
    _, before = asked.whole()
    assert untouched(tiny)
    steps = asked(refine)
    for _ in range(3):
        next(steps)
        assert untouched(tiny)
    steps.close()

    def stop(done: int, total: int) -> None:
        if done > 1:
            raise Interrupt

    with pytest.raises(Interrupt):
        list(asked(refine, progress=stop, batch_size=1))
    assert untouched(tiny)
    xr.testing.assert_identical(asked(sweep), before)


def test_cells_whose_metric_is_no_number_are_run_and_stay_so(llama: Tiny) -> None:
    def root(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return target_logit(logits, targets).sqrt()  # of a negative logit there is none

    metric = Metric("root", "", (Term("prompt", "answer", root),), "")
    pairs = prompt_pairs(llama)
    swept, there = (sweep(llama.model, pairs, "z", m)["patched"] for m in (metric, "logit_diff"))
    missing = int(np.isnan(swept).sum() - np.isnan(there).sum())
    assert 0 < missing < there.size
    *_, found = refine(llama.model, pairs, "z", metric)
    assert bool(found["exact"].all())
    np.testing.assert_allclose(found["patched"], swept, **CLOSE)


def test_it_starts_from_the_method_that_is_asked_for(llama: Tiny) -> None:
    asked = Asked(llama, "heads")
    expected = asked(estimate, method="integrated", check=0)["patched"]
    for found in (
        next(asked(refine, method="integrated")),
        asked(sweep, only=0, method="integrated"),
    ):
        assert found.attrs["estimated_by"] == "integrated 5"
        np.testing.assert_array_equal(found["patched"], expected)
    by_default = next(asked(refine))["patched"]
    assert float(np.abs(by_default - expected).max()) > 1e-3
    pairs = prompt_pairs(llama)
    with pytest.raises(SiteError, match="no effect"):
        refine(llama.model, pairs, "q", method="relp")
    with pytest.raises(SiteError, match="Nothing is estimated by 'relp'"):
        sweep(llama.model, pairs, "z", method="relp")


def test_results_do_not_change_after_they_were_given(llama: Tiny) -> None:
    steps = Asked(llama, "heads")(refine)
    first, second = next(steps), next(steps)
    copies = first.copy(deep=True), second.copy(deep=True)
    list(steps)
    xr.testing.assert_identical(first, copies[0])
    xr.testing.assert_identical(second, copies[1])


def test_what_cannot_be_refined_is_refused_before_anything_is_run(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)

    def refused(message: str, call: Callable[[], Any]) -> None:
        with pytest.raises(SiteError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)

    refused("-1 cells cannot be run", lambda: refine(llama.model, pairs, "z", only=-1))
    refused("-1 cells cannot be run", lambda: sweep(llama.model, pairs, "z", only=-1))
    refused("no gradient", lambda: refine(llama.model, pairs, "z", "rank"))
    refused("no gradient", lambda: sweep(llama.model, pairs, "z", "rank", only=3))
    refused("Unknown site", lambda: refine(llama.model, pairs, "zz"))
    refused("no heads", lambda: refine(llama.model, pairs, "mlp_out", by="head"))
