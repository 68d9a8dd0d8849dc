"""The tuned lens recovers what was planted, and reads through the plain modules' own arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from cache import ActivationStore
from interp import TunedLens, load_model, logit_lens, train_tuned_lens
from interp.errors import ModelError, PromptError, StorageError
from interp.model.model import Model
from tests.interp import reference
from tests.interp.lens.test_lens import log_softmax
from tests.interp.tiny import N_LAYERS, VOCABULARY, Tiny, build_tokenizer
from tests.interp.tracking import PeakMemory

pytestmark = pytest.mark.slow

WIDTH = 8
SHORT: dict[str, Any] = {"context": 12, "steps": 40, "batch_tokens": 64}


def corpus(n: int, seed: int = 0) -> list[str]:
    """Documents of random words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(VOCABULARY[3:], 11)) for _ in range(n)]


def planted() -> tuple[Model, torch.Tensor, torch.Tensor]:
    """A model of one block that maps every embedding e to e @ A + b, exactly.

    All embeddings have mean 0 and one length, so that the norm before the MLP only scales them,
    and its neurons come in pairs relu(x) − relu(−x) = x; attention writes nothing.
    """
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(VOCABULARY),
            n_positions=24,
            n_embd=WIDTH,
            n_layer=1,
            n_head=2,
            n_inner=2 * WIDTH,
            activation_function="relu",
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=0,
        )
    ).eval()
    block, eye = hf.transformer.h[0], torch.eye(WIDTH)
    with torch.no_grad():
        e = torch.randn(len(VOCABULARY), WIDTH)
        e -= e.mean(1, keepdim=True)
        e *= WIDTH**0.5 / e.norm(dim=1, keepdim=True)
        hf.transformer.wte.weight.copy_(e)
        hf.lm_head.weight.normal_(0, 1)
        for parameter in (hf.transformer.wpe.weight, *block.attn.c_proj.parameters()):
            parameter.zero_()
        block.mlp.c_fc.weight.copy_(torch.cat([eye, -eye], 1))
        block.mlp.c_fc.bias.zero_()
        m, b = 0.5 * torch.randn(WIDTH, WIDTH), 0.5 * torch.randn(WIDTH)
        block.mlp.c_proj.weight.copy_(torch.cat([m, -m]))
        block.mlp.c_proj.bias.copy_(b)
    return load_model(hf, tokenizer=build_tokenizer()), eye + m, b


def test_a_planted_affine_map_is_recovered() -> None:
    model, matrix, bias = planted()
    lens = train_tuned_lens(model, corpus(200), context=12, steps=600, batch_tokens=256)
    assert lens.logit_kl[0] > 1
    assert lens.tuned_kl[0] < 0.005
    # The final norm takes away the mean and the scale, so that these cannot be known.
    centre = torch.eye(WIDTH) - 1 / WIDTH
    expected = torch.cat([centre @ matrix @ centre, (bias @ centre)[None]])
    found = torch.cat([centre @ (torch.eye(WIDTH) + lens.weight[0]) @ centre, (lens.bias @ centre)])
    scale = float((found * expected).sum() / expected.square().sum())
    assert float((found / scale - expected).norm() / expected.norm()) < 0.05


def by_hand(tiny: Tiny, lens: TunedLens, text: str) -> np.ndarray[Any, Any]:
    """Logits [layer, position, vocabulary] of Hugging Face's streams, translated."""
    ids = tuple(tiny.ids(text))
    streams = [reference.activation(tiny, ids, "resid_pre", layer) for layer in range(N_LAYERS)]
    streams = [h + h @ w + b for h, w, b in zip(streams, lens.weight, lens.bias, strict=True)]
    streams.append(reference.activation(tiny, ids, "resid_post", N_LAYERS - 1))
    norm, head = tiny.hf.model.norm, tiny.hf.get_output_embeddings()
    with torch.no_grad():
        return torch.stack([head(norm(stream)) for stream in streams]).double().numpy()


@pytest.fixture(scope="module")
def lens(llama: Tiny) -> TunedLens:
    return train_tuned_lens(llama.model, corpus(120), **SHORT)


def test_readings_are_those_of_the_translated_streams(llama: Tiny, lens: TunedLens) -> None:
    text = "we saw Ann near Rome and then"
    found = logit_lens(llama.model, text, lens=lens)
    table = log_softmax(by_hand(llama, lens, text))
    np.testing.assert_allclose(found["entropy"][0], -(np.exp(table) * table).sum(-1), atol=1e-4)
    kl = (np.exp(table[-1]) * (table[-1] - table)).sum(-1)
    np.testing.assert_allclose(found["kl"][0], kl, atol=1e-4)
    assert found.attrs["instrument"] == "tuned lens"
    plain = logit_lens(llama.model, text)
    assert not np.allclose(plain["kl"][0, :-1], found["kl"][0, :-1], atol=1e-2)


def test_the_noted_kl_is_that_of_the_lens_on_held_out_text(llama: Tiny) -> None:
    """With all rows alike, the held-out ones are the others."""
    rows = [VOCABULARY.index(word) for word in ("Ann", "Bo", "we", "saw")]
    texts = [" ".join(VOCABULARY[i] for i in np.roll(rows, n)) for n in range(4)]
    lens = train_tuned_lens(llama.model, texts, held_out=0.5, **{**SHORT, "steps": 3})
    both = [
        {text: logit_lens(llama.model, text, lens=one)["kl"].values[0, :-1] for text in texts}
        for one in (None, lens)
    ]
    for noted, found in zip((lens.logit_kl, lens.tuned_kl), both, strict=True):
        means = [
            np.concatenate([found[a], found[b]], axis=1).mean(1)
            for i, a in enumerate(texts)
            for b in texts[i + 1 :]
        ]
        assert any(np.allclose(noted, mean, atol=1e-4) for mean in means)


def test_it_is_better_than_the_logit_lens_on_text_that_it_has_not_seen(
    llama: Tiny, lens: TunedLens
) -> None:
    texts = corpus(40, seed=1)
    plain = logit_lens(llama.model, texts)["kl"].mean(("example", "position"))
    tuned = logit_lens(llama.model, texts, lens=lens)["kl"].mean(("example", "position"))
    assert (tuned[:-1] < 0.8 * plain[:-1]).all()


def test_the_same_arguments_give_the_same_lens_and_another_seed_another(
    llama: Tiny, lens: TunedLens
) -> None:
    again = train_tuned_lens(llama.model, corpus(120), **SHORT)
    assert torch.equal(again.weight, lens.weight)
    assert torch.equal(again.bias, lens.bias)
    other = train_tuned_lens(llama.model, corpus(120), seed=1, **SHORT)
    assert not torch.allclose(other.weight, lens.weight, atol=1e-4)


def test_activations_of_a_store_give_the_same_lens(
    llama: Tiny, lens: TunedLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.harvest import harvest

    store = ActivationStore(tmp_path)
    harvest(llama.model, corpus(120), ["resid_pre.0", "resid_post"], store, context=12)
    monkeypatch.setattr("interp.lens.training.capture", None)
    monkeypatch.setattr("interp.forward.source.observe", None)
    stored = train_tuned_lens(llama.model, corpus(120), store=store, **SHORT)
    np.testing.assert_allclose(stored.weight, lens.weight, atol=1e-3)


class StoppedError(Exception):
    pass


def test_a_stopped_training_goes_on_and_ends_alike(
    llama: Tiny, lens: TunedLens, tmp_path: Path
) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 25:
            raise StoppedError

    seen: list[int] = []
    with pytest.raises(StoppedError):
        train_tuned_lens(llama.model, corpus(120), folder=tmp_path, progress=stop, **SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]
    with pytest.raises(StorageError, match="another folder"):
        train_tuned_lens(llama.model, corpus(121), folder=tmp_path, **SHORT)

    def note(done: int, total: int) -> None:
        assert total == SHORT["steps"]
        seen.append(done)

    found = train_tuned_lens(llama.model, corpus(120), folder=tmp_path, progress=note, **SHORT)
    assert seen == list(range(25, 41))
    np.testing.assert_allclose(found.weight, lens.weight, atol=1e-6)
    assert found.logit_kl == pytest.approx(lens.logit_kl)
    assert found.tuned_kl == pytest.approx(lens.tuned_kl)
    # Finished, it is not trained again.
    kept = train_tuned_lens(llama.model, corpus(120), folder=tmp_path, progress=stop, **SHORT)
    assert torch.equal(kept.weight, found.weight)


def test_training_ends_early_where_nothing_is_left_to_learn() -> None:
    """A model whose block adds nothing is read perfectly by the logit lens."""
    model, _, _ = planted()
    with torch.no_grad():
        for parameter in model.bridge.original_model.transformer.h[0].mlp.parameters():
            parameter.zero_()
    seen: list[tuple[int, int]] = []
    lens = train_tuned_lens(
        model, corpus(20), context=12, steps=200, patience=2, progress=lambda *at: seen.append(at)
    )
    assert len(seen) < 40
    assert seen[-1] == (200, 200)
    assert lens.tuned_kl[0] < 1e-5
    assert float(lens.weight.abs().max()) == 0


def test_a_saved_lens_is_read_again_and_refused_by_another_model(
    llama: Tiny, gpt2: Tiny, lens: TunedLens, tmp_path: Path
) -> None:
    lens.save(tmp_path)
    lens.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    found = TunedLens.load(tmp_path, llama.model)
    assert torch.equal(found.weight, lens.weight)
    assert torch.equal(found.bias, lens.bias)
    assert (found.identity, found.settings) == (lens.identity, lens.settings)
    assert (found.logit_kl, found.tuned_kl) == (lens.logit_kl, lens.tuned_kl)
    for use in (
        lambda: TunedLens.load(tmp_path, gpt2.model),
        lambda: logit_lens(gpt2.model, "we saw", lens=lens),
    ):
        with pytest.raises(ModelError, match=r"belongs to the model 'llama'.*load that model"):
            use()


def _cut(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4])


def _flip(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "lens.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "damaged"),
        (_flip, "damaged"),
        (lambda folder: next(folder.glob("*.safetensors")).unlink(), "does not exist"),
        (lambda folder: (folder / "lens.json").unlink(), "does not exist"),
        (lambda folder: (folder / "lens.json").write_text("{"), "does not describe"),
        (_edit(version=2), "does not describe"),
        (_edit(identity=None), "does not describe"),
        (_edit(tuned_kl=3), "does not describe"),
        (_edit(tensors="../other.safetensors"), "does not exist"),
    ],
)
def test_a_damaged_lens_is_refused(
    llama: Tiny, lens: TunedLens, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    lens.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(StorageError, match=message):
        TunedLens.load(tmp_path, llama.model)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no text"),
        (["we saw Ann"], {}, "single row"),
        (corpus(2), {"steps": 0}, "steps must be at least 1"),
        (corpus(2), {"patience": 0}, "patience must be"),
        (corpus(2), {"batch_tokens": 0}, "batch_tokens must be"),
        (corpus(2), {"held_out": 1.0}, "between 0 and 1"),
        (corpus(2), {"held_out": float("nan")}, "between 0 and 1"),
        (corpus(2), {"learning_rate": 0.0}, "above 0"),
        (corpus(2), {"context": 1}, "context"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    llama: Tiny, texts: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        train_tuned_lens(llama.model, texts, **options)


def test_layer_by_position_by_vocabulary_is_never_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model of a large vocabulary, of which the logits of all layers and positions are 63 MB."""
    torch.manual_seed(0)
    settings = {"vocab_size": 50_000, "n_positions": 64, "n_embd": 8, "n_layer": 4, "n_head": 2}
    hf = GPT2LMHeadModel(GPT2Config(**settings, bos_token_id=1, eos_token_id=0))
    model = load_model(hf, tokenizer=build_tokenizer())
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda _model: 8 << 20)
    ids = torch.randint(3, len(VOCABULARY), (1, 63))
    memory = PeakMemory()
    with memory:  # the first run compares all logits, as does the first one that is watched
        logit_lens(model, ids[:, :2])
    memory.peak = 0
    with memory:
        logit_lens(model, ids, ids[:, :3])
    assert 1 << 20 < memory.peak < 10 << 20
    texts = [" ".join(VOCABULARY[i] for i in row) for row in ids.reshape(9, 7).tolist()]
    memory.peak = 0
    with memory:
        train_tuned_lens(model, texts, steps=2, batch_tokens=64)
    assert 1 << 20 < memory.peak < 10 << 20


@pytest.mark.shared
def test_stories_are_read_better_at_every_layer(shared: Path) -> None:
    model = load_model(shared / "models" / "stories260K")
    text = (shared / "data" / "text" / "wikitext2_valid.txt").read_text()
    lens = train_tuned_lens(model, [text[:200_000]], tokens=8_000, steps=30)
    unseen = [text[i : i + 400] for i in range(600_000, 610_000, 1_000)]
    plain = logit_lens(model, unseen, k=1)["kl"].mean(("example", "position"))
    tuned = logit_lens(model, unseen, k=1, lens=lens)["kl"].mean(("example", "position"))
    assert (tuned[:-1] < 0.6 * plain[:-1]).all()
