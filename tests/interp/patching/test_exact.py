"""Every cell of a sweep is one forward pass of Hugging Face's model with one activation replaced.

The pairs have prompts of unequal length, no two of the same, and are swept together; the reference
runs each cell alone, whole, and without padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import PromptPairs, sweep
from tests.interp import brute_force, reference
from tests.interp.brute_force import RUNS
from tests.interp.pairs import CASES, WHOLE_ANSWERS, Case, on_architectures, prompt_pairs
from tests.interp.tiny import BUILDERS, Tiny, words

pytestmark = pytest.mark.slow

ALL_SITES = (*reference.STREAMS, *reference.HEADS)
TOLERANCE = {"rtol": 0, "atol": 1e-4}


def agrees(found: xr.Dataset, expected: np.ndarray[Any, Any], reach: float = 0.05) -> None:
    """Equal, NaN in the same cells, and with effects that could not be missed."""
    values = found["patched"].values
    assert values.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    np.testing.assert_allclose(values, expected, **TOLERANCE)
    changed = found["patched"] - found[RUNS[found.attrs["direction"]][0]]
    assert float(np.abs(changed).max()) > reach


@pytest.mark.parametrize("direction", RUNS)
@pytest.mark.parametrize("site", ALL_SITES)
def test_each_cell_is_a_forward_pass_of_hugging_face(tiny: Tiny, site: str, direction: str) -> None:
    if site not in reference.sites(tiny):
        pytest.skip("parallel blocks have no such stream")
    ways: list[tuple[str, ...]] = [("position",)]
    if site in reference.HEADS:
        ways += [("head",)]
    if direction == "denoising":
        ways += [("span",)]
        if site in reference.HEADS:
            ways += [("position", "head")]
    pairs = prompt_pairs(tiny)
    for by in ways:
        found = sweep(tiny.model, pairs, site, by=by, direction=direction)
        agrees(found, brute_force.patched(tiny, site, direction, by))
        assert found["patched"].dims == ("example", "layer", *by)
        for run in ("clean", "corrupt"):
            np.testing.assert_allclose(found[run], brute_force.unpatched(tiny, run), **TOLERANCE)


METRICS = {
    "answer_logprob": "noising",
    "logprob_diff": "denoising",
    "probability": "denoising",
    "first_token_logprob": "noising",
    "rank": "denoising",
}


@pytest.mark.parametrize(
    ("tiny", "metric", "direction"),
    [
        *[(*asked, METRICS[asked[1]]) for asked in on_architectures(*METRICS)],
        *[(name, WHOLE_ANSWERS, "noising") for name in BUILDERS],
    ],
    indirect=["tiny"],
)
def test_answers_of_several_tokens_are_forced_after_the_patched_prompt(
    tiny: Tiny, metric: str, direction: str
) -> None:
    pairs = prompt_pairs(tiny)
    for site, by in (("resid_pre", ("position",)), ("z", ("head",))):
        found = sweep(tiny.model, pairs, site, metric, by=by, direction=direction)
        expected = brute_force.patched(tiny, site, direction, by, metric)
        agrees(found, expected, reach=1e-3)
        for run in ("clean", "corrupt"):
            np.testing.assert_allclose(
                found[run], brute_force.unpatched(tiny, run, metric), **TOLERANCE
            )


def test_default_axes_are_position_for_streams_and_head_for_heads(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    assert sweep(llama.model, pairs, "resid_pre")["patched"].dims[2:] == ("position",)
    assert sweep(llama.model, pairs, "z")["patched"].dims[2:] == ("head",)
    crossed = sweep(llama.model, pairs, "v", by=("head", "span"))["patched"]
    assert crossed.dims[2:] == ("span", "head")
    np.testing.assert_allclose(
        crossed, brute_force.patched(llama, "v", "denoising", ("span", "head")), **TOLERANCE
    )


def test_each_example_is_independent_of_the_others(tiny: Tiny) -> None:
    together = sweep(tiny.model, prompt_pairs(tiny), "attn_out")
    for example, case in enumerate(CASES):
        alone = sweep(tiny.model, prompt_pairs(tiny, [case]), "attn_out")
        row = together.isel(example=example)
        labels = [str(label) for label in alone["position_label"].values]
        kept = row.isel(position=np.isin(row["position_label"], labels))
        np.testing.assert_allclose(kept["patched"], alone["patched"][0], rtol=0, atol=1e-5)


def test_patching_a_run_with_itself_changes_nothing(tiny: Tiny) -> None:
    """In one direction, since both runs are the same."""
    texts = [case.text("clean") for case in CASES]
    pairs = PromptPairs(
        tiny.model,
        clean=texts,
        corrupt=texts,
        answers=[f" {case.answer}" for case in CASES],
        foils=[f" {case.foil}" for case in CASES],
    )
    for site in reference.sites(tiny):
        found = sweep(tiny.model, pairs, site, "logprob_diff")
        change = found["patched"] - found["clean"]
        assert float(np.abs(change).max()) < 1e-5


def test_patching_the_whole_input_gives_the_other_run(tiny: Tiny) -> None:
    """Where both prompts have the same tokens but one, that one carries the whole effect."""
    clean, corrupt = "we saw Ann near Rome and", "we saw Bo near Rome and"
    words_after = Case((), "Gus", "Ida")
    pairs = PromptPairs(tiny.model, [clean], [corrupt], [" Gus"], [" Ida"])
    found = sweep(tiny.model, pairs, "resid_pre")["patched"][0, 0].values
    at = len(tiny.bos) + 2
    expected = [
        brute_force.score(tiny, "logit_diff", tiny.ids(t), words_after) for t in (clean, corrupt)
    ]
    assert found[at] == pytest.approx(expected[0], abs=1e-4)
    np.testing.assert_allclose(np.delete(found, at), expected[1], rtol=0, atol=1e-4)


def test_token_ids_are_swept_like_the_text(tiny: Tiny) -> None:
    clean, corrupt = ["we saw Ann near Rome and"] * 2, ["we saw Bo near Rome and"] * 2
    clean[1], corrupt[1] = "so Fay is the friend of", "so Gus is the friend of"
    text = PromptPairs(tiny.model, clean, corrupt, [" Gus Hal", " Jo Ann"], [" Ida Bo", " Cy Dee"])
    ids = PromptPairs(
        tiny.model,
        torch.tensor([tiny.ids(t) for t in clean]),
        torch.tensor([tiny.ids(t) for t in corrupt]),
        torch.tensor([words("Gus Hal"), words("Jo Ann")]),
        torch.tensor([words("Ida Bo"), words("Cy Dee")]),
    )
    a, b = (sweep(tiny.model, pairs, "attn_out", "logprob_diff") for pairs in (text, ids))
    np.testing.assert_array_equal(a["patched"], b["patched"])
