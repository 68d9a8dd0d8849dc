"""A planted variable is found where it is, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

from interp import PromptPairs, Subspace, fit_das, interchange
from interp.errors import ArgumentError, ModelError, ObverseError, PromptError, SiteError
from interp.subspaces.controls import CONTROLS, read_neurons, within
from interp.subspaces.runs import Runs
from tests.interp import reference
from tests.interp.pairs import clear_cases, prompt_pairs
from tests.interp.subspaces.planted import ENTITY, LAST, Kind, Planted, cosines, planted
from tests.interp.tiny import NAMES, PLACES, Tiny

Search = Callable[[Kind], xr.Dataset]


@pytest.mark.slow
def test_the_planted_variable_is_found_where_it_is(search_of: Search) -> None:
    found = search_of("variable")
    # In three dimensions before the head that reads it, and behind it where it was written.
    np.testing.assert_array_equal(found["boundary"], [[3, np.nan], [np.nan, 3]])
    assert (found["held_out"].values[0, 0] == [0, 1, 1]).all()
    assert not found["dormant"].any()
    np.testing.assert_array_equal(found["whole"], [[1, 0], [0, 1]])
    assert (found["control_held_out"].max("control").values < 0.3).all()


@pytest.mark.slow
def test_the_subspace_is_the_planted_one(
    search_of: Search, model_of: Callable[[Kind], Planted]
) -> None:
    found, made = search_of("variable"), model_of("variable")
    for layer, position, truth in ((0, ENTITY, made.before), (1, LAST, made.after)):
        three, five = (Subspace.of(found, layer, position, rank) for rank in (3, 5))
        assert cosines(three.basis, truth).min() > 0.95
        assert cosines(five.basis, truth).min() > 0.95
        torch.testing.assert_close(three.basis @ three.basis.T, torch.eye(3), atol=1e-5, rtol=0)
    elsewhere = Subspace.of(found, 0, LAST, 3)
    assert cosines(elsewhere.basis, made.before).min() < 0.7


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is(search_of: Search) -> None:
    assert np.isnan(search_of("nothing")["boundary"].values).all()


@pytest.mark.slow
def test_a_random_model_has_no_boundary(gpt2: Tiny) -> None:
    """Answers that have nothing to do with the prompts: a search has only chance to find."""
    rng = np.random.default_rng(0)
    n, first = 30, 3
    clean = torch.from_numpy(rng.integers(first, 30, (n, 5)))
    corrupt = clean.clone()
    corrupt[:, 1:3] = torch.from_numpy(rng.integers(first, 30, (n, 2)))
    answers = torch.from_numpy(rng.integers(first, 30, n))
    pairs = PromptPairs(gpt2.model, clean, corrupt, answers)
    for seed in range(3):
        found = fit_das(
            gpt2.model, pairs, positions=[2, 4], ranks=[1, 4, 16], groups=range(n), seed=seed
        )
        assert np.isnan(found["boundary"].values).all()


@pytest.mark.slow
def test_pairs_without_the_position_are_left_out(gpt2: Tiny) -> None:
    rng = np.random.default_rng(0)
    who = []
    for size in (3, *[2, 1] * 11, 2):
        names = rng.choice(NAMES[:-1], 2 * size, replace=False)
        who.append((" ".join(names[:size]), " ".join(names[size:])))
    pairs = PromptPairs(
        gpt2.model,
        [f"we saw {clean} near home" for clean, _ in who],
        [f"we saw {corrupt} near home" for _, corrupt in who],
        [f" {place}" for place in rng.choice(PLACES, 24)],
        spans={"who": who},
    )
    found = fit_das(gpt2.model, pairs, layers=[1], ranks=[4], groups=range(24))
    labels = list(found["position_label"].values)
    # Three names on both sides are too rare, and are asked for in vain.
    assert labels == ["start -3", "start -2", "start -1", "who -2", "who -1", "end -2", "end -1"]
    with pytest.raises(PromptError, match="'who -3' stands in pairs of fewer than two"):
        fit_das(gpt2.model, pairs, positions=["who"], groups=range(24))
    cell = found.isel(layer=0, rank=0, position=labels.index("who -2"))
    there = pairs.alignment.clean[:, pairs.positions.index("who -2")] >= 0
    assert 4 < there.sum() < 24
    np.testing.assert_array_equal(np.isfinite(cell["hit"]), there)
    np.testing.assert_array_equal(np.isfinite(cell["control_hit"].sel(control="unchanged")), there)
    again = interchange(gpt2.model, pairs, Subspace.of(found, 1, "who -2", 4))
    np.testing.assert_array_equal(again["hit"], cell["hit"])
    held = (found["split"].values == "held out") & there
    assert float(cell["held_out"]) == pytest.approx(float(cell["hit"][held].mean()))
    assert cell["independent"] == held.sum()


@pytest.mark.slow
def test_half_precision_is_searched(model_of: Callable[[Kind], Planted]) -> None:
    made = planted("variable", torch.bfloat16)
    found = fit_das(
        made.model,
        made.pairs(),
        site="resid_pre",
        layers=[1],
        positions=[LAST],
        ranks=[3],
        epochs=2,
    )
    assert found["basis"].dtype == np.float32
    assert np.isfinite(found["loss"]).all()
    assert not any(p.requires_grad for p in made.model.bridge.original_model.parameters())


@pytest.mark.slow
def test_a_dormant_pathway_is_told(search_of: Search, model_of: Callable[[Kind], Planted]) -> None:
    found, made = search_of("illusion"), model_of("illusion")
    # It half reads where entities differ, and half writes where they are all the same.
    three = Subspace.of(found, 0, ENTITY, 3)
    for part in (made.before, made.code):
        np.testing.assert_allclose(cosines(three.basis, part), 0.5**0.5, atol=0.06)
    cell = found.sel(layer=0, position=ENTITY, rank=3)
    assert cell["held_out"] == 1
    assert cell["generalises"]
    assert cell["natural"] < 0.2
    assert cell["dormant"]
    assert np.isnan(found["boundary"].values).all()


@pytest.mark.slow
def test_neurons_that_the_output_matrix_cannot_read_are_told(gpt2: Tiny) -> None:
    pairs = prompt_pairs(gpt2, clear_cases(gpt2, 12))
    runs = Runs(gpt2.model, pairs, "denoising", "mlp_act", (1,), (3,))
    matrix = gpt2.hf.transformer.h[1].mlp.c_proj.weight.detach()  # [neuron, d_model]
    full = torch.linalg.svd(matrix)[0]
    read, unread = full[:, : matrix.shape[1]].T, full[:, matrix.shape[1] :].T
    known = read_neurons(runs)[1]
    assert cosines(known, read).min() > 1 - 1e-5
    mixed = (read[:1] + unread[:1]) / 2**0.5
    part = within(torch.cat([mixed, unread[1:2]]), known)
    assert part.shape == (1, matrix.shape[0])
    assert abs(float(part[0] @ read[0])) > 1 - 1e-5


@pytest.mark.slow
def test_what_is_reported_is_what_the_interchange_does(
    search_of: Search, model_of: Callable[[Kind], Planted]
) -> None:
    found, made = search_of("variable"), model_of("variable")
    pairs = made.pairs()
    for rank in (1, 3):
        cell = found.sel(layer=0, position=ENTITY, rank=rank)
        again = interchange(made.model, pairs, Subspace.of(found, 0, ENTITY, rank))
        np.testing.assert_array_equal(again["hit"], cell["hit"])
        held = cell["split"] == "held out"
        assert float(again["hit"][held].mean()) == pytest.approx(float(cell["held_out"]))
        assert float(again["hit"][~held].mean()) == pytest.approx(float(cell["accuracy"]))
        assert not again["unchanged_hit"].any()


@pytest.mark.slow
def test_an_interchange_is_that_of_transformer_lens(llama: Tiny) -> None:
    from transformer_lens.tools.analysis import interchange as theirs

    pairs, bridge = prompt_pairs(llama, clear_cases(llama, 6)), llama.model.bridge
    rows = torch.linalg.qr(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)))[0].T
    slot = pairs.positions.index("who -1")
    one = Subspace(rows, "resid_post", 1, "who -1", llama.model.identity)
    ours = interchange(llama.model, pairs, one)

    def last(ids: torch.Tensor) -> torch.Tensor:
        return bridge(ids, return_type="logits")[:, -1]

    at = {
        run: torch.from_numpy(getattr(pairs.alignment, run)[:, slot])
        for run in ("clean", "corrupt")
    }
    source = theirs.collect_activations(
        bridge, "blocks.1.hook_out", pairs.clean.ids, last, positions=at["clean"]
    )
    logits = theirs.intervened_logits(
        bridge,
        "blocks.1.hook_out",
        theirs.SubspaceInterchange(rows.T),
        pairs.corrupt.ids,
        source,
        last,
        positions=at["corrupt"],
    )
    expected = logits.log_softmax(-1)[torch.arange(6), pairs.first_tokens("answer")]
    np.testing.assert_allclose(ours["logprob"], expected, atol=1e-4)
    plain = [reference.logprobs(llama, pairs.corrupt.row(i))[-1] for i in range(6)]
    expected = torch.stack(plain)[torch.arange(6), pairs.first_tokens("answer")]
    np.testing.assert_allclose(ours["unchanged_logprob"], expected, atol=1e-4)


@pytest.mark.slow
def test_the_same_seed_finds_the_same_and_leaves_random_numbers_alone(
    model_of: Callable[[Kind], Planted],
) -> None:
    made = model_of("variable")
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()

    def found(seed: int) -> xr.Dataset:
        return fit_das(made.model, made.pairs(), layers=[0], positions=[LAST], ranks=[2], seed=seed)

    one, same, other = found(0), found(0), found(1)
    xr.testing.assert_identical(one, same)
    assert (one["split"] != other["split"]).any()
    assert not np.allclose(one["basis"], other["basis"])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    parameters = list(made.model.bridge.original_model.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in parameters)


def test_progress_ends_at_the_end(model_of: Callable[[Kind], Planted]) -> None:
    made, told = model_of("variable"), []
    fit_das(
        made.model,
        made.pairs(),
        layers=[1],
        positions=[ENTITY],
        ranks=[1],
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == sorted(told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1]


def test_an_interrupted_search_leaves_nothing_behind(model_of: Callable[[Kind], Planted]) -> None:
    made = model_of("variable")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_das(made.model, made.pairs(), site="mlp_act", ranks=[1], progress=stop)
    assert not any(point.fwd_hooks for point in made.model.bridge.hook_dict.values())
    assert made.model.changes == ()


@pytest.mark.slow
def test_a_finer_model_is_searched_in_its_own_precision() -> None:
    made = planted("variable", torch.float64)
    found = fit_das(
        made.model, made.pairs(), site="resid_pre", layers=[0], positions=[ENTITY], ranks=[3]
    )
    assert found["boundary"] == 3


@pytest.mark.slow
def test_a_counterfactual_of_ones_own_and_answers_only(
    model_of: Callable[[Kind], Planted],
) -> None:
    made, n = model_of("variable"), 60
    pairs = made.pairs()
    # Of these pairs the answer that already stands is to stay: nothing needs to be learned.
    stays = fit_das(
        made.model,
        pairs,
        site="resid_pre",
        layers=[1],
        positions=[LAST],
        ranks=[1],
        counterfactual=[f" a{(i + n // 2) % n}" for i in range(n)],
        among="answers",
        epochs=1,
    )
    assert stays["control_held_out"].sel(control="unchanged") == 1
    assert not stays["generalises"].any()
    assert stays["counterfactual"].values[0] == "a30"
    assert tuple(stays["control"].values) == CONTROLS


@pytest.mark.slow
def test_the_other_direction_asks_for_the_foil(model_of: Callable[[Kind], Planted]) -> None:
    made = model_of("variable")
    found = fit_das(
        made.model,
        made.pairs(),
        site="resid_pre",
        layers=[0],
        positions=[ENTITY],
        ranks=[3],
        direction="noising",
    )
    assert found["counterfactual"].values[0] == "a30"
    assert found["boundary"] == 3


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"layers": [2]}, SiteError, "Layer 2 is out of range"),
        ({"layers": []}, SiteError, "no layers"),
        ({"positions": [7]}, PromptError, "out of range"),
        ({"positions": ["subject"]}, PromptError, "out of range"),
        ({"ranks": [0]}, PromptError, "between 1 and 32"),
        ({"ranks": [33]}, PromptError, "between 1 and 32"),
        ({"ranks": []}, PromptError, "between 1 and 32"),
        ({"site": "z"}, SiteError, "no one vector"),
        ({"site": "pattern"}, SiteError, "no one vector"),
        ({"site": "stream"}, SiteError, "Unknown site"),
        ({"direction": "sideways"}, SiteError, "Unknown direction"),
        ({"held_out": 0.0}, PromptError, "between 0 and 1"),
        ({"held_out": 1.0}, PromptError, "between 0 and 1"),
        ({"epochs": 0}, PromptError, "epochs must be at least 1"),
        ({"batch_size": 0}, PromptError, "batch_size must be at least 1"),
        ({"patience": 0}, PromptError, "patience must be at least 1"),
        ({"seed": -1}, ArgumentError, "takes seed as a whole number from 0"),
        ({"learning_rate": float("nan")}, PromptError, "learning rate"),
        ({"learning_rate": 0.0}, PromptError, "learning rate"),
        ({"groups": ["one"] * 60}, PromptError, "1 group without"),
        ({"groups": ["one"] * 3}, ObverseError, "3 clusters named for 60"),
        ({"counterfactual": [" a1"]}, PromptError, "1 counterfactual answers for 60"),
        ({"counterfactual": [" a1"] * 60}, PromptError, "begin with the same token"),
        ({"counterfactual": [[" a1", " a2"]] * 60}, PromptError, "one counterfactual answer"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    model_of: Callable[[Kind], Planted], wrong: dict[str, object], error: type, message: str
) -> None:
    made = model_of("variable")
    with pytest.raises(error, match=message):
        fit_das(made.model, made.pairs(), **wrong)


@pytest.mark.slow
def test_numbers_that_are_not_finite_are_refused(model_of: Callable[[Kind], Planted]) -> None:
    made = planted("variable")
    with torch.no_grad():
        made.hf.model.embed_tokens.weight[20] = float("inf")
    with pytest.raises(ModelError, match=r"finite|reproduce"):
        fit_das(made.model, made.pairs(), ranks=[1])


def test_answers_that_begin_alike_are_refused(model_of: Callable[[Kind], Planted]) -> None:
    made = model_of("variable")
    pairs = PromptPairs(
        made.model,
        [f"e{i} is" for i in range(8)],
        [f"e{i} is" for i in range(8, 16)],
        [" a1 a2"] * 8,
        [" a1 a3"] * 8,
    )
    with pytest.raises(PromptError, match="begin with the same token"):
        fit_das(made.model, pairs)
