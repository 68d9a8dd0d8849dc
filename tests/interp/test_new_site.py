"""A site that is not among the known ones is one entry: it can then do all that the others can."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from cache import ActivationStore
from interp import Intervention, Site, capture, logits, sweep
from interp.figures import patching_map
from interp.generation.stream import generate
from interp.kinds import KINDS, SiteKind
from interp.patching import estimate
from probes import collect
from tests.interp import brute_force, reference
from tests.interp.figures.conftest import cells
from tests.interp.pairs import CASES, prompt_pairs
from tests.interp.tiny import D_MODEL, N_LAYERS, Tiny

PROMPT = "we saw Ann near Rome and then"
TOLERANCE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(autouse=True)
def mlp_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an MLP reads: the stream after its norm."""
    kind = SiteKind(
        "mlp.hook_in", ("position", "d_model"), "mlp", "MLP input of block", "MLP inputs"
    )
    monkeypatch.setitem(KINDS, "mlp_in", kind)


@pytest.mark.slow
def test_it_is_captured_and_stored(tiny: Tiny, tmp_path: Path) -> None:
    ids = tuple(tiny.ids(PROMPT))
    with ActivationStore(tmp_path / "store") as store:
        for _ in range(2):
            found = capture(tiny.model, [PROMPT], "mlp_in", store=store)
            for layer in range(N_LAYERS):
                expected = reference.activation(tiny, ids, "mlp_in", layer)
                np.testing.assert_allclose(found[f"mlp_in.{layer}"][0], expected, **TOLERANCE)
            assert store.missing(tiny.model, [PROMPT], "mlp_in") == 0


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_it_is_patched_as_by_hand(tiny: Tiny, direction: str) -> None:
    found = sweep(tiny.model, prompt_pairs(tiny), "mlp_in", direction=direction)
    expected = brute_force.patched(tiny, "mlp_in", direction, ("position",))
    np.testing.assert_allclose(found["patched"], expected, **TOLERANCE)
    base = found["corrupt" if direction == "denoising" else "clean"]
    assert float(np.abs(found["patched"] - base).max()) > 0.02


@pytest.mark.slow
def test_its_estimate_is_the_slope_along_the_patch(tiny: Tiny) -> None:
    found = estimate(tiny.model, prompt_pairs(tiny), "mlp_in", method="gradient")
    change = (found["patched"] - found["corrupt"]).values
    where = list(brute_force.places(tiny, "position", "denoising").values())
    case, step = CASES[0], 0.02
    clean, corrupt = (case.ids(tiny, run) for run in ("clean", "corrupt"))
    for layer in range(N_LAYERS):
        values = reference.activation(tiny, tuple(clean), "mlp_in", layer)
        for position in [at for at, pairs in enumerate(where) if pairs[0]][::3]:
            ((here, there),) = where[position][0]

            def score(size: float) -> float:
                def move(value: torch.Tensor) -> None:
                    value[here] += size * (values[there] - value[here])  # noqa: B023

                with reference.intervened(tiny, "mlp_in", layer, move):  # noqa: B023
                    return brute_force.score(tiny, "logit_diff", corrupt, case)

            slope = (score(step) - score(-step)) / (2 * step)
            assert change[0, layer, position] == pytest.approx(slope, abs=5e-3)


def test_it_is_steered_as_by_hand(tiny: Tiny) -> None:
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    change = Intervention.add(direction, "mlp_in.1", 2.0)
    found = logits(tiny.model, [PROMPT], interventions=change)[0]
    ids = tiny.ids(PROMPT)
    with reference.intervened(tiny, "mlp_in", 1, lambda value: value.add_(2 * direction)):
        expected = reference.logits(tiny, ids)[-1]
    np.testing.assert_allclose(found, expected, **TOLERANCE)
    assert float((expected - reference.logits(tiny, ids)[-1]).abs().max()) > 0.1


def test_it_is_read_by_probes_and_while_writing(tiny: Tiny) -> None:
    expected = reference.activation(tiny, tuple(tiny.ids(PROMPT)), "mlp_in", 1)[-1]
    features = collect(tiny.model, [PROMPT], "mlp_in.1")
    np.testing.assert_allclose(features.values[0, 0], expected, **TOLERANCE)
    written = generate(tiny.model, [PROMPT], max_new_tokens=1, sites="mlp_in.1")
    np.testing.assert_allclose(written.activations["mlp_in.1"][0, 0], expected, **TOLERANCE)


@pytest.mark.slow
def test_it_is_drawn(llama: Tiny) -> None:
    result = sweep(llama.model, prompt_pairs(llama), "mlp_in")
    fig = patching_map(result, example=0, value="change")
    assert all(text.startswith("<b>MLP input of block ") for text in cells(fig).values())
    assert fig.layout.yaxis.title.text == "block"


def test_its_name_may_hold_a_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "ln2_out", KINDS["mlp_in"])
    assert Site.parse("ln2_out.3") == Site("ln2_out", 3)


def test_a_head_of_it_is_refused() -> None:
    with pytest.raises(interp.errors.SiteError, match="has no heads"):
        Site("mlp_in", 0, head=1)


# What may stand in some files only: hooks are placed through two doors, which try what has to be
# tried, and nothing asks a site for its name to know what it is.
ALLOWED = {
    r"\.add_hook\(": {"hooks.py"},
    r"\bhooked\(": {"hooks.py", "trials.py", "access.py"},
    r"\bhook_points\(": {"sites.py", "trials.py"},
    # Which site a page of the explorer starts with is no question of what it is.
    r"(?<!for )\bsite(\.name)? (==|!=|in|not in) \(?[\"']": {"link.py"},
}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ALLOWED)
def test_nothing_gets_at_activations_around_their_kind(pattern: str) -> None:
    root = Path(interp.__file__).parents[1]
    for package in ("interp", "probes", "experiments", "app"):
        for file in (root / package).rglob("*.py"):
            found = re.search(pattern, file.read_text(encoding="utf-8"))
            assert found is None or file.name in ALLOWED[pattern], file
