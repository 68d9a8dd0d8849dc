"""Directions are what scikit-learn and closed forms say; doses do what hooks by hand do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from interp import PromptPairs, capture
from interp.errors import ArgumentError, DirectionError, MetricError, PromptError, SiteError
from interp.steering.directions import difference_of_means, principal_directions, random_directions
from interp.steering.doses import dose_response
from tests.interp import reference
from tests.interp.tiny import D_HEAD, D_MODEL, N_HEADS, Tiny, words

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is near home and"]
ANSWERS, FOILS = [" Gus Hal", " Ida", " Jo Ann Bo"], [" Bo", " Cy Ann", " Eve"]
DOSES = [-2.0, 0.0, 0.5]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_difference_of_means_is_the_planted_direction() -> None:
    planted = noise(64, seed=1)
    positive, negative = noise(4000, 64, seed=2) + planted, noise(3000, 64, seed=3)
    found = difference_of_means(positive, negative)
    assert float(torch.cosine_similarity(found, planted, dim=0)) > 0.99
    torch.testing.assert_close(found, positive.mean(0) - negative.mean(0), rtol=0, atol=1e-5)


def test_principal_directions_are_those_of_scikit_learn() -> None:
    values = (noise(50, 12) @ noise(12, 12, seed=1)).reshape(50, 3, 4) + 5
    found = principal_directions(values, 4)
    theirs = PCA(4).fit(values.flatten(1).double().numpy())
    ours = found.directions.flatten(1).double().numpy()
    np.testing.assert_allclose(
        np.abs((ours * theirs.components_).sum(1)), np.ones(4), rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(found.explained, theirs.explained_variance_ratio_, atol=1e-6)
    torch.testing.assert_close(found.mean, values.mean(0))
    assert (ours[np.arange(4), np.abs(ours).argmax(1)] > 0).all()


def test_random_directions_are_as_long_and_go_everywhere() -> None:
    like = noise(N_HEADS, D_HEAD)
    drawn = random_directions(like, 500, seed=1)
    assert drawn.shape == (500, N_HEADS, D_HEAD)
    torch.testing.assert_close(drawn.flatten(1).norm(dim=1), like.norm().expand(500))
    assert torch.equal(drawn, random_directions(like, 500, seed=1))
    assert not torch.equal(drawn, random_directions(like, 500, seed=2))
    flat = drawn.flatten(1) / like.norm()
    # Isotropic: second moments are those of the unit sphere.
    moments = flat.T @ flat / 500 * flat.shape[1]
    assert float((moments - torch.eye(flat.shape[1])).abs().max()) < 0.3


@pytest.mark.slow
def test_random_directions_can_vary_as_activations_do() -> None:
    spread = torch.linspace(0.1, 3, 10)
    activations = 7 + noise(2000, 10) * spread
    drawn = random_directions(torch.ones(10), 3000, activations=activations)
    torch.testing.assert_close(drawn.norm(dim=1), torch.full((3000,), 10**0.5))
    share = drawn.square().mean(0)
    expected = spread.square()
    assert float(np.corrcoef(share, expected)[0, 1]) > 0.98
    assert float(share[-1] / share[0]) > 100


def test_directions_apart_are_at_right_angles_and_not_the_concept_in_disguise() -> None:
    """One concept makes nearly all variance; a direction that reads it leans away from it."""
    like = noise(N_HEADS, D_HEAD)
    for drawn in (
        random_directions(like, 50, apart=True),
        random_directions(like, 50, apart=True, activations=noise(40, N_HEADS, D_HEAD, seed=3)),
    ):
        assert (
            float((drawn.flatten(1) @ like.flatten()).abs().max()) < 1e-5 * float(like.norm()) ** 2
        )
        torch.testing.assert_close(drawn.flatten(1).norm(dim=1), like.norm().expand(50))
    concept = torch.zeros(20)
    concept[0] = 1.0
    told = torch.cat([torch.ones(50), -torch.ones(50)])
    activations = 30 * told[:, None] * concept + noise(100, 20, seed=2)
    read = concept + 0.1 * noise(20, seed=5)
    disguised = random_directions(read, 200, activations=activations)
    apart = random_directions(read, 200, activations=activations, apart=True)
    share = [float((drawn[:, 0] / drawn.norm(dim=1)).abs().mean()) for drawn in (disguised, apart)]
    assert share[0] > 0.8
    assert share[1] < 0.4
    with pytest.raises(DirectionError, match="do not vary but along the direction"):
        random_directions(read, 2, activations=told[:, None] * read, apart=True)


def measured_by_hand(
    tiny: Tiny, metric: str, kind: str, direction: Tensor, dose: float, example: int
) -> float:
    """At resid_post.1, all tokens, one unpadded sequence at a time."""

    def edit(value: Tensor) -> None:
        if kind == "add":
            value += dose * direction
        else:
            unit = direction / direction.norm()
            value += (dose - value @ unit)[:, None] * unit

    ids = tiny.ids(PROMPTS[example])
    answer, foil = words(ANSWERS[example]), words(FOILS[example])
    with reference.intervened(tiny, "resid_post", 1, edit):
        if metric == "logit_diff":
            logits = reference.logits(tiny, ids)[-1]
            return float(logits[answer[0]] - logits[foil[0]])
        value = reference.continuation_logprob(tiny, ids, answer)
        if metric == "logprob_diff":
            value -= reference.continuation_logprob(tiny, ids, foil)
        return value


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["logit_diff", "answer_logprob", "logprob_diff"])
@pytest.mark.parametrize("kind", ["add", "clamp"])
def test_doses_do_what_hooks_by_hand_do(tiny: Tiny, metric: str, kind: Any) -> None:
    direction = noise(D_MODEL, seed=4)
    found = dose_response(
        tiny.model,
        PROMPTS,
        direction,
        DOSES,
        metric,
        sites="resid_post.1",
        kind=kind,
        answers=ANSWERS,
        foils=FOILS,
        control=2,
        seed=5,
    )
    drawn = random_directions(direction, 2, seed=5, apart=True)
    assert dict(found.sizes) == {"example": 3, "dose": 3, "draw": 2}
    for example in range(3):
        plain = measured_by_hand(tiny, metric, "add", direction, 0.0, example)
        assert float(found["plain"][example]) == pytest.approx(plain, abs=1e-4)
        for number, dose in enumerate(DOSES):
            for ours, vector in (
                (found["value"][example, number], direction),
                (found["control"][example, number, 0], drawn[0]),
                (found["control"][example, number, 1], drawn[1]),
            ):
                expected = measured_by_hand(tiny, metric, kind, vector, dose, example)
                assert float(ours) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_pairs_and_functions_of_the_logits_can_be_measured(llama: Tiny) -> None:
    direction = noise(D_HEAD, seed=4)
    pairs = PromptPairs(llama.model, PROMPTS, PROMPTS, ANSWERS, FOILS)
    options: dict[str, Any] = {"sites": "z.1.h2", "positions": "last", "control": 0}
    by_pairs = dose_response(llama.model, pairs, direction, DOSES, **options)
    by_text = dose_response(
        llama.model, PROMPTS, direction, DOSES, answers=ANSWERS, foils=FOILS, **options
    )
    np.testing.assert_array_equal(by_pairs["value"], by_text["value"])
    one, two = (torch.tensor([words(t)[0] for t in texts]) for texts in (ANSWERS, FOILS))

    def difference(logits: Tensor) -> Tensor:
        return (logits.gather(1, one[:, None]) - logits.gather(1, two[:, None]))[:, 0]

    by_function = dose_response(llama.model, PROMPTS, direction, DOSES, difference, **options)
    np.testing.assert_allclose(by_function["value"], by_text["value"], atol=1e-5)
    assert by_function.attrs["metric"] == "difference"
    assert by_function.sizes["draw"] == 0


@pytest.mark.slow
def test_a_direction_that_matters_stands_out_from_random_ones(llama: Tiny) -> None:
    """What the unembedding reads as answer and not foil, added where it is read."""
    table = llama.hf.lm_head.weight.detach()
    ids = [words(texts[0])[0] for texts in (ANSWERS, FOILS)]
    direction = table[ids[0]] - table[ids[1]]
    seen: list[tuple[int, int]] = []
    found = dose_response(
        llama.model,
        PROMPTS[:1],
        direction,
        [-2, -1, 1, 2],
        sites="resid_post.2",
        answers=ANSWERS[:1],
        foils=FOILS[:1],
        control=10,
        progress=lambda *at: seen.append(at),
    )
    curve = found["value"].values[0]
    assert (np.diff(curve) > 0).all()
    assert curve[-1] > found["control"].sel(dose=2).max()
    assert curve[0] < found["control"].sel(dose=-2).min()
    assert seen[-1] == (45, 45)


@pytest.mark.slow
def test_directions_of_activations_are_captured_and_used(llama: Tiny) -> None:
    site = "resid_post.1"
    positive, negative = (
        capture(llama.model, texts, site, positions="last")[site]
        for texts in (["so Fay is", "so Ann is"], ["then we saw", "we saw Rome"])
    )
    direction = difference_of_means(positive, negative)
    found = dose_response(
        llama.model,
        PROMPTS,
        direction,
        [1.0],
        "probability",
        sites=site,
        answers=ANSWERS,
        control=3,
        activations=torch.cat([positive, negative]),
    )
    assert bool(np.isfinite(found["control"]).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: difference_of_means(noise(3, 4), noise(3, 5)), "no difference"),
        (lambda: difference_of_means(noise(0, 4), noise(3, 4)), "with an example"),
        (lambda: difference_of_means(noise(4), noise(4)), "example"),
        (lambda: difference_of_means(noise(2, 4) / 0, noise(3, 4)), "not finite"),
        (lambda: difference_of_means(torch.ones(2, 4), torch.ones(3, 4)), "same mean"),
        (lambda: principal_directions(noise(1, 4)), "give more examples"),
        (lambda: principal_directions(noise(3, 4), 3), "ask for 1 to 2"),
        (lambda: principal_directions(torch.ones(5, 4)), "do not vary"),
        (lambda: random_directions(torch.zeros(4), 3), "length zero"),
        (lambda: random_directions(torch.ones(4), 0), "draw more"),
        (lambda: random_directions(torch.ones(4), 2, activations=noise(9, 5)), "say nothing"),
        (lambda: random_directions(torch.ones(4), 2, activations=torch.ones(9, 4)), "not vary"),
    ],
)
def test_what_has_no_direction_is_refused(call: Any, message: str) -> None:
    with pytest.raises(DirectionError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"doses": []}, DirectionError, "at least one"),
        ({"doses": [float("nan")]}, DirectionError, "finite"),
        ({"direction": torch.zeros(D_MODEL)}, DirectionError, "length zero"),
        ({"direction": torch.ones(3)}, DirectionError, "does not fit"),
        ({"kind": "ablate"}, ArgumentError, "'add' or 'clamp'"),
        ({"control": -1}, DirectionError, "0 or more"),
        ({"sites": "resid_post.9"}, SiteError, "out of range"),
        ({"answers": None}, PromptError, "give answers"),
        ({"answers": ANSWERS[:2]}, PromptError, "2 answers"),
        ({"foils": None}, PromptError, "foil"),
        ({"metric": "accuracy"}, MetricError, "accuracy"),
        ({"metric": lambda logits: logits}, PromptError, "leave them out"),
        (
            {"metric": lambda logits: logits, "answers": None, "foils": None},
            PromptError,
            "one number",
        ),
        ({"positions": [7]}, PromptError, "no position 7"),
        ({"positions": "generated"}, PromptError, "Nothing is generated"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    llama: Tiny, change: dict[str, Any], error: Any, message: str
) -> None:
    options: dict[str, Any] = {
        "prompts": PROMPTS,
        "direction": torch.ones(D_MODEL),
        "doses": [1.0],
        "sites": "resid_post.1",
        "answers": ANSWERS,
        "foils": FOILS,
        **change,
    }
    with pytest.raises(error, match=message):
        dose_response(llama.model, **options)
