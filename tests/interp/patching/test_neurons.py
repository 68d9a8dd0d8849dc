"""Swept neurons: each cell is one forward pass of Hugging Face's model, in which what the MLP's
second matrix reads was overwritten.

The pairs have prompts of unequal length, no two of the same, and are swept together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import PromptPairs, estimate, load_model, sweep
from interp.errors import SiteError
from interp.patching import patch_once
from tests.interp.architectures import ARCHITECTURES
from tests.interp.at_once import Value, at_places, means, places, rewritten
from tests.interp.brute_force import RUNS
from tests.interp.pairs import CASES, on_architectures, prompt_pairs
from tests.interp.tiny import D_MODEL, N_LAYERS, Tiny, build_tokenizer

pytestmark = pytest.mark.slow

TOLERANCE = {"rtol": 0, "atol": 1e-4}
REFERENCE = [case.text(run) for case in CASES for run in ("clean", "corrupt")]
# Not in order, of unequal sizes, and with neuron 40 in two of them.
GROUPS = [[40, 3, 7], [0], [40, 41, 42, 44]]
NAMES = ["3,7,40", "0", "40-42,44"]


def n_neurons(tiny: Tiny) -> int:
    return 4 * D_MODEL if tiny.name == "gpt2" else 48


def compare(
    tiny: Tiny,
    by: tuple[str, ...],
    groups: Sequence[Sequence[int]] | None,
    direction: str = "denoising",
    *,
    metric: str = "logit_diff",
    value: Value = "other",
    layers: Sequence[int] = range(N_LAYERS),
    **options: Any,
) -> xr.Dataset:
    """Compare every cell of a sweep with the pass that it stands for; returns the sweep.

    `groups` are the neurons that must come out of these options; None for whole MLPs.
    """
    found = sweep(
        tiny.model,
        prompt_pairs(tiny),
        "mlp_act",
        metric,
        by=by,  # type: ignore[arg-type]
        direction=direction,  # type: ignore[arg-type]
        layers=layers,
        **options,
    )
    assert found["patched"].dims == ("example", "layer", *by)
    expected: list[float] = []
    for example in range(len(CASES)):
        at = places(tiny, example, direction)
        along = [at]
        if "position" in by:
            along = [[place] for place in at]
        elif "span" in by:
            along = [
                [place for place in at if place and place.span == span]
                for span in found["span"].values
            ]
        cells = [
            at_places("mlp_act", layer, chosen, () if group is None else (list(group),))
            for layer, chosen, group in itertools.product(layers, along, groups or [None])
        ]
        expected += rewritten(tiny, example, cells, direction, metric, value)
    ours = found["patched"].values.ravel()
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(expected))
    np.testing.assert_allclose(ours, expected, **TOLERANCE)
    assert float(np.abs(found["patched"] - found[RUNS[direction][0]]).max()) > 0.02
    return found


def consecutive(n: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]


@pytest.mark.parametrize("direction", RUNS)
def test_each_cell_is_a_forward_pass_of_hugging_face(tiny: Tiny, direction: str) -> None:
    compare(tiny, ("position",), None, direction)
    compare(tiny, ("span",), None, direction)
    # 20 divides neither 48 nor 128: the last group is smaller.
    groups = consecutive(n_neurons(tiny), 20)
    found = compare(tiny, ("neurons",), groups, direction, neurons=20)
    assert list(found["neurons"].values[:2]) == ["0-19", "20-39"]
    assert str(found["neurons"].values[-1]).endswith(f"-{n_neurons(tiny) - 1}")
    compare(tiny, ("position", "neurons"), groups, direction, neurons=20, layers=[1])


def test_neurons_are_grouped_as_one_likes(tiny: Tiny) -> None:
    for by in (("neurons",), ("span", "neurons")):
        found = compare(tiny, by, GROUPS, neurons=GROUPS)
        assert list(found["neurons"].values) == NAMES
    compare(tiny, ("neurons",), [[5]], neurons=[[5, 5]])


def test_by_default_there_are_about_thirty_two_groups(tiny: Tiny) -> None:
    n = n_neurons(tiny)
    groups = consecutive(n, {128: 4, 48: 2}[n])
    found = compare(tiny, ("neurons",), groups, layers=[0, 2])
    assert 20 <= found.sizes["neurons"] <= 32


def test_the_whole_layer_is_the_sites_default(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    assert sweep(llama.model, pairs, "mlp_act")["patched"].dims[2:] == ("position",)
    one = sweep(llama.model, pairs, "mlp_act", by="neurons", neurons=48)
    crossed = sweep(llama.model, pairs, "mlp_act", by=("neurons", "position"), neurons=48)
    assert crossed["patched"].dims[2:] == ("position", "neurons")
    assert list(one["neurons"].values) == ["0-47"]
    whole = sweep(llama.model, pairs, "mlp_act")
    np.testing.assert_array_equal(crossed["patched"][..., 0], whole["patched"])


@pytest.mark.parametrize(
    ("tiny", "metric"),
    on_architectures("logprob_diff", "first_token_logprob", "rank"),
    indirect=["tiny"],
)
def test_other_metrics_are_read(tiny: Tiny, metric: str) -> None:
    """Among them one of whole answers, whose own tokens are not replaced."""
    compare(tiny, ("neurons",), GROUPS, "noising", metric=metric, neurons=GROUPS)


@pytest.mark.parametrize("source", ["zero", "mean", "given"])
def test_neurons_are_ablated(tiny: Tiny, source: str) -> None:
    value: Value = "zero"
    options: dict[str, Any] = {"source": source}
    if source == "mean":
        value = {("mlp_act", k): means(tiny, REFERENCE, "mlp_act", k) for k in range(N_LAYERS)}
        options["reference"] = REFERENCE
    elif source == "given":
        torch.manual_seed(1)
        given = {layer: torch.randn(n_neurons(tiny)) for layer in range(N_LAYERS)}
        value = {("mlp_act", layer): tensor for layer, tensor in given.items()}
        options["source"] = given
    compare(tiny, ("position",), None, "noising", value=value, **options)
    found = compare(
        tiny, ("position", "neurons"), GROUPS, "noising", value=value, neurons=GROUPS, **options
    )
    assert found.attrs["source"] == source
    compare(tiny, ("neurons",), GROUPS, value=value, neurons=GROUPS, **options)


def test_one_patch_is_a_cell(tiny: Tiny) -> None:
    pairs = prompt_pairs(tiny)
    swept = sweep(
        tiny.model, pairs, "mlp_act", by=("neurons", "position"), neurons=GROUPS, layers=[1]
    )
    slot = len(pairs.alignment) - 2
    for number, group in enumerate(GROUPS):
        one = patch_once(tiny.model, pairs, "mlp_act", 1, position=slot, neurons=group)
        ours = (one["answer_logit"] - one["foil_logit"]).sel(run="patched")
        expected = swept["patched"].values[0, 0, slot, number]
        assert float(ours) == pytest.approx(float(expected), abs=1e-4)


def refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(SiteError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("instrument", [sweep, estimate])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neurons": [[0, 48]]}, "Neuron 48 is out of range.*0 to 47"),
        ({"neurons": [[3], [-1, 2]]}, "Neuron -1 is out of range"),
        ({"neurons": [[3], []]}, "no neurons to patch in some group"),
        ({"neurons": []}, "no neurons to patch"),
        ({"neurons": 0}, "A group of 0 neurons is empty"),
        ({"neurons": -2}, "A group of -2 neurons is empty"),
        ({"neurons": [[3, 4], [4, 3]]}, "given twice"),
        ({"neurons": [3, 4]}, "given by group"),
        ({"by": "position", "neurons": 8}, "only where they are swept: by='neurons'"),
        ({"by": ("position", "span", "neurons")}, "exclude each other"),
        ({"source": {0: torch.zeros(32)}}, r"shape \(48,\) for layer 0"),
    ],
)
def test_what_cannot_be_done_to_neurons_is_refused(
    llama: Tiny, instrument: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    pairs = prompt_pairs(llama)
    refused(
        lambda: instrument(llama.model, pairs, "mlp_act", **{"by": "neurons"} | options), message
    )


def test_other_sites_have_no_neurons(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    refused(lambda: sweep(llama.model, pairs, "mlp_out", by="neurons"), "cannot run by 'neurons'")
    refused(lambda: sweep(llama.model, pairs, "z", neurons=8), "only where they are swept")


def test_neurons_of_experts_are_refused() -> None:
    model = load_model(ARCHITECTURES["Mixtral"].build(), tokenizer=build_tokenizer())
    pairs = PromptPairs(model, ["we saw Ann"], ["we saw Bo"], [" Gus"], [" Ida"])
    for instrument in (sweep, estimate):
        refused(lambda: instrument(model, pairs, "mlp_act"), "mixtures of experts")  # noqa: B023
