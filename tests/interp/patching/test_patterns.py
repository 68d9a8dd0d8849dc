"""Each cell of a swept attention pattern is one forward pass of Hugging Face's eager attention, in
which what its softmax returned was overwritten.

The pairs have prompts of unequal length, no two of the same, and are swept together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import PromptPairs, estimate, load_model, sweep
from interp.errors import PromptError, SiteError
from interp.patching import patch_once
from tests.interp.architectures import ARCHITECTURES
from tests.interp.at_once import ALL, Place, Value, Write, in_pattern, places, rewritten
from tests.interp.brute_force import RUNS
from tests.interp.pairs import CASES, on_architectures, prompt_pairs, slots
from tests.interp.tiny import N_HEADS, N_LAYERS, Tiny, build_tokenizer

pytestmark = pytest.mark.slow

TOLERANCE = {"rtol": 0, "atol": 1e-4}
WAYS: tuple[tuple[str, ...], ...] = (
    ("head",),
    ("destination",),
    ("source",),
    ("destination", "source"),
    ("head", "destination", "source"),
)
Chosen = Sequence[int] | None


def _along(at: list[Place | None], chosen: Chosen, *, alone: bool) -> list[list[Place | None]]:
    """The places of each index of an axis; all in one where the axis is not asked for."""
    kept = [at[slot] for slot in range(len(at)) if chosen is None or slot in chosen]
    return [[place] for place in kept] if alone else [kept]


def cells(
    tiny: Tiny,
    example: int,
    layer: int,
    by: Sequence[str],
    direction: str,
    positions: Chosen,
    attended: Chosen,
) -> Iterator[list[Write]]:
    """What each cell of one example and layer replaces, the last axis running fastest."""
    at = places(tiny, example, direction)
    yield from (
        in_pattern(layer, head, later, earlier)
        for head, later, earlier in itertools.product(
            range(N_HEADS) if "head" in by else [ALL],
            _along(at, positions, alone="destination" in by),
            _along(at, attended, alone="source" in by),
        )
    )


def compare(
    tiny: Tiny,
    by: tuple[str, ...],
    direction: str = "denoising",
    *,
    metric: str = "logit_diff",
    value: Value = "other",
    layers: Sequence[int] = range(N_LAYERS),
    positions: Chosen = None,
    attended: Chosen = None,
) -> xr.Dataset:
    """Compare every cell of a sweep with the pass that it stands for; returns the sweep."""
    found = sweep(
        tiny.model,
        prompt_pairs(tiny),
        "pattern",
        metric,
        by=by,  # type: ignore[arg-type]
        direction=direction,  # type: ignore[arg-type]
        source=value,  # type: ignore[arg-type]
        layers=layers,
        positions=positions,
        attended=attended,
    )
    assert found["patched"].dims == ("example", "layer", *by)
    expected = [
        score
        for example in range(len(CASES))
        for score in rewritten(
            tiny,
            example,
            [
                writes
                for layer in layers
                for writes in cells(tiny, example, layer, by, direction, positions, attended)
            ],
            direction,
            metric,
            value,
        )
    ]
    ours = found["patched"].values
    np.testing.assert_array_equal(np.isnan(ours.ravel()), np.isnan(expected))
    np.testing.assert_allclose(ours.ravel(), expected, **TOLERANCE)
    assert float(np.abs(found["patched"] - found[RUNS[direction][0]]).max()) > 0.05
    return found


@pytest.mark.parametrize("direction", RUNS)
@pytest.mark.parametrize("by", WAYS, ids=" ".join)
def test_each_cell_is_a_forward_pass_of_hugging_face(
    tiny: Tiny, by: tuple[str, ...], direction: str
) -> None:
    # One layer is enough where every number of a pattern is a cell.
    compare(tiny, by, direction, layers=[1] if len(by) == 3 else range(N_LAYERS))


@pytest.mark.parametrize("by", [("head",), ("destination", "source")], ids=" ".join)
def test_attention_is_knocked_out_and_the_rest_is_not_scaled_up(
    tiny: Tiny, by: tuple[str, ...]
) -> None:
    """`rewritten` leaves the rest of the softmax as it was."""
    for direction in RUNS:
        found = compare(tiny, by, direction, value="zero", layers=[0, 2])
    by_default = sweep(
        tiny.model,
        prompt_pairs(tiny),
        "pattern",
        by=by,  # type: ignore[arg-type]
        source="zero",
        layers=[0, 2],
    )
    assert (by_default.attrs["direction"], by_default.attrs["source"]) == ("noising", "zero")
    np.testing.assert_array_equal(by_default["patched"], found["patched"])


@pytest.mark.parametrize(
    ("tiny", "metric"),
    on_architectures("logprob_diff", "first_token_logprob", "rank"),
    indirect=["tiny"],
)
def test_other_metrics_are_read(tiny: Tiny, metric: str) -> None:
    """Among them one of whole answers, whose own tokens attend as they would without a patch."""
    compare(tiny, ("head", "destination"), "noising", metric=metric, layers=[0, 2])


def test_destinations_and_sources_can_be_chosen(tiny: Tiny) -> None:
    labels = [label for label, _ in slots(tiny)]
    who = [i for i, label in enumerate(labels) if label.startswith("who ")]
    end = labels.index("end -1")
    for by in WAYS:
        compare(tiny, by, positions=[end, who[-1]], attended=who)
    pairs = prompt_pairs(tiny)
    numbers = sweep(
        tiny.model, pairs, "pattern", by="source", positions=[end, who[-1]], attended=who
    )
    named = sweep(
        tiny.model, pairs, "pattern", by="source", positions=["end -1", "who -1"], attended=["who"]
    )
    xr.testing.assert_identical(numbers, named)
    assert list(named["source_label"].values) == [labels[slot] for slot in who]


def test_only_earlier_places_of_an_example_are_cells(tiny: Tiny) -> None:
    found = sweep(tiny.model, prompt_pairs(tiny), "pattern", by=("destination", "source"))
    for example in range(len(CASES)):
        at = [pair[example] is not None for _, pair in slots(tiny)]
        expected = [[a and b and i >= j for j, b in enumerate(at)] for i, a in enumerate(at)]
        for layer in range(N_LAYERS):
            np.testing.assert_array_equal(np.isfinite(found["patched"][example, layer]), expected)


def test_nothing_is_run_where_no_place_can_attend_to_another(llama: Tiny) -> None:
    """All places are later ones, so that there is no cell at all."""
    pairs = prompt_pairs(llama)
    for instrument in (sweep, estimate):
        found = instrument(
            llama.model,
            pairs,
            "pattern",
            by=("destination", "source"),
            positions=[0],
            attended=[3, 4],
        )
        assert found["patched"].shape == (len(CASES), N_LAYERS, 1, 2)
        assert bool(found["patched"].isnull().all())
        whole = sweep(llama.model, pairs, "pattern")
        for run in ("clean", "corrupt"):
            np.testing.assert_allclose(found[run], whole[run], **TOLERANCE)


def test_one_patch_is_a_cell(tiny: Tiny) -> None:
    pairs = prompt_pairs(tiny)
    swept = sweep(tiny.model, pairs, "pattern", by=("head", "destination", "source"), layers=[1])
    labels = [label for label, _ in slots(tiny)]
    where, who = labels.index("where -1"), labels.index("who -1")
    for head, destination, source in ((0, where, who), (3, where, where)):
        one = patch_once(
            tiny.model, pairs, "pattern", 1, head=head, position=destination, attended=source
        )
        ours = (one["answer_logit"] - one["foil_logit"]).sel(run="patched")
        expected = swept["patched"].values[0, 0, head, destination, source]
        assert float(ours) == pytest.approx(float(expected), abs=1e-4)
    with pytest.raises(SiteError, match="could attend to one at position"):
        patch_once(tiny.model, pairs, "pattern", 1, position=who, attended=where)


def refused(call: Callable[[], Any], message: str, kind: type[Exception] = SiteError) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("instrument", [sweep, estimate])
@pytest.mark.parametrize(
    ("options", "message", "kind"),
    [
        ({"source": "mean", "reference": ["we saw"]}, "no common mean or value", SiteError),
        ({"source": {0: torch.ones(1)}}, "no common mean or value", SiteError),
        ({"by": "position"}, "'head', 'destination', 'source'", SiteError),
        ({"by": ("head", "span")}, "'head', 'destination', 'source'", SiteError),
        ({"by": "neurons"}, "'head', 'destination', 'source'", SiteError),
        ({"heads": [N_HEADS]}, f"Head {N_HEADS} is out of range", SiteError),
        ({"by": "source", "heads": [0]}, "only where they are swept", SiteError),
        ({"positions": [99]}, "Position 99 is out of range", PromptError),
        ({"attended": ["nobody"]}, "Position 'nobody' is out of range", PromptError),
        ({"attended": []}, "no positions", PromptError),
    ],
)
def test_what_cannot_be_done_to_a_pattern_is_refused(
    llama: Tiny,
    instrument: Callable[..., Any],
    options: dict[str, Any],
    message: str,
    kind: type[Exception],
) -> None:
    pairs = prompt_pairs(llama)
    refused(lambda: instrument(llama.model, pairs, "pattern", **options), message, kind)


def test_other_sites_attend_to_nothing(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    refused(lambda: sweep(llama.model, pairs, "z", attended=[0]), "attended=… out")
    refused(lambda: sweep(llama.model, pairs, "z", by="destination"), "cannot run by")


def test_a_pattern_that_is_shown_too_late_is_refused() -> None:
    """TransformerLens would drop these edits, and each patch would seem to do nothing."""
    name = next(name for name, built in ARCHITECTURES.items() if not built.layout.patterns)
    model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
    pairs = PromptPairs(model, ["we saw Ann"], ["we saw Bo"], [" Gus"], [" Ida"])
    for _ in range(2):
        for instrument in (sweep, estimate):
            refused(lambda: instrument(model, pairs, "pattern"), "only after they were used")  # noqa: B023
    assert not any(point.fwd_hooks for point in model.bridge.hook_dict.values())
