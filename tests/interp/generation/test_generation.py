"""Generation is Hugging Face's own, token by token; sampling depends on seed and prompt alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from interp import Model, load_model
from interp.errors import DirectionError, PromptError, SiteError
from interp.forward.interventions import Intervention
from interp.forward.source import is_hooked
from interp.generation.sampling import Dice, Sampling
from interp.generation.stream import end_tokens, generate, stream
from tests.interp import reference, surgery
from tests.interp.architectures import ARCHITECTURES, D_MODEL
from tests.interp.tiny import N_CTX, VOCABULARY, Tiny, build_tokenizer

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is near home and"]
N_NEW = 9


def written(generation: Any, example: int) -> list[int]:
    row = generation.tokens["id"].values[example]
    return [int(i) for i in row if i >= 0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_text_is_hugging_faces(name: str) -> None:
    """With prompts of unequal length at once here, and alone with a cache of keys there."""
    hf = ARCHITECTURES[name].build()
    model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
    found = generate(model, PROMPTS, max_new_tokens=N_NEW)
    for example, text in enumerate(PROMPTS):
        ids = torch.tensor([model.token_ids(text)])
        theirs = hf.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=N_NEW, do_sample=False
        )[0, ids.shape[1] :].tolist()
        assert written(found, example) == theirs
        assert found.tokens["ended"].values[example] == ("eos" if theirs[-1] == 2 else "length")
        logprobs = surgery.logits(hf, [*ids[0].tolist(), *theirs]).log_softmax(-1)
        expected = [
            float(logprobs[ids.shape[1] - 1 + step, token]) for step, token in enumerate(theirs)
        ]
        np.testing.assert_allclose(
            found.tokens["logprob"].values[example, : len(theirs)], expected, atol=1e-4
        )


def test_texts_end_at_the_end_of_sequence(llama: Tiny) -> None:
    greedy = generate(llama.model, PROMPTS, max_new_tokens=6, stop_at_eos=False)
    assert greedy.tokens["n_tokens"].values.tolist() == [6, 6, 6]
    # Let the third token of the second text be the one that ends texts.
    config = llama.model.bridge.original_model.generation_config
    before, end = config.eos_token_id, written(greedy, 1)[2]
    config.eos_token_id = [end]
    try:
        assert end_tokens(llama.model) == {end}
        found = generate(llama.model, PROMPTS, max_new_tokens=6, sites="resid_post.1")
    finally:
        config.eos_token_id = before
    for example in range(3):
        whole = written(greedy, example)
        n = whole.index(end) + 1 if end in whole else 6
        assert written(found, example) == whole[:n]
        assert found.tokens["n_tokens"].values[example] == n
        assert bool(found.tokens["logprob"][example, n:].isnull().all())
        assert found.activations["resid_post.1"][example, n:].isnan().all()
        assert found.activations["resid_post.1"][example, :n].isfinite().all()
    assert written(found, 1)[-1] == end
    assert found.tokens["ended"].values[1] == "eos"


def test_a_stream_gives_the_text_piece_by_piece(tiny: Tiny) -> None:
    whole = generate(tiny.model, PROMPTS, max_new_tokens=5, stop_at_eos=False)
    texts = [""] * 3
    for index, step in enumerate(stream(tiny.model, PROMPTS, max_new_tokens=5, stop_at_eos=False)):
        assert step.index == index
        assert step.examples == (0, 1, 2)
        for example, text in enumerate(step.texts):
            texts[example] += text
        # Between two steps the model belongs to anybody.
        assert not is_hooked(tiny.model)
        assert tiny.model.lock.acquire(blocking=False)
        tiny.model.lock.release()
    assert tuple(texts) == whole.texts
    for example, prompt in enumerate(PROMPTS):
        words = [VOCABULARY[i] for i in written(whole, example)]
        visible = [word for word in words if not word.startswith("<")]
        assert (prompt + whole.texts[example]).split() == prompt.split() + visible


def test_characters_of_several_tokens_are_held_back(llama: Tiny) -> None:
    """A tokenizer of bytes: é takes two tokens."""
    from interp.generation.writing import Text

    class Bytes:
        def decode(self, ids: list[int]) -> str:
            return bytes(ids).decode("utf-8", errors="replace")

    model: Any = Bytes()
    text = Text(model, list(b"caf"))
    first, second = "é".encode()
    assert text.add(first, finished=False) == ""
    assert text.add(second, finished=False) == "é"
    assert text.add(first, finished=True) == "\ufffd"


def test_activations_are_those_from_which_each_token_came(tiny: Tiny) -> None:
    sites = ["resid_post.1", "z.2.h1", "k.0"]
    found = generate(tiny.model, PROMPTS, max_new_tokens=4, sites=sites, stop_at_eos=False)
    for example, text in enumerate(PROMPTS):
        ids = [*tiny.ids(text), *written(found, example)]
        for site in sites:
            name, layer, *head = site.split(".")
            expected = reference.activation(tiny, tuple(ids), name, int(layer))
            expected = expected[:, int(head[0][1:])] if head else expected
            start = len(tiny.ids(text)) - 1
            torch.testing.assert_close(
                found.activations[site][example], expected[start : start + 4], rtol=0, atol=2e-5
            )


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "last"])
def test_interventions_act_on_read_and_written_tokens_alike(tiny: Tiny, positions: Any) -> None:
    direction = 4 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    change = Intervention.add(direction, "resid_post.1", positions=positions)
    found = generate(tiny.model, PROMPTS, max_new_tokens=4, interventions=change, stop_at_eos=False)
    plain = generate(tiny.model, PROMPTS, max_new_tokens=4, stop_at_eos=False)
    for example, text in enumerate(PROMPTS):
        ids = tiny.ids(text)
        n = len(ids)
        at = {
            "all": slice(None),
            "prompt": slice(n),
            "generated": slice(n, None),
            "last": slice(n - 1, n),
        }[positions]

        def edit(value: torch.Tensor, at: slice = at) -> None:
            value[at] += direction

        for _ in range(4):
            with reference.intervened(tiny, "resid_post", 1, edit):
                ids.append(int(reference.logits(tiny, ids)[-1].argmax()))
        assert written(found, example) == ids[n:]
    assert [written(found, i) for i in range(3)] != [written(plain, i) for i in range(3)]


def sampled(model: Model, prompts: list[str], seed: int = 0, **options: Any) -> list[list[int]]:
    sampling = Sampling(seed=seed, **options)
    found = generate(model, prompts, max_new_tokens=6, sampling=sampling, stop_at_eos=False)
    return [written(found, i) for i in range(len(prompts))]


def test_the_same_seed_gives_the_same_text_in_any_batch(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = sampled(llama.model, PROMPTS, temperature=3.0)
    assert together == sampled(llama.model, PROMPTS, temperature=3.0)
    assert [sampled(llama.model, [p], temperature=3.0)[0] for p in PROMPTS] == together
    assert sampled(llama.model, PROMPTS[::-1], temperature=3.0) == together[::-1]
    assert sampled(llama.model, PROMPTS, seed=1, temperature=3.0) != together
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    assert sampled(llama.model, PROMPTS, temperature=3.0) == together


def test_a_prompt_given_twice_is_answered_twice(llama: Tiny) -> None:
    one, two = sampled(llama.model, [PROMPTS[0]] * 2, temperature=3.0)
    assert one != two
    assert one == sampled(llama.model, PROMPTS[:1], temperature=3.0)[0]


def test_draws_have_the_models_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    n = 4000
    sampling = Sampling(temperature=0.7)
    dice = Dice(sampling, [[1]] * n)
    counts = torch.bincount(dice.draw(logits.expand(n, -1), range(n)), minlength=4)
    expected = (logits / 0.7).softmax(-1) * n
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 16.3  # p = .001 with 3 degrees of freedom


@pytest.mark.parametrize(
    "settings", [{"top_k": 5}, {"top_p": 0.6}, {"top_k": 12, "top_p": 0.8}, {"top_p": 1e-9}]
)
def test_what_can_be_drawn_is_what_hugging_face_leaves(settings: dict[str, Any]) -> None:
    logits = 3 * torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    scores = TemperatureLogitsWarper(1.7)(None, logits)
    if "top_k" in settings:
        scores = TopKLogitsWarper(settings["top_k"])(None, scores)
    if "top_p" in settings:
        scores = TopPLogitsWarper(settings["top_p"])(None, scores)
    found = Sampling(temperature=1.7, **settings).allowed(logits)
    assert torch.equal(found, torch.isfinite(scores))
    drawn = Dice(Sampling(temperature=1.7, **settings), [[i] for i in range(50)])
    chosen = drawn.draw(logits, range(50))
    assert bool(found.gather(1, chosen[:, None]).all())


def test_a_context_can_be_filled_to_the_brim(llama: Tiny) -> None:
    n = len(llama.ids(PROMPTS[0]))
    room = N_CTX - n + 1
    found = generate(llama.model, PROMPTS[:1], max_new_tokens=room, stop_at_eos=False)
    assert found.tokens["n_tokens"].values.tolist() == [room]
    with pytest.raises(PromptError, match=f"ask for at most {room}"):
        generate(llama.model, PROMPTS[:1], max_new_tokens=room + 1)


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([], {}, PromptError, "no prompts"),
        (["so Fay is", ""], {}, PromptError, "empty"),
        (["so"], {"max_new_tokens": 0}, PromptError, "1 or more"),
        (["so"], {"sites": "pattern"}, SiteError, "grow"),
        (["so"], {"sites": "z.9"}, SiteError, "out of range"),
        (
            ["so"],
            {"interventions": Intervention.add(torch.ones(3), "z.0.h0")},
            DirectionError,
            "fit",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    llama: Tiny, prompts: list[str], options: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        stream(llama.model, prompts, **{"max_new_tokens": 2, **options})


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}],
)
def test_senseless_sampling_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(PromptError):
        Sampling(**settings)
