"""Differences of activations, means and weights, by Hugging Face, NumPy and closed forms."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from interp.comparison import activation_difference, mean_difference, weight_difference
from interp.lens.tuned import TunedLens
from tests.interp.comparison.by_hand import Two, loaded
from tests.interp.tiny import VOCABULARY

PROMPTS = ["we saw Ann near Rome and then", "so Bo is"]
TEXTS = [
    "the friend of Dee is home",
    "Riga is",
    "so we saw Hal and Ida",
    "the friend of Dee is near",
]


def streams(hf: object, ids: list[int]) -> np.ndarray:
    """What Hugging Face says is between blocks [layer, position, d_model], without the last."""
    with torch.no_grad():
        out = hf(torch.tensor([ids]), output_hidden_states=True, use_cache=False)  # type: ignore[operator]
    return torch.stack(out.hidden_states[:-1])[:, 0].double().numpy()


def test_activations_differ_as_hugging_face_says(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    result = activation_difference(made.base, made.tuned, PROMPTS, ["resid_pre", "z"])
    for number, prompt in enumerate(PROMPTS):
        ids = made.base.token_ids(prompt)
        ours, theirs = (streams(made.hf[which], ids) for which in ("base", "tuned"))
        one = result.isel(example=number).sel(site="resid_pre").isel(position=slice(len(ids)))
        norm = np.linalg.norm(theirs - ours, axis=-1)
        before = np.linalg.norm(ours, axis=-1)
        cosine = (ours * theirs).sum(-1) / before / np.linalg.norm(theirs, axis=-1)
        np.testing.assert_allclose(one["norm"], norm, rtol=1e-4)
        np.testing.assert_allclose(one["relative"], norm / before, rtol=1e-4)
        np.testing.assert_allclose(one["cosine"], cosine, atol=1e-5)
        beyond = result.isel(example=number, position=slice(len(ids), None))
        assert all(np.isnan(beyond[name]).all() for name in result.data_vars)
    assert result["token"].values[1, 4] == ""


@pytest.mark.slow
def test_the_same_model_twice_does_not_differ(two: Callable[[str], Two]) -> None:
    made = two("GPT-2")
    again = loaded(made.hf["base"])
    result = activation_difference(made.base, again, PROMPTS)
    assert np.nanmax(result["norm"]) == 0
    np.testing.assert_allclose(result["cosine"].values[0], 1, atol=1e-6)
    weights = weight_difference(made.base, again)
    assert not weights["norm"].any()
    assert np.isnan(weights["effective_rank"]).all()
    means = mean_difference(made.base, again, TEXTS, words=["Rome"])
    assert (means["top_token"] == "").all()
    assert (means["word_rank"] == -1).all()
    assert np.isnan(means["common"]).all()


@pytest.mark.slow
def test_weights_differ_as_numpy_says(two: Callable[[str], Two]) -> None:
    made = two("GPT-2")
    result = weight_difference(made.base, made.tuned, top=5)
    ours, theirs = (dict(made.hf[which].named_parameters()) for which in ("base", "tuned"))
    assert set(result["parameter"].values) == set(ours)
    totals: dict[str, list[float]] = {}
    for name, before in ours.items():
        one = result.sel(parameter=name)
        old = before.detach().double().numpy()
        change = theirs[name].detach().double().numpy() - old
        assert one["norm"].item() == pytest.approx(np.linalg.norm(change), rel=1e-5)
        assert one["relative"].item() == pytest.approx(
            np.linalg.norm(change) / np.linalg.norm(old), rel=1e-5
        )
        totals.setdefault(made.part(name), []).append(float(np.linalg.norm(change)))
        if change.ndim == 2:
            values = np.linalg.svd(change, compute_uv=False)
            np.testing.assert_allclose(one["singular_value"], values[:5], rtol=1e-4)
            shares = values / values.sum()
            entropy = float(np.exp(-(shares * np.log(shares)).sum()))
            assert one["effective_rank"].item() == pytest.approx(entropy, rel=1e-4)
            stable = (values**2).sum() / values[0] ** 2
            assert one["stable_rank"].item() == pytest.approx(stable, rel=1e-4)
        else:
            assert np.isnan(one["singular_value"]).all()
    for part, norms in totals.items():
        expected = np.linalg.norm(norms)
        assert result["part_norm"].sel(part=part).item() == pytest.approx(expected, rel=1e-5)
    tied = [result["part_norm"].sel(part=p).item() for p in ("unembedding",)]
    wte = result["norm"].sel(parameter="transformer.wte.weight").item()
    assert tied == [pytest.approx(wte)]


def test_weights_are_named_as_both_libraries_do(two: Callable[[str], Two]) -> None:
    made = two("GPT-2")
    named = weight_difference(made.base, made.tuned).sel(
        parameter="transformer.h.1.attn.c_attn.weight"
    )
    assert named["component"].item() == "blocks.1.attn.qkv"
    assert (named["layer"].item(), named["module"].item()) == (1, "attention")


@pytest.mark.slow
def test_half_precision_rounds_less_than_is_said(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    whole = weight_difference(made.base, made.tuned)
    halves = [loaded(copy.deepcopy(made.hf[which]).bfloat16()) for which in ("base", "tuned")]
    half = weight_difference(*halves)
    off = np.abs(half["norm"] - whole["norm"])
    assert (off <= half["rounding"]).all()
    assert off.max() > 0


def test_means_are_those_of_hugging_face(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    result = mean_difference(made.base, made.tuned, TEXTS, tokens=5, k=3, words=["Rome", "Bo"])
    openings = list(dict.fromkeys(tuple(made.base.token_ids(t)[:6]) for t in TEXTS))
    assert len(openings) == 3  # two texts begin alike
    differences = [
        streams(made.hf["tuned"], list(ids)) - streams(made.hf["base"], list(ids))
        for ids in openings
    ]
    assert result["n"].values.tolist() == [3, 3, 2, 2, 2]
    for position in range(5):
        each = np.stack([d[:, 1 + position] for d in differences if d.shape[1] > 1 + position])
        mean = each.mean(0)
        found = result["difference"].isel(layer=slice(-1), position=position).values
        np.testing.assert_allclose(found, mean, atol=1e-5)
        # Independent texts: the unbiased estimate is the mean cosine-like product of two of them.
        n = len(each)
        products = [(each[i] * each[j]).sum(-1) for i in range(n) for j in range(n) if i != j]
        common = np.mean(products, axis=0) / (each**2).sum(-1).mean(0)
        np.testing.assert_allclose(
            result["common"].isel(layer=slice(-1), position=position), common, atol=1e-5
        )
    # The reading, by hand: the direction normed by itself, times gain and unembedding.
    hf = made.hf["base"]
    vector = torch.tensor(result["difference"].isel(layer=1, position=2).values).double()
    direction = vector / vector.square().mean().sqrt() * hf.model.norm.weight.detach().double()
    logits = hf.lm_head.weight.detach().double() @ direction
    logits = logits - logits.mean()
    one = result.sel(lens="logit lens").isel(layer=1, position=2)
    best = logits.topk(3)
    assert one["top_token"].values.tolist() == [VOCABULARY[i] for i in best.indices.tolist()]
    np.testing.assert_allclose(one["top_logit"], best.values, rtol=1e-3)
    for word in ("Rome", "Bo"):
        logit = logits[VOCABULARY.index(word)]
        assert one["word_logit"].sel(word=word).item() == pytest.approx(
            float(logit), rel=1e-3, abs=1e-3
        )
        assert one["word_rank"].sel(word=word).item() == int((logits > logit).sum())


@pytest.mark.slow
def test_a_lens_reads_the_difference_without_its_bias(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    n, d = made.base.n_layers, made.base.d_model
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n, d, d, generator=generator) / 8
    bias = 50 * torch.randn(n, d, generator=generator)
    lens = TunedLens(weight, bias, made.base.identity, {}, (0.0,) * n, (0.0,) * n)
    result = mean_difference(made.base, made.tuned, TEXTS, lens=lens)
    assert result["lens"].values.tolist() == ["logit lens", "tuned lens"]
    hf = made.hf["base"]
    vector = torch.tensor(result["difference"].isel(layer=1, position=2).values)
    moved = vector + vector @ weight[1]
    direction = moved / moved.square().mean().sqrt() * hf.model.norm.weight.detach()
    best = (hf.lm_head.weight.detach() @ direction).argmax()
    one = result.sel(lens="tuned lens").isel(layer=1, position=2)
    assert one["top_token"].values[0] == VOCABULARY[int(best)]
