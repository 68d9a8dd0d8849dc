"""Models whose parts lie on disk: every instrument, to the last bit as with the model in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from cache.store import ActivationStore
from interp import (
    Intervention,
    Model,
    PromptPairs,
    Weights,
    association_matrix,
    attention_patterns,
    back_patching,
    capture,
    compare_models,
    composition_scores,
    copying_scores,
    direct_logit_attribution,
    dose_response,
    estimate,
    fit_das,
    fit_jacobian_lens,
    generate,
    greedy_coordinate_search,
    head_scores,
    load_model,
    logit_lens,
    logits,
    patchscope,
    score_answers,
    singular_tokens,
    sweep,
    train_tuned_lens,
    transplant,
)
from interp.circuits import attribute_edges, faithfulness_curve
from interp.gradients.products import gradient_products
from interp.harvest import harvest
from tests.interp.tiny import NAMES, PLACES, Tiny

BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers"}
TEXTS = ["Ann saw Bo near Rome", "Eve saw Gus near Oslo", "Hal saw Ida near Lima"]
ANSWERS = [" Ann", " Eve", " Hal"]
OTHERS = ["Cy saw Bo near Rome", "Fay saw Gus near Oslo", "Jo saw Ida near Lima"]
MANY = [f"{name} saw Bo near {place}" for name, place in zip(NAMES[2:8], PLACES, strict=True)]
MAPS = ("blocks", "one", "everything")


def device_map(tiny: Tiny, which: str) -> Any:
    blocks = BLOCKS[tiny.name]
    return {
        "blocks": {"": "cpu", blocks: "disk"},
        # The MLP of another block lies on disk alone.
        "one": {"": "cpu", f"{blocks}.1": "disk", f"{blocks}.2.mlp": "disk"},
        "everything": "disk",
    }[which]


@pytest.fixture(scope="module", params=MAPS)
def placed(request: pytest.FixtureRequest, tiny: Tiny) -> Model:
    return load_model(tiny.folder, device_map=device_map(tiny, request.param))


@pytest.fixture(scope="module")
def on_disk(tiny: Tiny) -> Model:
    """All blocks on disk."""
    return load_model(tiny.folder, device_map=device_map(tiny, "blocks"))


def pairs(model: Model) -> PromptPairs:
    return PromptPairs(model, TEXTS, OTHERS, ANSWERS, [" Cy", " Fay", " Jo"])


def _das(model: Model) -> Any:
    groups = list("abcdef")
    return fit_das(
        model, _many(model), layers=[1], positions=[2], ranks=[2], epochs=1, groups=groups
    )


def _many(model: Model) -> PromptPairs:
    return PromptPairs(model, MANY, MANY[::-1], [f" {text.split()[0]}" for text in MANY])


def _weights(model: Model) -> Any:
    weights = Weights(model)
    return {
        "ov": weights.ov(1, 2).AB,
        "qk": weights.qk(2, 1, content=True).AB,
        "writing": weights.writing(0),
        "reading": weights.reading(1, "q"),
        "unembed": weights.unembed(torch.eye(model.d_model)),
    }


def _edges(model: Model) -> Any:
    found = attribute_edges(model, pairs(model))
    return [found, faithfulness_curve(model, pairs(model), found, fractions=(0.2, 1.0))]


def _suffix(model: Model) -> Any:
    return greedy_coordinate_search(
        model, TEXTS[:2], [" Rome", " Oslo"], suffix=" we", steps=2, candidates=4, top_k=4
    )


INSTRUMENTS: dict[str, Callable[[Model], Any]] = {
    "capture": lambda m: capture(m, TEXTS, ["resid_post", "z", "pattern"]),
    "logits": lambda m: logits(m, TEXTS, interventions=Intervention.silence("mlp_out.1")),
    "estimate": lambda m: estimate(m, pairs(m), "z"),
    "edges": _edges,
    "attribution": lambda m: direct_logit_attribution(m, pairs(m), by="head"),
    "logit lens": lambda m: logit_lens(m, TEXTS),
    "tuned lens": lambda m: train_tuned_lens(m, TEXTS * 4, steps=3).weight,
    "jacobian lens": lambda m: fit_jacobian_lens(m, TEXTS, skip_first=1).J,
    "weights": _weights,
    "copying": copying_scores,
    "composition": composition_scores,
    "singular tokens": lambda m: singular_tokens(m, "ov", 1, 2, k=3),
    "association": lambda m: association_matrix(m, ["Ann", "Bo"], ["Rome", "Oslo"]),
    "head scores": lambda m: head_scores(m, TEXTS),
    "patterns": lambda m: attention_patterns(m, TEXTS, weighted=True),
    "generation": lambda m: list(generate(m, TEXTS, max_new_tokens=4).texts),
    "answers": lambda m: score_answers(m, TEXTS, ANSWERS),
    "doses": lambda m: dose_response(
        m, pairs(m), torch.ones(m.d_model), [0.0, 2.0], sites="resid_post.1", control=2
    ),
    "transplant": lambda m: transplant(m, TEXTS, OTHERS, answers=ANSWERS),
    "patchscope": lambda m: patchscope(m, TEXTS[:1], "so then so", max_new_tokens=2),
    "back-patching": lambda m: back_patching(m, MANY, [" home"] * 6, clusters=list("abcdef")),
    "subspaces": _das,
    "gradients by MLPs": lambda m: gradient_products(m, TEXTS, ANSWERS),
    "gradients": lambda m: gradient_products(m, TEXTS, ANSWERS, parameters="all"),
    "suffixes": _suffix,
}


def numbers(found: Any) -> Iterator[np.ndarray[Any, Any]]:
    """All that was measured, in one order."""
    if isinstance(found, xr.Dataset):
        found = [found[name].values for name in sorted(map(str, found.variables))]
    if isinstance(found, dict):
        found = [found[name] for name in sorted(found)]
    if isinstance(found, list | tuple):
        for one in found:
            yield from numbers(one)
    else:
        yield np.asarray(found.detach() if isinstance(found, torch.Tensor) else found)


def check_same(ours: Any, theirs: Any) -> None:
    n = 0
    for mine, other in itertools.zip_longest(numbers(ours), numbers(theirs)):
        np.testing.assert_array_equal(mine, other)
        n += mine.size
    assert n


@pytest.fixture(scope="module")
def expected(tiny: Tiny) -> Callable[[str], Any]:
    """What an instrument finds with the model in memory."""
    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            known[name] = INSTRUMENTS[name](tiny.model)
        return known[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_every_instrument_finds_the_same(
    on_disk: Model, expected: Callable[[str], Any], instrument: str
) -> None:
    check_same(INSTRUMENTS[instrument](on_disk), expected(instrument))


@pytest.mark.slow
def test_wherever_parts_lie_the_model_is_the_same(placed: Model, tiny: Tiny) -> None:
    assert placed.elsewhere is not None
    assert placed.fingerprint == tiny.model.fingerprint
    assert placed.changes == ()
    assert placed.is_as_built()
    assert placed.n_parameters == tiny.model.n_parameters
    assert placed.block_bytes == tiny.model.block_bytes
    assert placed.mlp_widths == tiny.model.mlp_widths
    assert (placed.dtype, placed.device) == (tiny.model.dtype, tiny.model.device)
    between = () if tiny.parallel else ("resid_mid",)
    for site in ("resid_pre", *between, "attn_out", "mlp_out", "q", "z"):
        check_same(sweep(placed, pairs(placed), site), sweep(tiny.model, pairs(tiny.model), site))
    check_same(estimate(placed, pairs(placed), "z"), estimate(tiny.model, pairs(tiny.model), "z"))


@pytest.mark.slow
def test_patterns_too(on_disk: Model, tiny: Tiny) -> None:
    found = sweep(on_disk, pairs(on_disk), "pattern")
    check_same(found, sweep(tiny.model, pairs(tiny.model), "pattern"))


@pytest.mark.slow
def test_weights_are_real_whoever_asks(placed: Model, tiny: Tiny) -> None:
    theirs = dict(tiny.hf.named_parameters())
    weights = placed.weights()
    assert weights.keys() >= theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(weights[name], value), name
    for block, other in zip(placed.bridge.blocks, tiny.model.bridge.blocks, strict=True):
        for part in ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.out"):
            mine, whole = (one.get_submodule(part).original_component for one in (block, other))
            assert torch.equal(mine.weight, whole.weight)
            assert all(map(torch.equal, mine.parameters(), whole.parameters()))
            assert torch.equal(mine.state_dict()["weight"], whole.weight)
    assert torch.equal(placed.bridge.W_U, tiny.model.bridge.W_U)


@pytest.mark.slow
def test_a_gradient_holds_no_block(on_disk: Model, tiny: Tiny) -> None:
    assert on_disk.elsewhere is not None
    ids = torch.tensor([[3, 4, 5, 6]])
    found = []
    for model in (on_disk, tiny.model):
        streams: list[torch.Tensor] = []

        def keep(
            _module: Any, args: tuple[torch.Tensor, ...], streams: list[torch.Tensor] = streams
        ) -> tuple[torch.Tensor, ...]:
            streams.append(args[0].detach().requires_grad_(True))
            return (streams[0], *args[1:])

        handle = model.bridge.blocks[0].register_forward_pre_hook(keep)
        with torch.enable_grad():
            value = model.bridge(ids, use_cache=False)[0, -1].logsumexp(0)
        handle.remove()
        if model is on_disk:
            on_disk.elsewhere.let_go()
            assert not list(on_disk.elsewhere.alive())
        found.append(torch.autograd.grad(value, streams)[0])
    assert torch.equal(*found)


@pytest.mark.slow
def test_models_are_compared_wherever_they_lie(on_disk: Model, tiny: Tiny, tmp_path: Path) -> None:
    other = tmp_path / "other"
    hf = type(tiny.hf).from_pretrained(tiny.folder, attn_implementation="eager")
    with torch.no_grad():
        for number, weight in enumerate(hf.parameters()):
            weight.mul_(1 + 0.01 * (number % 3))
    hf.save_pretrained(other)
    on_disk.tokenizer.save_pretrained(other)
    tuned = load_model(other)
    ours = load_model(other, device_map=device_map(tiny, "everything"))
    questions = {"prompts": TEXTS, "answers": ANSWERS, "foils": [" Cy", " Fay", " Jo"]}
    found = compare_models(on_disk, ours, **questions)
    expected = compare_models(tiny.model, tuned, **questions)
    for name in ("activations", "weights", "swaps", "patches"):
        check_same(getattr(found, name), getattr(expected, name))


def test_a_harvest_of_a_model_on_disk_fills_the_store_of_the_one_in_memory(
    on_disk: Model, tiny: Tiny, tmp_path: Path
) -> None:
    with ActivationStore(tmp_path) as store:
        first = harvest(on_disk, TEXTS, "resid_post", store)
        again = harvest(tiny.model, TEXTS, "resid_post", store)
    assert first.computed
    assert not again.computed
