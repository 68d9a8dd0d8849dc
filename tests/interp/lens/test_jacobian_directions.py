"""Directions, swaps and sums of directions are TransformerLens', and do what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import JacobianLens, capture, dose_response, fit_jacobian_lens, generate, logits
from interp.errors import DirectionError, ModelError, PromptError, SiteError
from interp.forward.interventions import applied
from tests.interp.lens.test_jacobian_lens import PROMPTS, SKIP, theirs
from tests.interp.tiny import D_MODEL, VOCABULARY, Tiny

SOURCE, TARGET = "Ann", "Rome"
IDS = [VOCABULARY.index(SOURCE), VOCABULARY.index(TARGET)]


@pytest.fixture(scope="module")
def lens(llama: Tiny) -> JacobianLens:
    return fit_jacobian_lens(llama.model, PROMPTS, skip_first=SKIP)


@pytest.fixture(scope="module")
def reference(llama: Tiny) -> Any:
    return theirs(llama.model, PROMPTS)


@pytest.mark.slow
def test_directions_are_those_of_transformer_lens(
    llama: Tiny, lens: JacobianLens, reference: Any
) -> None:
    ours = lens.lens_vectors(llama.model, [SOURCE, IDS[1]], 1)
    torch.testing.assert_close(
        ours, reference.lens_vectors(llama.model.bridge, IDS, 1), rtol=1e-4, atol=1e-4
    )
    doses = dose_response(
        llama.model, PROMPTS, ours[0], [0.0, 1.0], lambda x: x[:, IDS[0]], sites="resid_post.1"
    )
    assert doses["value"].sizes == {"example": len(PROMPTS), "dose": 2}


@pytest.mark.slow
@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_swaps_are_those_of_transformer_lens(
    llama: Tiny, lens: JacobianLens, reference: Any, clamped: bool, strength: float
) -> None:
    model, bridge = llama.model, llama.model.bridge
    changes = lens.swap(
        model,
        SOURCE,
        TARGET,
        [0, 1],
        clamp_to=PROMPTS if clamped else None,
        strength=strength,
    )
    ours = logits(model, PROMPTS, interventions=changes)
    assert float((ours - logits(model, PROMPTS)).abs().max()) > 0.1
    for row, text in zip(ours, PROMPTS, strict=True):
        ids = torch.tensor([llama.ids(text)])
        clean = bridge.run_with_cache(ids)[1] if clamped else None
        hooks = reference.swap_hooks(bridge, *IDS, [0, 1], alpha=strength, clamp_to=clean)
        with torch.no_grad():
            expected = bridge.run_with_hooks(ids, fwd_hooks=hooks)[0, -1]
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_clamped_swap_gives_every_layer_the_clean_coordinates(
    llama: Tiny, lens: JacobianLens
) -> None:
    """The live one is undone by the layer after it; what is at right angles stays."""
    model = llama.model
    sites = ["resid_post.0", "resid_post.1"]
    changes = lens.swap(model, SOURCE, TARGET, [0, 1], clamp_to=PROMPTS, positions=[2, -1])
    clean = capture(model, PROMPTS, sites)
    found = capture(model, PROMPTS, sites, interventions=changes)
    first = changes[:1]
    before = capture(model, PROMPTS, ["resid_post.1"], interventions=first)["resid_post.1"]
    for example, text in enumerate(PROMPTS):
        for position in (2, len(llama.ids(text)) - 1):
            for layer, site in enumerate(sites):
                basis = lens.lens_vectors(model, IDS, layer)
                pinv = torch.linalg.pinv(basis)
                here, was = (x[site][example, position] for x in (found, clean))
                torch.testing.assert_close((here @ pinv).flip(-1), was @ pinv, rtol=1e-3, atol=1e-4)
            moved = here - before[example, position]
            torch.testing.assert_close(moved @ pinv @ basis, moved, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found[sites[0]][example, 1], clean[sites[0]][example, 1])


@pytest.mark.slow
def test_swaps_work_while_text_is_written(llama: Tiny, lens: JacobianLens) -> None:
    model = llama.model
    for clamp_to in (None, PROMPTS):
        changes = lens.swap(model, SOURCE, TARGET, [1], clamp_to=clamp_to, positions="prompt")
        written = generate(model, PROMPTS, max_new_tokens=3, interventions=changes)
        first = logits(model, PROMPTS, interventions=changes).argmax(-1)
        np.testing.assert_array_equal(written.tokens["id"][:, 0], first)
        plain = generate(model, PROMPTS, max_new_tokens=3)
        assert (written.tokens["id"].values != plain.tokens["id"].values).any()
        # Each token is what a whole pass over all before it would give, under the same swap.
        changes = lens.swap(model, SOURCE, TARGET, [0, 1], clamp_to=clamp_to and PROMPTS[1])
        ids = llama.ids(PROMPTS[1])
        found = generate(model, PROMPTS[1], max_new_tokens=4, interventions=changes)
        for token in found.tokens["id"].values[0]:
            assert int(logits(model, torch.tensor([ids]), interventions=changes).argmax()) == token
            ids.append(int(token))
    with applied(model, *lens.swap(model, SOURCE, TARGET, [1])):
        live = logits(model, PROMPTS)
    expected = logits(model, PROMPTS, interventions=lens.swap(model, SOURCE, TARGET, [1]))
    torch.testing.assert_close(live, expected)


@pytest.mark.slow
def test_sums_of_directions_are_those_of_transformer_lens(
    llama: Tiny, lens: JacobianLens, reference: Any
) -> None:
    streams = capture(llama.model, PROMPTS, "resid_post.1", positions="last")["resid_post.1"]
    found = lens.decompose(llama.model, streams, 1, k=6)
    for example, stream in enumerate(streams):
        expected = reference.decompose(llama.model.bridge, stream, 1, k=6)
        ours = found.isel(example=example)
        n = int((ours["id"] >= 0).sum())
        assert 0 < n == len(expected.support)
        by_id = dict(zip(ours["id"].values.tolist(), ours["coordinate"].values, strict=True))
        for token, value in zip(expected.support.tolist(), expected.coordinates, strict=True):
            assert by_id[token] == pytest.approx(float(value), rel=1e-3)
        rest = stream - expected.reconstruction
        share = 1 - float(rest.square().sum() / stream.square().sum())
        assert float(ours["explained"]) == pytest.approx(share, abs=1e-4)
        assert ours["token"].values[0] == VOCABULARY[ours["id"].values[0]]
    # One that is a sum of two is found again.
    basis = lens.lens_vectors(llama.model, IDS, 0)
    planted = lens.decompose(llama.model, 2 * basis[0] + basis[1], 0, k=2)
    assert set(planted["id"].values[0]) == set(IDS)
    assert planted["explained"].item() == pytest.approx(1, abs=1e-4)
    nothing = lens.decompose(llama.model, torch.zeros(D_MODEL), 0)
    assert (nothing["id"] == -1).all()


def test_sums_of_directions_have_the_unit_of_the_vector(llama: Tiny, lens: JacobianLens) -> None:
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    one = lens.decompose(llama.model, vector, 0, k=3)
    for unit in (1e30, 1e-30):
        found = lens.decompose(llama.model, vector * unit, 0, k=3)
        assert found["id"].values.tolist() == one["id"].values.tolist()
        np.testing.assert_allclose(found["coordinate"], one["coordinate"] * unit, rtol=1e-4)
        np.testing.assert_allclose(found["explained"], one["explained"], rtol=1e-4)
    with pytest.raises(DirectionError, match="real numbers"):
        lens.decompose(llama.model, vector + 1j, 0)


@pytest.mark.parametrize(
    ("source", "target", "layers", "error", "message"),
    [
        ("Ann Bo", "Rome", [0], PromptError, "is 2 tokens"),
        ("", "Rome", [0], PromptError, "is 0 tokens"),
        (999, "Rome", [0], PromptError, "no token 999"),
        (-1, "Rome", [0], PromptError, "no token -1"),
        ("Ann", "Ann", [0], PromptError, "the same token"),
        ("Ann", "Rome", [], SiteError, "at no layer"),
        ("Ann", "Rome", [2], ModelError, "no matrix after block 2; it has those after 0, 1"),
        ("Ann", "Rome", [-1], ModelError, "no matrix after block -1"),
    ],
)
def test_what_cannot_be_swapped_is_refused(
    llama: Tiny,
    lens: JacobianLens,
    source: Any,
    target: Any,
    layers: list[int],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        lens.swap(llama.model, source, target, layers)


@pytest.mark.slow
def test_parallel_directions_and_wrong_vectors_are_refused(
    llama: Tiny, gpt2: Tiny, lens: JacobianLens
) -> None:
    model = llama.model
    flat = torch.outer(torch.ones(D_MODEL), torch.arange(1.0, D_MODEL + 1))
    with pytest.raises(DirectionError, match="one direction"):
        JacobianLens({0: flat}, 1).swap(model, SOURCE, TARGET, [0])
    for strength in (float("nan"), float("-inf"), 10**400):
        with pytest.raises(DirectionError, match="A strength of"):
            lens.swap(model, SOURCE, TARGET, [0], strength=strength)
    with pytest.raises(ModelError, match="belongs to the model"):
        lens.swap(gpt2.model, SOURCE, TARGET, [0])
    with (
        applied(model, *lens.swap(model, SOURCE, TARGET, [0], clamp_to=PROMPTS)),
        pytest.raises(DirectionError, match="not known which"),
    ):
        logits(model, PROMPTS)
    for wrong in (torch.zeros(3), torch.zeros(2, 3, D_MODEL), torch.full((D_MODEL,), torch.nan)):
        with pytest.raises(DirectionError):
            lens.decompose(model, wrong, 0)
    with pytest.raises(DirectionError, match="sum of 0 tokens"):
        lens.decompose(model, torch.zeros(D_MODEL), 0, k=0)
