"""Mean Jacobians are TransformerLens', those of brute force, and a closed form."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch.autograd.functional import jacobian
from transformer_lens.tools.analysis.jacobian_lens import JacobianLens as Theirs
from transformers import GPT2Config, GPT2LMHeadModel

from interp import Intervention, JacobianLens, fit_jacobian_lens, load_model, logit_lens
from interp.errors import ModelError, PromptError, StorageError
from interp.forward.interventions import applied
from interp.model.model import Model
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import (
    D_MODEL,
    N_LAYERS,
    VOCABULARY,
    Tiny,
    build_tokenizer,
    load_hugging_face,
)

SKIP = 3


def texts(n: int, seed: int = 0, longest: int = 12) -> list[str]:
    """Random words, of unequal lengths."""
    generator = np.random.default_rng(seed)
    return [
        " ".join(generator.choice(VOCABULARY[3:], generator.integers(6, longest + 1)))
        for _ in range(n)
    ]


PROMPTS = texts(5)


def theirs(model: Model, prompts: list[str], skip: int = SKIP) -> Any:
    return Theirs.fit(
        model.bridge,
        prompts,
        corpus="words",
        dim_batch=16,
        skip_first_positions=skip,
        show_progress=False,
    )


@pytest.fixture(scope="module")
def lens(llama: Tiny) -> JacobianLens:
    return fit_jacobian_lens(llama.model, PROMPTS, skip_first=SKIP)


def assert_equal(ours: JacobianLens, reference: Any, atol: float = 1e-5) -> None:
    assert ours.source_layers == reference.source_layers
    assert ours.n_prompts == reference.n_prompts
    for layer, matrix in reference.jacobians.items():
        torch.testing.assert_close(ours.J[layer], matrix, rtol=0, atol=atol)


@pytest.mark.slow
def test_matrices_are_transformer_lens(tiny: Tiny) -> None:
    ours = fit_jacobian_lens(tiny.model, PROMPTS, skip_first=SKIP)
    reference = theirs(tiny.model, PROMPTS)
    assert max(float(matrix.abs().max()) for matrix in ours.J.values()) > 0.5
    assert_equal(ours, reference, 1e-5 * max(1.0, float(ours.J[0].abs().max())))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Gemma 2", "Granite", "Mixtral"])
def test_other_ways_of_building_a_block(name: str) -> None:
    """Scaled embeddings and writers, norms behind, soft caps, alternating masks, experts."""
    model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
    ours = fit_jacobian_lens(model, PROMPTS, skip_first=SKIP)
    assert_equal(ours, theirs(model, PROMPTS), 1e-5 * max(1.0, float(ours.J[0].abs().max())))
    found = logit_lens(model, PROMPTS[0], lens=ours)
    whole = theirs(model, PROMPTS).readout(model.bridge, PROMPTS[0], return_full_logits=True)
    for layer, logits in whole.lens_logits.items():
        p = logits.log_softmax(-1).exp()
        entropy = -(p * p.clamp(min=1e-30).log()).sum(-1)
        here = found["entropy"].isel(example=0).sel(layer=layer + 1)
        np.testing.assert_allclose(here, entropy, atol=1e-4)


def by_brute_force(tiny: Tiny, text: str, layer: int) -> torch.Tensor:
    """Every derivative of the summed final streams by every stream into a block, averaged."""
    ids = torch.tensor([tiny.ids(text)])
    blocks, norm = tiny.hf.model.layers, tiny.hf.model.norm

    def final(change: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []

        def add(_module: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
            return (args[0] + change, *args[1:]), kwargs

        hooks = [
            blocks[layer].register_forward_pre_hook(add, with_kwargs=True),
            norm.register_forward_pre_hook(lambda _module, args: kept.append(args[0])),
        ]
        tiny.hf(ids)
        for hook in hooks:
            hook.remove()
        return kept[0][0, inside].sum(0)

    n = ids.shape[1]
    inside = slice(SKIP, n - 1)
    every = jacobian(final, torch.zeros(n, D_MODEL))  # [d_model, source, d_model]
    found: torch.Tensor = every[:, inside].mean(1)
    return found


@pytest.mark.slow
def test_matrices_are_those_of_brute_force(llama: Tiny) -> None:
    prompts = PROMPTS[:2]
    ours = fit_jacobian_lens(llama.model, prompts, skip_first=SKIP)
    assert ours.embedding is not None
    for layer, found in ((0, ours.embedding), (2, ours.J[1])):
        expected = torch.stack([by_brute_force(llama, text, layer) for text in prompts]).mean(0)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    apart = [fit_jacobian_lens(llama.model, [text], skip_first=SKIP) for text in PROMPTS]
    whole = fit_jacobian_lens(llama.model, PROMPTS, skip_first=SKIP)
    singles = torch.stack([one.J[0] for one in apart]).double()
    torch.testing.assert_close(whole.J[0], singles.mean(0).float(), rtol=1e-5, atol=1e-5)
    # The error of a mean: the standard deviation of what it is the mean of, over the root of n.
    spread = (singles - singles.mean(0)).square().sum((1, 2)).sum() / (len(PROMPTS) - 1)
    expected_error = float((spread / len(PROMPTS)).sqrt() / singles.mean(0).norm())
    noted = whole.spread()["standard_error"].sel(layer=1)
    assert float(noted) == pytest.approx(expected_error, rel=1e-4)
    assert np.isnan(apart[0].spread()["standard_error"]).all()


@pytest.mark.slow
def test_attention_that_takes_the_mean_has_a_closed_form() -> None:
    """Without queries every token attends to all before it alike, and the MLP writes nothing."""
    torch.manual_seed(0)
    width = 8
    config = GPT2Config(
        vocab_size=len(VOCABULARY), n_positions=24, n_embd=width, n_layer=2, n_head=2
    )
    config.bos_token_id, config.eos_token_id = 1, 0
    hf = GPT2LMHeadModel(config).eval()
    block = hf.transformer.h[1]
    with torch.no_grad():
        block.attn.c_attn.weight.normal_()
        block.attn.c_attn.weight[:, : 2 * width] = 0
        block.attn.c_attn.bias.zero_()
        block.attn.c_proj.weight.normal_()
        block.mlp.c_proj.weight.zero_()
        for parameter in hf.transformer.wte.parameters():
            parameter.normal_()
    model = load_model(hf, tokenizer=build_tokenizer())
    ids = torch.tensor([model.token_ids(PROMPTS[0])])
    lens = fit_jacobian_lens(model, PROMPTS[:1], skip_first=SKIP)
    with torch.no_grad():
        hidden = hf(ids, output_hidden_states=True).hidden_states[1][0]
    ov = block.attn.c_attn.weight[:, 2 * width :] @ block.attn.c_proj.weight
    inside = range(SKIP, ids.shape[1] - 1)
    expected = torch.zeros(width, width)
    for t in inside:
        h = hidden[t] - hidden[t].mean()
        sigma = (h.square().mean() + 1e-5).sqrt()
        centred = torch.eye(width) - 1 / width
        norm = (centred - torch.outer(h, h) / (width * sigma**2)) / sigma
        attended = sum(1 / (later + 1) for later in inside if later >= t)
        expected += torch.eye(width) + attended * ov.detach().T @ norm
    torch.testing.assert_close(lens.J[0], expected / len(inside), rtol=1e-4, atol=1e-5)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_neither_batches_nor_threads_change_the_sum(
    llama: Tiny, lens: JacobianLens, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while an intervention holds the model's lock."""
    push = Intervention.add(torch.ones(D_MODEL), "resid_pre.0", 0.0)
    for budget, change in ((1, push), (1 << 30, None)):
        monkeypatch.setattr("interp.model.memory.memory_budget", lambda _, size=budget: size)
        with applied(llama.model, *([change] if change else [])):
            found = fit_jacobian_lens(llama.model, PROMPTS, skip_first=SKIP)
        for layer, matrix in lens.J.items():
            torch.testing.assert_close(found.J[layer], matrix, rtol=1e-5, atol=1e-5)
        assert torch.get_num_threads() == 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(llama: Tiny, lens: JacobianLens, dtype: torch.dtype) -> None:
    model = load_model(load_hugging_face(llama.folder).to(dtype), tokenizer=build_tokenizer())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fit_jacobian_lens(model, PROMPTS, skip_first=SKIP)
    assert any("rounded to bfloat16" in str(w.message) for w in caught) == (dtype == torch.bfloat16)
    share = 1e-5 if dtype == torch.float64 else 0.05
    for layer, matrix in lens.J.items():
        assert found.J[layer].dtype == torch.float32
        assert float((found.J[layer] - matrix).norm() / matrix.norm()) < share
    read = logit_lens(model, PROMPTS[0], lens=found)
    assert np.isfinite(read["entropy"]).all()


@pytest.mark.slow
def test_readings_are_those_of_the_carried_streams(llama: Tiny, lens: JacobianLens) -> None:
    found = logit_lens(llama.model, PROMPTS, lens=lens)
    assert found.attrs["instrument"] == "Jacobian lens"
    assert list(found["layer"]) == list(range(N_LAYERS + 1))
    norm, head = llama.hf.model.norm, llama.hf.get_output_embeddings()
    ids = llama.ids(PROMPTS[1])
    with torch.no_grad():
        streams = llama.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer, matrix in ((0, lens.embedding), (1, lens.J[0]), (2, lens.J[1])):
            assert matrix is not None
            p = head(norm(streams[layer][0] @ matrix.T)).softmax(-1)
            here = found.isel(example=1, position=slice(len(ids)), k=0).sel(layer=layer)
            np.testing.assert_allclose(here["top_prob"], p.max(-1).values, atol=1e-5)
    last = logit_lens(llama.model, PROMPTS).isel(layer=-1)
    np.testing.assert_array_equal(found["top_token"].isel(layer=-1), last["top_token"])
    np.testing.assert_array_equal(found["kl"].isel(layer=-1, example=0)[:5], 0)


@pytest.mark.slow
def test_layers_without_a_matrix_are_left_out(llama: Tiny, lens: JacobianLens) -> None:
    with torch.inference_mode():
        one = fit_jacobian_lens(
            llama.model, iter(PROMPTS), skip_first=SKIP, layers=[np.int64(1)], embedding=False
        )
    torch.testing.assert_close(one.J[1], lens.J[1], rtol=1e-5, atol=1e-6)
    found = logit_lens(llama.model, PROMPTS, lens=one)
    assert list(found["layer"]) == [2, 3]
    whole = logit_lens(llama.model, PROMPTS, lens=lens).sel(layer=[2, 3])
    np.testing.assert_allclose(found["entropy"], whole["entropy"], atol=1e-4)
    with pytest.raises(ModelError, match="no matrix after 1 blocks"):
        one.translate(1, torch.zeros(D_MODEL))


class StoppedError(Exception):
    pass


@pytest.mark.slow
def test_a_stopped_fit_goes_on_and_ends_alike(
    llama: Tiny, lens: JacobianLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda _model: 1)
    total = len(PROMPTS) * D_MODEL

    def stop(done: int, of: int) -> None:
        assert of == total
        if done >= 2.5 * D_MODEL:
            raise StoppedError

    def fit(prompts: list[str], progress: Any = None) -> JacobianLens:
        return fit_jacobian_lens(
            llama.model, prompts, skip_first=SKIP, folder=tmp_path, progress=progress
        )

    with pytest.raises(StoppedError):
        fit(PROMPTS, stop)
    (state,) = tmp_path.iterdir()
    with pytest.raises(StorageError, match="another folder"):
        fit(PROMPTS[1:])
    seen: list[int] = []
    found = fit(PROMPTS, lambda done, _: seen.append(done))
    assert min(seen) > 2 * D_MODEL
    assert seen == sorted(seen)
    assert seen[-1] == total
    assert [path.name for path in tmp_path.iterdir()] == ["lens.pt"]
    for layer, matrix in lens.J.items():
        torch.testing.assert_close(found.J[layer], matrix, rtol=1e-5, atol=1e-6)
    assert found.metadata["standard_error"] == pytest.approx(lens.metadata["standard_error"])
    kept = fit(PROMPTS, stop)  # finished, it is not fitted again
    assert torch.equal(kept.J[0], found.J[0])
    with pytest.raises(StorageError, match="another folder"):
        fit(PROMPTS[1:])
    (tmp_path / "lens.pt").unlink()
    with pytest.raises(StoppedError):
        fit(PROMPTS, stop)
    whole = state.read_bytes()
    notes = json.loads(
        json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]["fit"]
    )
    sums = load(whole)
    for content in (
        whole[:-9],
        *(
            save(sums, metadata={"fit": json.dumps({**notes, "done": done})})
            for done in (float("inf"), 0, len(PROMPTS) + 1)
        ),
        *(
            save({**sums, **wrong}, metadata={"fit": json.dumps(notes)})
            for wrong in (
                {"squares": sums["squares"] * torch.nan},
                {"total": sums["total"] + 0j},
                {"total": sums["total"].long()},
            )
        ),
    ):
        state.write_bytes(content)
        with pytest.raises(StorageError, match="is damaged; remove it"):
            fit(PROMPTS)


@pytest.mark.slow
def test_a_file_of_text_is_cut_into_prompts(llama: Tiny, tmp_path: Path) -> None:
    words = " ".join(texts(6, seed=1))
    path = tmp_path / "corpus.txt"
    path.write_text(words)
    ours = fit_jacobian_lens(llama.model, path, skip_first=SKIP, context=9)
    pieces = [" ".join(words.split()[i : i + 8]) for i in range(0, len(words.split()), 8)]
    pieces = [piece for piece in pieces if len(piece.split()) > SKIP]
    assert_equal(ours, theirs(llama.model, pieces))


@pytest.mark.slow
def test_the_model_is_left_as_it_was(llama: Tiny) -> None:
    before = torch.get_rng_state()
    points = llama.model.bridge.hook_dict.values()
    fit_jacobian_lens(llama.model, PROMPTS[:1], skip_first=SKIP)
    with pytest.raises(StoppedError):
        fit_jacobian_lens(llama.model, PROMPTS[:1], skip_first=SKIP, progress=_stop)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(point.fwd_hooks for point in points)
    assert not any(p.requires_grad for p in llama.model.bridge.original_model.parameters())


def _stop(_done: int, _total: int) -> None:
    raise StoppedError


@pytest.mark.slow
def test_prompts_that_are_too_short_are_left_out(llama: Tiny, lens: JacobianLens) -> None:
    with pytest.warns(UserWarning, match="2 of 7 prompts have fewer than 5 tokens"):
        found = fit_jacobian_lens(llama.model, [*PROMPTS, "we saw", "Ann"], skip_first=SKIP)
    assert found.n_prompts == len(PROMPTS)
    torch.testing.assert_close(found.J[0], lens.J[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "no prompts"),
        ([""], {"skip_first": 0}, "No prompt has"),
        (["we saw"], {}, "No prompt has the 18 tokens"),
        (PROMPTS, {"skip_first": -1}, "cannot be left out"),
        (PROMPTS, {"context": 25}, "choose a context from 18 to 24"),
        (PROMPTS, {"context": 4}, "choose a context"),
        (PROMPTS, {"layers": []}, "Name one block"),
        (PROMPTS, {"layers": [2]}, "choose from 0 to 1"),
        (PROMPTS, {"layers": [-1]}, "choose from 0 to 1"),
        (PROMPTS, {"tokens": 3, "skip_first": 1}, "No prompt has"),
        (torch.zeros(2, 3), {}, "must be integers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    llama: Tiny, prompts: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        fit_jacobian_lens(llama.model, prompts, **options)


@pytest.mark.slow
def test_a_model_whose_tokens_see_later_ones_is_refused(llama: Tiny) -> None:
    model = load_model(llama.folder)

    def mix(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        mixed = hidden + hidden.mean(1, keepdim=True)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    model.bridge.blocks[1].register_forward_hook(mix)
    with pytest.raises(ModelError, match="needs a causal model"):
        fit_jacobian_lens(model, PROMPTS, skip_first=SKIP)
