"""Patterns are Hugging Face's; scores are sums over them, written out again one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import load_model
from interp.attention.head_detection import (
    detect_heads,
    head_scores,
    repeated_sequences,
    repetition_loss,
)
from interp.attention.patterns import attention_patterns
from interp.errors import ArgumentError, ModelError, PromptError, SiteError
from interp.forward.interventions import Intervention
from interp.model.model import Model
from tests.interp import surgery
from tests.interp.architectures import ARCHITECTURES, D_HEAD, N_HEADS
from tests.interp.circuits import train_induction
from tests.interp.circuits.canvas import N_CTX, Canvas
from tests.interp.circuits.planted import Planted, V, one_hot
from tests.interp.circuits.trained import known_heads, trained_induction
from tests.interp.tiny import N_LAYERS, N_SPECIAL, VOCABULARY, Tiny, build_tokenizer

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then we saw Ann", "so Fay is", "Bo Bo and Cy and Bo"]


def attentions(hf: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """[layer, head, destination, source] of one unpadded prompt."""
    with torch.no_grad():
        found = hf(torch.tensor([ids]), use_cache=False, output_attentions=True).attentions
    return torch.cat(found).double().numpy()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_patterns_are_hugging_faces_and_move_values(name: str) -> None:
    architecture = ARCHITECTURES[name]
    hf, layout = architecture.build(), architecture.layout
    model = load_model(architecture.build(), tokenizer=build_tokenizer())
    found = attention_patterns(model, PROMPTS, weighted=True)
    for example, text in enumerate(PROMPTS):
        ids = model.token_ids(text)
        n = len(ids)
        here = found.isel(example=example)
        pattern = here["pattern"].values[:, :, :n, :n]
        np.testing.assert_allclose(pattern, attentions(hf, ids), atol=1e-5)
        assert np.isnan(here["pattern"].values[:, :, n:]).all()
        assert np.isnan(here["moved"].values[..., n:]).all()
        assert list(here["source_token"].values[-n:]) == list(here["destination_token"].values[-n:])
        for layer in range(architecture.n_layers):
            values = surgery.activation(hf, layout, "v", layer, ids)
            block = hf.get_submodule(layout.blocks)[layer]
            out = block.get_submodule(layout.out_matrix)
            group = N_HEADS // values.shape[1]
            for head in range(N_HEADS):
                # What the output matrix makes of one head's value alone, without its bias.
                alone = torch.zeros(n, N_HEADS * D_HEAD)
                alone[:, head * D_HEAD : (head + 1) * D_HEAD] = values[:, head // group]
                with torch.no_grad():
                    written = out(alone) - out(torch.zeros_like(alone))
                expected = pattern[layer, head] * written.norm(dim=-1).numpy()[None]
                np.testing.assert_allclose(
                    here["moved"].values[layer, head, :n, :n], expected, rtol=1e-3, atol=1e-5
                )


def test_some_layers_are_those_layers(llama: Tiny) -> None:
    whole = attention_patterns(llama.model, PROMPTS, weighted=True)
    some = attention_patterns(llama.model, PROMPTS, layers=[2, 0], weighted=True)
    for name in ("pattern", "moved"):
        np.testing.assert_array_equal(some[name].sel(layer=2), whole[name].sel(layer=2))
    with pytest.raises(SiteError, match="out of range"):
        attention_patterns(llama.model, PROMPTS, layers=[3])


def by_hand(tokens: list[str], pattern: np.ndarray[Any, Any]) -> dict[str, float]:
    """The scores of one head, pair of tokens by pair of tokens."""
    rows: dict[str, list[float]] = {"previous_token": [], "duplicate_token": [], "induction": []}
    for now in range(len(tokens)):
        if now > 0 and tokens[now - 1] != "<bos>":
            rows["previous_token"].append(pattern[now, now - 1])
        before = [j for j in range(now) if tokens[j] == tokens[now]]
        if before:
            rows["duplicate_token"].append(sum(pattern[now, j] for j in before))
        after = [j + 1 for j in before if j + 1 < now]
        if after:
            rows["induction"].append(sum(pattern[now, j] for j in after))
    found = {name: float(np.mean(row)) if row else np.nan for name, row in rows.items()}
    nats = [-sum(p * np.log(p) for p in row if p > 0) for row in pattern[1:]]
    return {**found, "entropy": float(np.mean(nats))}


def test_scores_are_the_sums_they_are_said_to_be(tiny: Tiny) -> None:
    spans = {"who": ["Rome", "Fay", "Cy"], "two": ["and then", "so Fay", "Bo Bo"]}
    found = head_scores(tiny.model, PROMPTS, spans=spans)
    for example, text in enumerate(PROMPTS):
        tokens = [*(["<bos>"] if tiny.bos else []), *text.split()]
        n = len(tokens)
        patterns = attentions(tiny.hf, tiny.ids(text))
        even = by_hand(tokens, np.tri(n) / np.arange(1, n + 1)[:, None])
        for layer in range(N_LAYERS):
            for head in range(tiny.model.n_heads):
                here = found.isel(example=example, layer=layer, head=head)
                for name, value in by_hand(tokens, patterns[layer, head]).items():
                    np.testing.assert_allclose(here[name], value, atol=1e-5, err_msg=name)
                for name, words in spans.items():
                    first = tokens.index(words[example].split()[0])
                    where = range(first, first + len(words[example].split()))
                    share = sum(patterns[layer, head, -1, j] for j in where)
                    np.testing.assert_allclose(here["to_span"].sel(span=name), share, atol=1e-5)
        for name in ("previous_token", "duplicate_token", "induction"):
            np.testing.assert_allclose(
                found[f"{name}_even"][example], even[name], atol=1e-6, err_msg=name
            )
    assert bool(found["induction"].isel(example=1).isnull().all())


def test_scores_little_by_little_are_the_same(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = head_scores(llama.model, PROMPTS, spans={"who": ["Rome", "Fay", "Cy"]})
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    seen: list[tuple[int, int]] = []
    pieces = head_scores(
        llama.model,
        PROMPTS,
        spans={"who": ["Rome", "Fay", "Cy"]},
        progress=lambda *at: seen.append(at),
    )
    for name in whole:
        np.testing.assert_allclose(pieces[name], whole[name], atol=1e-6)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_sequences_are_distinct_tokens_said_twice(llama: Tiny) -> None:
    ids = repeated_sequences(llama.model, 5, 7, seed=3)
    assert ids.shape == (5, 15)
    assert (ids[:, 0] == VOCABULARY.index("<bos>")).all()
    assert torch.equal(ids[:, 1:8], ids[:, 8:])
    assert all(len(set(row.tolist())) == 7 for row in ids[:, 1:8])
    assert int(ids[:, 1:].min()) >= N_SPECIAL
    assert torch.equal(ids, repeated_sequences(llama.model, 5, 7, seed=3))
    assert not torch.equal(ids, repeated_sequences(llama.model, 5, 7, seed=4))
    for n, length in ((0, 5), (3, 1), (3, 12)):
        with pytest.raises(PromptError, match="cannot be made"):
            repeated_sequences(llama.model, n, length)


def positional(canvas: Canvas, layer: int, head: int, back: int) -> None:
    """A head that attends to the token so many places before, or the first, and copies it."""
    at = canvas.at
    canvas.head(
        layer,
        head,
        query=canvas.reads({at("position", p): (max(0, p - back), 15.0) for p in range(N_CTX)}),
        key=canvas.reads({at("position", p): p for p in range(N_CTX)}),
        value=canvas.reads({at("token", i): i for i in range(V)}),
        out=canvas.reads({at("unread", i): i for i in range(V)}).T,
    )


def test_positional_heads_are_no_induction_or_duplicate_token_heads() -> None:
    """Beside a planted induction head and one for duplicates stand heads of each fixed distance."""
    canvas = Canvas.blank(
        "gpt2", {"position": N_CTX, "token": V, "before": V, "unread": V}, n_layers=4
    )
    canvas.embed(one_hot(canvas, "token", V), one_hot(canvas, "position", N_CTX))
    at, reads = canvas.at, canvas.reads
    tokens = {at("token", i): i for i in range(V)}
    before = {at("before", i): i for i in range(V)}
    canvas.head(
        0,
        1,
        query=reads({at("position", p): (max(0, p - 1), 15.0) for p in range(N_CTX)}),
        key=reads({at("position", p): p for p in range(N_CTX)}),
        value=reads(tokens),
        out=reads(before).T,
    )
    query = reads({c: (i, 20.0) for c, i in tokens.items()})
    unread = reads({at("unread", i): i for i in range(V)}).T
    canvas.head(1, 2, query=query, key=reads(before), value=reads(tokens), out=unread)
    # The present token itself is as good a match as an earlier one.
    canvas.head(1, 0, query=query, key=reads(tokens), value=reads(tokens), out=unread)
    distances = {(2, 0): 4, (2, 1): 5, (2, 2): 6, (2, 3): 7, (3, 0): 3, (3, 1): 2}
    for place, back in distances.items():
        positional(canvas, *place, back)
    model = load_model(canvas.hf, tokenizer=build_tokenizer())
    trap = head_scores(model, repeated_sequences(model, 8, 7)).mean("example")
    assert float(trap["induction"][2, 2]) > 0.99
    assert float(trap["duplicate_token"][2, 3]) > 0.99
    found = detect_heads(model, threshold=0.05)
    assert sorted(found["repeated"].values) == sorted([3, 4, 5, 6, 7] * 3 + [7])
    kinds = {
        str(kind): [tuple(at) for at in np.argwhere(found["is_kind"].sel(kind=kind).values)]
        for kind in found["kind"].values
    }
    assert kinds["induction"] == [(1, 2)]
    assert kinds["duplicate_token"] == [(1, 0)]
    assert (0, 1) in kinds["previous_token"]
    means = found.mean("example")
    assert float(means["induction"][1, 2]) > 0.99
    for name in ("induction", "duplicate_token"):
        heads = [float(means[name][place]) for place in distances]
        assert max(heads) <= float(found[f"{name}_offset"]) + 1e-3 < 0.3
    assert float(found["previous_token_offset"]) == pytest.approx(1.0)


def test_too_few_sequences_to_tell_heads_apart_are_refused(llama: Tiny) -> None:
    for n, length in ((3, 8), (16, 4), (16, 12), (0, None)):
        with pytest.raises(PromptError, match="cannot be told apart"):
            detect_heads(llama.model, n=n, length=length)
    with pytest.raises(PromptError, match="share of attention"):
        detect_heads(llama.model, threshold=float("nan"))


@pytest.fixture(scope="module")
def induction() -> tuple[Planted, Model]:
    trained = trained_induction()
    return trained, trained_induction().load()


def test_induction_heads_of_a_trained_model_are_found(induction: tuple[Planted, Model]) -> None:
    """Those that are known by the weights' sizes and Hugging Face's own attentions."""
    trained, model = induction
    found = detect_heads(model, length=11)

    def named(kind: str) -> list[str]:
        here = found["is_kind"].sel(kind=kind).values
        return [f"a{layer}.h{head}" for layer, head in np.argwhere(here)]

    previous, inducing = known_heads(trained.hf)
    assert named("previous_token") == previous
    assert named("induction") == inducing
    assert named("duplicate_token") == []
    # Dead heads that look the right way are told apart by how little they move.
    looks = found["induction"].mean("example").values[1] > 0.4
    assert looks.sum() > len(inducing)


def losses(hf: Any, ids: torch.Tensor) -> np.ndarray[Any, Any]:
    """Of the second to last token of both occurrences, plain Hugging Face."""
    with torch.no_grad():
        table = hf(ids, use_cache=False).logits.log_softmax(-1)
    n = (ids.shape[1] - 1) // 2
    loss = -table[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return torch.stack([loss[:, 1:n].mean(1), loss[:, n + 1 :].mean(1)], 1).double().numpy()


def test_without_its_induction_heads_a_repetition_is_no_easier(
    induction: tuple[Planted, Model],
) -> None:
    trained, model = induction
    ids = repeated_sequences(model, 32, 11, seed=1)
    plain = repetition_loss(model, ids)["loss"].values
    np.testing.assert_allclose(plain, losses(trained.hf, ids), atol=1e-3)
    drop = plain.mean(0)[0] - plain.mean(0)[1]
    assert drop > 5
    found = detect_heads(model, length=11)["is_kind"].sel(kind="induction").values
    heads = [(int(layer), int(head)) for layer, head in np.argwhere(found)]
    others = [
        (layer, head) for layer in range(2) for head in range(4) if (layer, head) not in heads
    ]
    # The previous-token head is a part of the mechanism.
    others.remove((0, 0))
    rng = np.random.default_rng(0)
    for chosen, kept in ((heads, 0.1), ([others[i] for i in rng.permutation(5)[:2]], 0.95)):
        silent = [Intervention.silence(f"z.{layer}.h{head}") for layer, head in chosen]
        silenced = repetition_loss(model, ids, interventions=silent)["loss"].values
        hf = train_induction.load()
        for layer, head in chosen:
            out = hf.model.layers[layer].self_attn.o_proj.weight.data
            out.unflatten(1, (train_induction.N_HEADS, -1))[:, head] = 0.0
        np.testing.assert_allclose(silenced, losses(hf, ids), atol=1e-3)
        left = (silenced.mean(0)[0] - silenced.mean(0)[1]) / drop
        assert left < kept if chosen is heads else left > kept


@pytest.mark.shared
def test_heads_of_a_model_of_stories(shared: Any) -> None:
    """Its scores are those of Hugging Face's attentions; it has previous-token heads."""
    from transformers import AutoModelForCausalLM

    folder = shared / "models" / "stories260K"
    model = load_model(folder)
    hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    texts = ["Once upon a time there was a little girl. Once upon a time", "The dog saw the cat."]
    found = head_scores(model, texts)
    for example, text in enumerate(texts):
        ids = model.token_ids(text)
        names = ["<bos>", *(str(i) for i in ids[1:])]
        patterns = attentions(hf, ids)
        for layer in range(model.n_layers):
            for head in range(model.n_heads):
                here = found.isel(example=example, layer=layer, head=head)
                for name, value in by_hand(names, patterns[layer, head]).items():
                    np.testing.assert_allclose(here[name], value, atol=1e-4, err_msg=name)
    detected = detect_heads(model, n=8)
    best = detected["previous_token"].mean("example")
    assert float(best.max()) > 0.7 > 10 * float(detected["previous_token_even"].mean())
    assert bool(detected["is_kind"].sel(kind="previous_token").any())


@pytest.mark.parametrize(
    ("prompts", "spans", "message"),
    [
        ([], None, "no prompts"),
        (["we saw", ""], None, "empty"),
        (["we saw"], {"who": ["Ann"]}, "not in the prompt"),
        (["we saw Ann Ann"], {"who": ["Ann"]}, "stands 2 times"),
        (["we saw Ann"], {"who": []}, "each of the 1"),
        (["we saw Ann"], {"who": "Ann"}, "whose values are each a list"),
        (torch.tensor([[5, 6]]), {"who": ["Ann"]}, "token ids"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    llama: Tiny, prompts: Any, spans: Any, message: str
) -> None:
    with pytest.raises((PromptError, ArgumentError), match=message):
        head_scores(llama.model, prompts, spans=spans)


def test_heads_that_do_more_than_weigh_values_are_refused(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = llama.model.bridge.hook_dict["blocks.1.attn.hook_z"]
    handle = point.add_hook(lambda value, hook: value + 1)
    try:
        with pytest.raises(ModelError, match="cannot be weighted"):
            attention_patterns(llama.model, PROMPTS, weighted=True)
    finally:
        handle.hook.remove()
        point.fwd_hooks = []
    with pytest.raises(PromptError, match="said twice"):
        repetition_loss(llama.model, torch.tensor([[1, 5, 6, 7, 8]]))
