"""A set of patches is one forward pass of Hugging Face's model with a hook for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import PromptPairs, Site, load_model, sweep
from interp.errors import ArgumentError, MetricError, ObverseError, PromptError, SiteError
from interp.patching import Patch, patch_sets
from tests.interp import reference
from tests.interp.architectures import ARCHITECTURES
from tests.interp.at_once import (
    ALL,
    Place,
    Value,
    Write,
    at_places,
    in_pattern,
    means,
    places,
    rewritten,
)
from tests.interp.brute_force import RUNS, unpatched
from tests.interp.pairs import CASES, on_architectures, prompt_pairs
from tests.interp.tiny import BUILDERS, Tiny, build_tokenizer

pytestmark = pytest.mark.slow

TOLERANCE = {"rtol": 0, "atol": 1e-4}
REFERENCE = [case.text(run) for case in CASES for run in ("clean", "corrupt")]
Where = Sequence[int | str] | None


@dataclass(frozen=True)
class Wanted:
    """One patch, and by hand what it must do."""

    site: str
    layer: int
    head: int | None = None
    positions: Where = None
    neurons: tuple[int, ...] | None = None
    attended: Where = None

    @property
    def patch(self) -> Patch:
        head = "" if self.head is None else f".h{self.head}"
        site = f"{self.site}.{self.layer}{head}"
        return Patch(site, self.positions, self.neurons, self.attended)

    def writes(self, at: list[Place | None]) -> list[Write]:
        later = _named(at, self.positions)
        if self.site == "pattern":
            head = ALL if self.head is None else self.head
            return in_pattern(self.layer, head, later, _named(at, self.attended))
        unit: tuple[Any, ...] = () if self.head is None else (self.head,)
        if self.neurons is not None:
            unit = (list(self.neurons),)
        return at_places(self.site, self.layer, later, unit)


def _named(at: list[Place | None], names: Where) -> list[Place | None]:
    def chosen(index: int, place: Place) -> bool:
        return names is None or any(name in (index, place.label, place.span) for name in names)

    return [place for index, place in enumerate(at) if place and chosen(index, place)]


# Slot 7 is one that all pairs have, whether their prompts start with BOS or not.
SETS: dict[str, list[Wanted]] = {
    "one stream": [Wanted("resid_pre", 1, positions=["who"])],
    "a stream twice": [
        Wanted("resid_post", 0, positions=["who -1", 7]),
        Wanted("resid_post", 0, positions=["where"]),
        # The same stream by its other name, in part at the same place.
        Wanted("resid_pre", 1, positions=["where", "end -2"]),
    ],
    "late, then early": [
        Wanted("resid_post", 1, positions=["end -2", "start"]),
        Wanted("mlp_out", 0, positions=["who -1"]),
    ],
    "two heads of a layer": [
        Wanted("z", 1, head=0),
        Wanted("z", 1, head=3, positions=["end -1"]),
    ],
    "a head and what it reads": [
        Wanted("z", 1, head=1, positions=["end"]),
        Wanted("resid_pre", 1, positions=["who"]),
    ],
    "heads that overlap": [
        Wanted("z", 1, positions=["end"]),
        Wanted("z", 1, head=1, positions=["end -1", "where"]),
    ],
    "before attention": [
        Wanted("q", 1, head=2, positions=["end -1"]),
        Wanted("k", 1, head=1, positions=["who"]),
        Wanted("v", 0, head=0),
        Wanted("v", 1),
    ],
    "neurons twice": [
        Wanted("mlp_act", 1, neurons=(3, 7, 40), positions=["who"]),
        Wanted("mlp_act", 1, neurons=(40, 41), positions=["who -1", "end"]),
        Wanted("mlp_act", 2, positions=["where -1"]),
    ],
    "patterns twice": [
        Wanted("pattern", 1, head=0, positions=["end"], attended=["who", "where"]),
        Wanted("pattern", 1, head=2, attended=[7]),
        Wanted("pattern", 2, positions=["end -1"]),
    ],
    "of everything": [
        Wanted("resid_pre", 0, positions=["where"]),
        Wanted("pattern", 0, head=1, positions=["end"], attended=["who"]),
        Wanted("z", 1, head=3, positions=["who+"]),
        Wanted("mlp_act", 1, neurons=(0, 5, 11, 17, 30)),
        Wanted("attn_out", 2, positions=["end -1"]),
        Wanted("resid_pre", 2, positions=[7]),
        Wanted("mlp_act", 2, neurons=(1, 2, 3), positions=["end"]),
    ],
    # The second pair has one token of this name that both prompts share, not two.
    "that one pair lacks": [Wanted("mlp_out", 1), Wanted("z", 2, positions=["who -2"])],
    # One that attends, but only to tokens that come after it.
    "that every pair lacks": [
        Wanted("mlp_out", 1),
        Wanted("pattern", 1, positions=["start"], attended=["end"]),
    ],
}
MIDDLE = [
    Wanted("resid_mid", 1, positions=["who -1"]),
    Wanted("attn_out", 1, positions=["end -1", "who"]),
    Wanted("resid_pre", 1, positions=["where", "who"]),
    Wanted("mlp_act", 1, neurons=(2, 4, 9), positions=["end"]),
]


def sets_of(tiny: Tiny) -> dict[str, list[Wanted]]:
    return SETS if tiny.parallel else {**SETS, "around the middle": MIDDLE}


def compare(
    tiny: Tiny,
    sets: dict[str, list[Wanted]],
    direction: str = "denoising",
    *,
    metric: str = "logit_diff",
    value: Value = "other",
    **options: Any,
) -> xr.Dataset:
    """Compare every set with the pass that it stands for; returns what was found."""
    found = patch_sets(
        tiny.model,
        prompt_pairs(tiny),
        {name: [wanted.patch for wanted in patches] for name, patches in sets.items()},
        metric,
        direction=direction,  # type: ignore[arg-type]
        **options,
    )
    assert found["patched"].dims == ("example", "set")
    assert list(found["set"].values) == list(sets)
    for example in range(len(CASES)):
        at = places(tiny, example, direction)
        parts = [[wanted.writes(at) for wanted in patches] for patches in sets.values()]
        # Nothing is replaced where the pair lacks what one of the patches is for.
        every = [[write for part in of for write in part] if all(of) else [] for of in parts]
        expected = rewritten(tiny, example, every, direction, metric, value)
        for name, wanted_value in zip(sets, expected, strict=True):
            ours = float(found["patched"].sel(set=name)[example])
            assert ours == pytest.approx(wanted_value, abs=1e-4, nan_ok=True), (name, example)
    for run in RUNS:
        which = RUNS[run][0]
        np.testing.assert_allclose(found[which], unpatched(tiny, which, metric), **TOLERANCE)
    return found


@pytest.mark.parametrize("direction", RUNS)
def test_a_set_is_one_pass_with_several_hooks(tiny: Tiny, direction: str) -> None:
    found = compare(tiny, sets_of(tiny), direction)
    change = np.abs(found["patched"] - found[RUNS[direction][0]])
    for name in sets_of(tiny):
        absent = {"that one pair lacks": 1, "that every pair lacks": len(CASES)}.get(name, 0)
        assert int(np.isnan(change.sel(set=name)).sum()) == absent
        assert absent == len(CASES) or float(change.sel(set=name).max()) > 0.02, name


def test_no_patch_of_a_set_does_as_much_alone(tiny: Tiny) -> None:
    """Else the test above could not see that the others were forgotten."""
    for name, patches in sets_of(tiny).items():
        if len(patches) > 1 and "lacks" not in name:
            parts = {str(n): [wanted.patch] for n, wanted in enumerate(patches)}
            together = {name: [wanted.patch for wanted in patches]}
            found = patch_sets(tiny.model, prompt_pairs(tiny), together | parts)["patched"]
            alone = found.sel(set=list(parts))
            assert float(np.abs(found.sel(set=name) - alone).max("example").min()) > 1e-3, name


# Zeroed, all of them are compared with passes of their own on each architecture below.
@pytest.mark.parametrize(
    ("tiny", "source"),
    [*[(architecture, "other") for architecture in BUILDERS], ("llama", "zero")],
    indirect=["tiny"],
)
def test_a_set_alone_is_what_it_is_among_others(tiny: Tiny, source: Any) -> None:
    """What can be left out for a set alone need not be the same for all sets together."""
    pairs = prompt_pairs(tiny)
    sets = {name: [wanted.patch for wanted in patches] for name, patches in sets_of(tiny).items()}
    together = patch_sets(tiny.model, pairs, sets, source=source)["patched"]
    for name, patches in sets.items():
        alone = patch_sets(tiny.model, pairs, {name: patches}, source=source)["patched"]
        np.testing.assert_allclose(alone[:, 0], together.sel(set=name), **TOLERANCE, err_msg=name)


@pytest.mark.parametrize(
    ("tiny", "metric"),
    on_architectures("logprob_diff", "answer_logprob", "rank"),
    indirect=["tiny"],
)
def test_other_metrics_are_read(tiny: Tiny, metric: str) -> None:
    compare(tiny, sets_of(tiny), "noising", metric=metric)


def test_sets_are_zeroed(tiny: Tiny) -> None:
    found = compare(tiny, sets_of(tiny), "noising", value="zero", source="zero")
    assert (found.attrs["source"], found.attrs["direction"]) == ("zero", "noising")
    assert found.attrs["instrument"] == "activation patching, sets"


def test_sets_are_set_to_means(tiny: Tiny) -> None:
    sets = {
        name: patches
        for name, patches in sets_of(tiny).items()
        if all(wanted.site != "pattern" for wanted in patches)
    }
    at = {(wanted.site, wanted.layer) for patches in sets.values() for wanted in patches}
    value = {one: means(tiny, REFERENCE, *one) for one in at}
    compare(tiny, sets, "noising", value=value, source="mean", reference=REFERENCE)


@pytest.mark.parametrize("direction", RUNS)
@pytest.mark.parametrize("site", [*reference.STREAMS, *reference.HEADS, "mlp_act", "pattern"])
def test_a_set_of_one_patch_is_a_cell_of_a_sweep(llama: Tiny, site: str, direction: str) -> None:
    pairs = prompt_pairs(llama)
    by: tuple[str, ...] = ("position",)
    patches = {label: Patch(Site(site, 1), [label]) for label in pairs.positions}
    if site in reference.HEADS:
        by = ("head", "position")
        patches = {label: Patch(Site(site, 1, 1), [label]) for label in pairs.positions}
    elif site == "pattern":
        by = ("destination",)
    found = patch_sets(
        llama.model,
        pairs,
        {label: [patch] for label, patch in patches.items()},
        direction=direction,  # type: ignore[arg-type]
    )
    swept = sweep(llama.model, pairs, site, by=by, direction=direction, layers=[1])["patched"][:, 0]  # type: ignore[arg-type]
    expected = swept.sel(head=1) if "head" in by else swept
    np.testing.assert_allclose(found["patched"], expected, rtol=0, atol=1e-5)


def test_batches_and_memory_do_not_matter(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """One architecture is enough: the batches are cut without looking at it."""
    pairs = prompt_pairs(llama)
    sets = {name: [wanted.patch for wanted in patches] for name, patches in sets_of(llama).items()}
    whole = patch_sets(llama.model, pairs, sets, "logprob_diff")
    seen: list[tuple[int, int]] = []
    cut = patch_sets(
        llama.model,
        pairs,
        sets,
        "logprob_diff",
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = 2 * int(np.isfinite(whole["patched"]).sum())  # of answers and of foils
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    alone = patch_sets(llama.model, pairs, sets, "logprob_diff")
    for other in (cut, alone):
        for name in ("patched", "clean", "corrupt"):
            np.testing.assert_allclose(other[name], whole[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("sets", "options", "message", "kind"),
    [
        ({}, {}, "no sets to patch", SiteError),
        ({"a": [Patch("z.1")], "b": []}, {}, "A set without patches", SiteError),
        ({"a": [Patch("z")]}, {}, "write it like", SiteError),
        ({"a": [Patch("z.7")]}, {}, "Layer 7", SiteError),
        ({"a": [Patch("z.1.h4")]}, {}, "Head 4", SiteError),
        ({"a": [Patch("k.1.h2")]}, {}, "heads 0 to 1 at 'k'", SiteError),
        ({"a": [Patch("mlp_out.1.h0")]}, {}, "no heads", SiteError),
        ({"a": [Patch("mlp_act.1", neurons=[48])]}, {}, "Neuron 48", SiteError),
        ({"a": [Patch("mlp_act.1", neurons=[])]}, {}, "no neurons", SiteError),
        ({"a": [Patch("mlp_out.1", neurons=[0])]}, {}, "has no neurons", SiteError),
        ({"a": [Patch("z.1", attended=[0])]}, {}, "attended=… out", SiteError),
        ({"a": [Patch("z.1", ["nobody"])]}, {}, "Position 'nobody'", PromptError),
        ({"a": [Patch("z.1", [])]}, {}, "no positions", PromptError),
        ({"a": [Patch("pattern.1", attended=[99])]}, {}, "Position 99", PromptError),
        ({"a": [Patch("z.1")]}, {"source": {1: torch.zeros(8)}}, "takes source as", ArgumentError),
        ({"a": [Patch("z.1")]}, {"source": "mean"}, "reference=", SiteError),
        ({"a": [Patch("z.1")]}, {"source": "median"}, "Unknown source", ArgumentError),
        ({"a": [Patch("z.1")]}, {"direction": "both"}, "Unknown direction", ArgumentError),
        ({"a": [Patch("z.1")]}, {"metric": "logit_dif"}, "logit_diff", MetricError),
        (
            {"a": [Patch("z.1"), Patch("pattern.0")]},
            {"source": "mean", "reference": REFERENCE},
            "no common mean",
            SiteError,
        ),
    ],
)
def test_what_is_no_set_of_patches_is_refused(
    llama: Tiny,
    sets: dict[str, list[Patch]],
    options: dict[str, Any],
    message: str,
    kind: type[ObverseError],
) -> None:
    with pytest.raises(kind, match=message) as caught:
        patch_sets(llama.model, prompt_pairs(llama), sets, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_sites_that_a_model_lacks_are_refused_in_sets() -> None:
    model = load_model(ARCHITECTURES["GPT-J"].build(), tokenizer=build_tokenizer())
    pairs = PromptPairs(model, ["we saw Ann"], ["we saw Bo"], [" Gus"], [" Ida"])
    for site, message in (("resid_mid.1", "in parallel"), ("pattern.1", "after they were used")):
        with pytest.raises(SiteError, match=message):
            patch_sets(model, pairs, {"a": [Patch("z.0"), Patch(site)]})
