"""With keys and values kept, what is written is what whole passes write, and each step is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from interp import Intervention, Model, Sampling, generate, load_model, stream
from interp.forward.interventions import applied
from interp.forward.past import Past
from interp.generation.logits import predict
from interp.generation.stream import Generation
from interp.generation.writing import Text
from interp.sites import shape_at
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import VOCABULARY, Tiny, build_tokenizer

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is near home and"]
N_NEW = 6
# Windows shorter than the text (Mistral, Qwen2, both Gemmas), grouped keys, parallel blocks,
# position biases, positions that are looked up.
KEPT = ("GPT-2", "Llama", "GPT-NeoX", "Gemma 2", "Gemma 3", "Mistral", "Qwen2", "OPT", "BLOOM")
Spy = list[int]


def longest(model: Model) -> int:
    return max(len(model.token_ids(prompt)) for prompt in PROMPTS)


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """How many tokens of each text the passes have run, in order."""
    seen: Spy = []

    def seeing(model: Model, ids: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(ids.shape[1])
        return predict(model, ids, *args, **options)

    monkeypatch.setattr("interp.generation.reading.predict", seeing)
    return seen


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Generation]:
    """Writes with whole passes."""

    def written(*args: Any, **options: Any) -> Generation:
        with monkeypatch.context() as patched:
            patched.setattr("interp.generation.reading.is_hooked", lambda model: True)
            return generate(*args, **options)

    return written


def model_of(name: str, **changed: Any) -> Model:
    architecture = ARCHITECTURES[name]
    if changed:
        settings = {**architecture.settings, **changed}
        architecture = type(architecture)(
            architecture.family, settings, config=architecture.config, model=architecture.model
        )
    return load_model(architecture.build(), tokenizer=build_tokenizer())


def check_same(one: Generation, two: Generation) -> None:
    assert one.texts == two.texts
    np.testing.assert_array_equal(one.tokens["id"], two.tokens["id"])
    np.testing.assert_array_equal(one.tokens["token"], two.tokens["token"])
    np.testing.assert_allclose(one.tokens["logprob"], two.tokens["logprob"], atol=2e-4)
    for name, value in one.activations.items():
        other = two.activations[name]
        scale = float(other[other.isfinite()].abs().max())
        torch.testing.assert_close(value, other, rtol=0, atol=5e-5 * scale, equal_nan=True)


def interventions(model: Model) -> Iterator[Intervention]:
    """One at each site that can be changed, each at other positions."""
    far = torch.zeros(3, 12, dtype=torch.bool)  # reaches into what is written
    far[:, [1, 5, 9, 10, 11]] = True
    positions = ["all", "generated", "last", "prompt", [0, -2], far]
    generator = torch.Generator().manual_seed(0)
    layer = model.n_layers - 1
    for number, name in enumerate(["resid_pre", "k", "v", "z", "q", "mlp_out", "attn_out"]):
        vectors = torch.randn(3, *shape_at(model, name), generator=generator)
        where = positions[number % len(positions)]
        yield Intervention.replace(vectors, f"{name}.{layer}", positions=where)
        where = positions[(number + 2) % len(positions)]
        yield Intervention.add(3 * vectors[0], f"{name}.{layer - 1}", positions=where)


@pytest.mark.parametrize("name", KEPT)
def test_each_step_runs_one_token_and_gives_the_numbers_of_whole_passes(
    name: str, widths: Spy, whole: Callable[..., Generation]
) -> None:
    """Against Hugging Face's `generate`: `test_generation`."""
    model = model_of(name)
    sites = ["resid_post", "k.0", "v.1", "z.1.h2", "mlp_out"]
    options: dict[str, Any] = {"max_new_tokens": N_NEW, "sites": sites, "stop_at_eos": False}
    generate(model, PROMPTS, **options)  # tries the model
    plain = whole(model, PROMPTS, **options)
    seen = {plain.tokens["logprob"].values.tobytes()}
    widths.clear()
    check_same(generate(model, PROMPTS, **options), plain)
    assert widths == [longest(model), *[1] * (N_NEW - 1)]
    changes = list(interventions(model))
    for several in (changes[:5], changes[5:10], changes[10:]):
        widths.clear()
        found = generate(model, PROMPTS, interventions=several, **options)
        assert widths == [longest(model), *[1] * (N_NEW - 1)]
        check_same(found, whole(model, PROMPTS, interventions=several, **options))
        seen.add(found.tokens["logprob"].values.tobytes())
    assert len(seen) == 4  # the changes count


@pytest.mark.parametrize("name", ["Llama", "Gemma 2"])
def test_silenced_patterns_and_streams_inside_of_blocks(
    name: str, widths: Spy, whole: Callable[..., Generation]
) -> None:
    """Sites whose hook sees another shape with keys kept, or is edited in place."""
    model = model_of(name)
    for change in (
        Intervention.silence("pattern.1.h2", positions="generated"),
        Intervention.silence("pattern.0"),
        Intervention.silence("resid_mid.1", positions="last"),
        Intervention.add(torch.ones(32), "resid_mid.0", 2.0),
        Intervention.silence("mlp_act.1"),
    ):
        options: dict[str, Any] = {"interventions": change, "stop_at_eos": False}
        generate(model, PROMPTS, max_new_tokens=2, **options)
        widths.clear()
        found = generate(model, PROMPTS, max_new_tokens=N_NEW, **options)
        assert widths == [longest(model), *[1] * (N_NEW - 1)]
        check_same(found, whole(model, PROMPTS, max_new_tokens=N_NEW, **options))


@pytest.mark.parametrize("name", ["GPT-2", "Mistral", "BLOOM"])
def test_texts_that_end_early_leave_the_others_as_they_are(name: str) -> None:
    model = model_of(name)
    endless = generate(model, PROMPTS, max_new_tokens=8, stop_at_eos=False)
    ids = endless.tokens["id"].values
    config = model.bridge.original_model.generation_config
    for end in {int(ids[0, 1]), int(ids[1, 2]), int(ids[2, 4])}:
        config.eos_token_id = end
        together = generate(model, PROMPTS, max_new_tokens=8, sites="resid_post.1")
        for example, prompt in enumerate(PROMPTS):
            alone = generate(model, [prompt], max_new_tokens=8, sites="resid_post.1")
            n = int(alone.tokens["n_tokens"][0])
            stops = [*np.flatnonzero(ids[example] == end).tolist(), 7]
            assert n == stops[0] + 1
            written = together.tokens["id"].values[example, :n]
            np.testing.assert_array_equal(written, alone.tokens["id"].values[0])
            torch.testing.assert_close(
                together.activations["resid_post.1"][example, :n],
                alone.activations["resid_post.1"][0],
                rtol=1e-4,
                atol=1e-4,
            )


def test_hooks_of_others_see_whole_texts(llama: Tiny, widths: Spy) -> None:
    """Nobody knows whether a hook can do with one token what it does with all."""
    model = llama.model

    def hook(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, 2] = -value[:, 2]  # a place in the text, and one that a single token lacks
        return value

    model.bridge.blocks[0].hook_out.add_hook(hook)
    try:
        found = generate(model, PROMPTS, max_new_tokens=4, stop_at_eos=False)
    finally:
        model.bridge.blocks[0].hook_out.remove_hooks()
    assert widths == [10, 11, 12, 13]
    with Turned(llama):
        for example, text in enumerate(PROMPTS):
            ids = llama.ids(text)
            for _ in range(4):
                with torch.no_grad():
                    ids.append(int(llama.hf(torch.tensor([ids])).logits[0, -1].argmax()))
            expected = found.tokens["id"].values[example].tolist()
            assert ids[-4:] == expected
    steer = Intervention.add(torch.ones(32), "resid_post.0", 3.0, positions=[1])
    with applied(model, steer):
        inside = generate(model, PROMPTS, max_new_tokens=4, stop_at_eos=False)
    options: dict[str, Any] = {"interventions": steer, "stop_at_eos": False}
    check_same(inside, generate(model, PROMPTS, max_new_tokens=4, **options))


class Turned:
    """Hugging Face's model with the third token's stream after block 0 turned round."""

    def __init__(self, llama: Tiny) -> None:
        self._block = llama.hf.model.layers[0]

    def __enter__(self) -> None:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            value = (output[0] if isinstance(output, tuple) else output).clone()
            value[:, 2] = -value[:, 2]
            return (value, *output[1:]) if isinstance(output, tuple) else value

        self._handle = self._block.register_forward_hook(hook)

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()


def test_a_model_that_changes_between_two_steps_reads_everything_again(
    widths: Spy, whole: Callable[..., Generation]
) -> None:
    model = model_of("Llama")
    weight = model.bridge.original_model.model.layers[0].mlp.down_proj
    weight = getattr(weight, "original_component", weight).weight
    written: list[list[int]] = [[], [], []]
    for step in stream(model, PROMPTS, max_new_tokens=5, stop_at_eos=False):
        for example, token in zip(step.examples, step.ids.tolist(), strict=True):
            written[example].append(token)
        if step.index == 1:
            with torch.no_grad():
                weight.neg_()
            widths.clear()
    # The prompts and what was written, then a trial of the model as it is now, and single tokens.
    assert widths[-3:] == [12, 1, 1]
    texts = [[*model.token_ids(p), *ids[:2]] for p, ids in zip(PROMPTS, written, strict=True)]
    for ids, all_of_it in zip(texts, written, strict=True):
        rest = whole(model, torch.tensor([ids]), max_new_tokens=3, stop_at_eos=False)
        assert rest.tokens["id"].values[0].tolist() == all_of_it[2:]


class Forgetful(DynamicCache):
    """A cache whose second layer hands back the new keys only, as a wrapper might that drops it."""

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any) -> tuple[Tensor, Tensor]:
        found = super().update(keys, values, layer, *args)
        return (keys, values) if layer == 1 else found


def test_a_model_that_drops_what_is_kept_is_run_whole(
    monkeypatch: pytest.MonkeyPatch, widths: Spy
) -> None:
    model = model_of("GPT-2")
    expected = generate(model, PROMPTS, max_new_tokens=4, stop_at_eos=False)
    monkeypatch.setattr("interp.forward.past.DynamicCache", Forgetful)
    other = model_of("GPT-2")
    check_same(generate(other, PROMPTS, max_new_tokens=4, stop_at_eos=False), expected)
    assert widths[-4:] == [10, 11, 12, 13]


def test_rotations_that_depend_on_the_length_are_run_whole(widths: Spy) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = model_of("Llama", rope_parameters=rope)
    generate(model, PROMPTS, max_new_tokens=3, stop_at_eos=False)
    assert widths == [10, 11, 12]


def test_what_does_not_fit_is_written_later_or_without_keys(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch, widths: Spy
) -> None:
    model = llama.model
    options: dict[str, Any] = {"max_new_tokens": 4, "stop_at_eos": False}
    twice = [*PROMPTS, PROMPTS[0]]
    expected = generate(model, twice, **options)
    drawn = generate(model, twice, sampling=Sampling(temperature=3.0), **options)
    assert drawn.texts[0] != drawn.texts[3]
    monkeypatch.setattr("interp.generation.reading.past_memory", lambda *_: 1)
    monkeypatch.setattr("interp.generation.reading.room_to_keep", lambda model: 2)
    widths.clear()
    seen: list[tuple[int, int]] = []
    found = generate(model, twice, progress=lambda *at: seen.append(at), **options)
    check_same(found, expected)
    assert widths == [8, 1, 1, 1, 10, 1, 1, 1]  # two texts, then the other two
    assert seen == [(n, 8) for n in range(1, 9)]
    check_same(generate(model, twice, sampling=Sampling(temperature=3.0), **options), drawn)
    widths.clear()
    steps = list(stream(model, twice, **options))
    # All at once: the third and the fourth go without.
    assert widths == [8, 10, 1, 11, 1, 12, 1, 13]
    ids = torch.stack([step.ids for step in steps], dim=1).numpy()
    np.testing.assert_array_equal(ids, expected.tokens["id"])


def test_memory_that_runs_out_in_the_middle_costs_time_only(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 5, "stop_at_eos": False}
    expected = generate(llama.model, PROMPTS, **options)
    calls = []

    def fail(past: Past) -> None:
        calls.append(past)
        if len(calls) == 2:
            raise RuntimeError("can't allocate memory")
        past.lengths = past.lengths + 1

    monkeypatch.setattr(Past, "has_read_on", fail)
    check_same(generate(llama.model, PROMPTS, **options), expected)
    assert len(calls) == 2


def test_where_keys_do_not_fit_whole_passes_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"max_new_tokens": 3, "stop_at_eos": False}
    expected = generate(model_of("Llama"), PROMPTS, **options)

    def full(model: Model, *args: Any, past: Past | None = None, **others: Any) -> Any:
        if past is not None:
            raise RuntimeError("can't allocate memory")
        return predict(model, *args, **others)

    tried = model_of("Llama")
    generate(tried, PROMPTS, **options)
    monkeypatch.setattr("interp.generation.reading.predict", full)
    for model in (tried, model_of("Llama")):  # when they are written, and when they are tried
        check_same(generate(model, PROMPTS, **options), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype, widths: Spy) -> None:
    hf = ARCHITECTURES["Llama"].build().to(dtype)
    model = load_model(hf, tokenizer=build_tokenizer())
    options: dict[str, Any] = {"stop_at_eos": False, "sites": "resid_post.1"}
    generate(model, PROMPTS, max_new_tokens=3, **options)
    widths.clear()
    found = generate(model, PROMPTS, max_new_tokens=3, **options)
    assert widths == [10, 1, 1]
    assert found.activations["resid_post.1"].dtype == dtype


@pytest.mark.parametrize("source", ["tiny", "organism"])
def test_pieces_of_text_are_those_of_the_whole_decoded_each_time(source: str, llama: Tiny) -> None:
    model = llama.model if source == "tiny" else load_model("reversal-curse")
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        prompt, added = torch.randint(0, len(VOCABULARY), (2, 12), generator=generator).tolist()
        text = Text(model, prompt)
        pieces = [text.add(token, finished=False) for token in added[:-1]]
        pieces.append(text.add(added[-1], finished=True))
        assert model.decode(prompt) + "".join(pieces) == model.decode([*prompt, *added])
