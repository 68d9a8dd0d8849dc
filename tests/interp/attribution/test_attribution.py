"""Shares of a logit, against taking each part away from Hugging Face's stream with frozen norms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from interp import PromptPairs, direct_logit_attribution, load_model
from interp.errors import ArgumentError, ModelError, ObverseError, PromptError, SiteError
from tests.interp import surgery
from tests.interp.architectures import ARCHITECTURES, D_HEAD, N_HEADS
from tests.interp.tiny import VOCABULARY, Tiny, build_tokenizer, words
from tests.interp.tracking import PeakMemory

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is"]
ANSWERS, FOILS = [" Gus", " Jo"], [" Ida", " Cy"]
GROUP = 16
FINAL_NORMS = ("ln_f", "final_layer_norm", "norm", "final_layernorm", "decoder.final_layer_norm")
Read = Callable[[Tensor], float]


def frozen(norm: Any, read: Tensor) -> Callable[[Tensor], Tensor]:
    """A norm with mean and scale held at what they are on `read` [d_model], without its shift."""
    name = type(norm).__name__
    gain = norm.weight + 1 if name.startswith("Gemma") else norm.weight
    epsilon = next(getattr(norm, n) for n in ("eps", "variance_epsilon") if hasattr(norm, n))
    centred = "RMS" not in name
    deviation = read - read.mean() if centred else read
    scale = (deviation.square().mean() + epsilon).sqrt()
    shift = getattr(norm, "bias", None)
    whole = gain * deviation / scale + (0 if shift is None else shift)
    assert torch.allclose(whole, norm(read[None])[0], atol=1e-4)
    return lambda part: gain * (part - part.mean() if centred else part) / scale


class Built:
    """One architecture, twice: as Hugging Face has it, and through `load_model`."""

    def __init__(self, name: str) -> None:
        self.architecture = ARCHITECTURES[name]
        self.layout = self.architecture.layout
        self.hf = self.architecture.build()
        self.model = load_model(self.architecture.build(), tokenizer=build_tokenizer())
        self.layers = range(self.architecture.n_layers)
        base = self.hf.base_model
        self.norm = next(
            base.get_submodule(n) for n in FINAL_NORMS if n.split(".")[0] in dict(base._modules)
        )
        settings = self.hf.config
        self.scale = getattr(settings, "logit_scale", 1.0) or 1.0
        self.scale /= getattr(settings, "logits_scaling", 1.0) or 1.0

    def block(self, layer: int) -> Any:
        return self.hf.get_submodule(self.layout.blocks)[layer]

    def at_end(self, site: str, layer: int, example: int) -> Tensor:
        return self.whole(site, layer, example)[-1]

    @functools.cache  # noqa: B019 (as long-lived as the tests of this module)
    def whole(self, site: str, layer: int, example: int) -> Tensor:
        ids = self.model.token_ids(PROMPTS[example])
        return surgery.activation(self.hf, self.layout, site, layer, ids)

    def read(self, example: int) -> Read:
        """What a part of the final stream adds to the logit difference."""
        norm = frozen(self.norm, self.at_end("resid_post", self.layers[-1], example))
        (answer,), (foil,) = words(ANSWERS[example]), words(FOILS[example])
        weight = self.hf.get_output_embeddings().weight
        return lambda part: self.scale * float((weight[answer] - weight[foil]) @ norm(part))

    def through(self, module: str, out: str, layer: int, units: Tensor) -> Callable[..., Tensor]:
        """From units that are taken away to what the stream then lacks."""
        block = self.block(layer)
        matrix = block.get_submodule(module)
        after = block.get_submodule(out)
        whole = matrix(units[None])[0]
        post: Callable[[Tensor], Tensor] = lambda part: part  # noqa: E731
        if out.endswith("layernorm"):
            post = frozen(after, whole)

        def lacks(taken: Tensor) -> Tensor:
            return self.layout.scale * post(whole - matrix((units - taken)[None])[0])

        return lacks


@pytest.fixture(scope="module")
def built() -> Callable[[str], Built]:
    return functools.cache(Built)


def attributed(built: Built, by: Any, **options: Any) -> xr.Dataset:
    return direct_logit_attribution(built.model, PROMPTS, ANSWERS, FOILS, by=by, **options)


def total(found: xr.Dataset) -> np.ndarray[Any, Any]:
    parts = found["contribution"]
    summed = parts.sum([dim for dim in parts.dims if dim != "example"])
    return np.asarray(summed + found.get("rest", 0))


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_components_are_what_their_absence_would_take(
    built: Callable[[str], Built], name: str
) -> None:
    one = built(name)
    found = attributed(one, "component")
    for example, text in enumerate(PROMPTS):
        read = one.read(example)
        row = found.isel(example=example).set_index(component="component")["contribution"]
        assert float(row.sel(component="input")) == pytest.approx(
            read(one.at_end("resid_pre", 0, example)), abs=1e-4
        )
        for layer in one.layers:
            for label, site in (("a", "attn_out"), ("m", "mlp_out")):
                share = float(row.sel(component=f"{label}{layer}"))
                assert share == pytest.approx(read(one.at_end(site, layer, example)), abs=1e-4)
        (answer,), (foil,) = words(ANSWERS[example]), words(FOILS[example])
        logits = surgery.logits(one.hf, one.model.token_ids(text))[-1]
        own = float(logits[answer] - logits[foil])
        whole = found.isel(example=example)
        assert float(whole["capped" if "capped" in whole else "logit_diff"]) == pytest.approx(
            own, abs=1e-4
        )
        assert ("capped" in whole) == (name == "Gemma 2")
    np.testing.assert_allclose(total(found), found["logit_diff"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_heads_and_sources_are_what_their_absence_would_take(
    built: Callable[[str], Built], name: str
) -> None:
    one = built(name)
    by_head = attributed(one, "head")
    by_source = attributed(one, "source")
    shares = by_head.set_index(component="component")["contribution"]
    for example in range(len(PROMPTS)):
        read = one.read(example)
        n_tokens = len(one.model.token_ids(PROMPTS[example]))
        for layer in one.layers:
            z = one.at_end("z", layer, example)
            lacks = one.through(one.layout.out_matrix, one.layout.attn_out, layer, z.flatten())
            values = one.whole("v", layer, example)
            pattern = one.whole("pattern", layer, example)[:, -1]
            for head in range(N_HEADS):
                taken = torch.zeros_like(z)
                taken[head] = z[head]
                label = f"a{layer}.h{head}"
                share = shares.isel(example=example).sel(component=label)
                assert float(share) == pytest.approx(read(lacks(taken.flatten())), abs=1e-4)
                value = values[:, head * values.shape[1] // N_HEADS]
                row = by_source["contribution"].isel(example=example, layer=layer, head=head)
                for source in range(n_tokens):
                    taken[head] = pattern[head, source] * value[source]
                    expected = read(lacks(taken.flatten()))
                    assert float(row[source]) == pytest.approx(expected, abs=1e-4)
                assert bool(row[n_tokens:].isnull().all())
    for found in (by_head, by_source):
        np.testing.assert_allclose(total(found), found["logit_diff"], rtol=1e-4, atol=1e-5)
    whole = attributed(one, "component").set_index(component="component")["contribution"]
    for layer in one.layers:
        heads = [n for n in shares["component"].values if n.startswith(f"a{layer}.")]
        summed = shares.sel(component=heads).sum("component")
        np.testing.assert_allclose(summed, whole.sel(component=f"a{layer}"), atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_neurons_are_what_their_absence_would_take(
    built: Callable[[str], Built], name: str
) -> None:
    one = built(name)
    if one.layout.neurons is None:
        with pytest.raises(SiteError, match="mixtures of experts"):
            attributed(one, "neurons")
        return
    found = attributed(one, "neurons", neurons=GROUP)
    some = attributed(one, "neurons", neurons=[[3, 7], [0]])
    for example in range(len(PROMPTS)):
        read = one.read(example)
        for layer in one.layers:
            neurons = one.at_end("mlp_act", layer, example)
            lacks = one.through(one.layout.neurons, one.layout.mlp_out, layer, neurons)

            def expected(chosen: Any, neurons: Tensor = neurons, lacks: Any = lacks) -> float:
                taken = torch.zeros_like(neurons)
                taken[chosen] = neurons[chosen]
                return read(lacks(taken))  # noqa: B023

            row = found["contribution"].isel(example=example, layer=layer)
            for group in range(len(neurons) // GROUP):
                part = slice(group * GROUP, (group + 1) * GROUP)
                assert float(row[group]) == pytest.approx(expected(part), abs=1e-4)
            pair = some["contribution"].isel(example=example, layer=layer).sel(neurons="3,7")
            assert float(pair) == pytest.approx(expected([3, 7]), abs=1e-4)
    for one_found in (found, some):
        np.testing.assert_allclose(total(one_found), one_found["logit_diff"], rtol=1e-4, atol=1e-5)


def test_one_logit_is_the_difference_without_the_foil(tiny: Tiny) -> None:
    answer = direct_logit_attribution(tiny.model, PROMPTS, ANSWERS)
    foil = direct_logit_attribution(tiny.model, PROMPTS, FOILS)
    both = direct_logit_attribution(tiny.model, PROMPTS, ANSWERS, FOILS)
    difference = answer["contribution"] - foil["contribution"]
    np.testing.assert_allclose(difference, both["contribution"], atol=1e-5)
    np.testing.assert_allclose(answer["logit"] - foil["logit"], both["logit_diff"], atol=1e-5)
    tokens = [torch.tensor([words(a)[0] for a in texts]) for texts in (ANSWERS, FOILS)]
    ids = direct_logit_attribution(tiny.model, PROMPTS, *tokens)
    np.testing.assert_array_equal(ids["contribution"], both["contribution"])
    assert list(ids["answer"].values) == ["Gus", "Jo"]


def test_pairs_bring_their_answers_and_their_names_of_positions(llama: Tiny) -> None:
    corrupt = ["we saw Bo Cy near Rome and then", "so Gus is"]
    spans = {"name": [("Ann", "Bo Cy"), ("Fay", "Gus")]}
    pairs = PromptPairs(llama.model, PROMPTS, corrupt, ANSWERS, FOILS, spans)
    for run, texts in (("clean", PROMPTS), ("corrupt", corrupt)):
        found = direct_logit_attribution(llama.model, pairs, by="source", run=run)
        expected = direct_logit_attribution(llama.model, texts, ANSWERS, FOILS, by="source")
        np.testing.assert_array_equal(found["contribution"], expected["contribution"])
    label, token = (found[name].values[0].tolist() for name in ("label", "token"))
    assert token == ["<bos>", "we", "saw", "Bo", "Cy", "near", "Rome", "and", "then"]
    assert dict(zip(token, label, strict=True))["Bo"] == ""
    assert dict(zip(token, label, strict=True))["Cy"] == "name -1"
    alone = PromptPairs(llama.model, PROMPTS, corrupt, ANSWERS, spans=spans)
    np.testing.assert_allclose(
        direct_logit_attribution(llama.model, alone)["logit"],
        direct_logit_attribution(llama.model, PROMPTS, ANSWERS)["logit"],
    )


def test_components_are_named_in_the_order_of_the_model(llama: Tiny) -> None:
    found = direct_logit_attribution(llama.model, PROMPTS, ANSWERS, by="head")
    names = found["component"].values.tolist()
    assert names[:7] == ["input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "a0.bias", "m0"]
    assert names[-2:] == ["m2", "bias"]
    of = found.isel(component=[0, 2, 5, 6])
    assert of["layer"].values.tolist() == [-1, 0, 0, 0]
    assert of["head"].values.tolist() == [-1, 1, -1, -1]
    assert found.attrs["fingerprint"] == llama.model.fingerprint


def test_a_prompt_has_the_same_shares_in_any_batch(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = direct_logit_attribution(tiny.model, PROMPTS, ANSWERS, FOILS, by="source")
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    seen: list[tuple[int, int]] = []
    pieces = direct_logit_attribution(
        tiny.model, PROMPTS, ANSWERS, FOILS, by="source", progress=lambda *at: seen.append(at)
    )
    np.testing.assert_allclose(pieces["contribution"], whole["contribution"], atol=1e-5)
    np.testing.assert_allclose(pieces["rest"], whole["rest"], atol=1e-5)
    assert seen == [(1, 2), (2, 2)]


def test_it_keeps_to_its_budget(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 1 << 20
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: budget)
    ids = torch.randint(3, 20, (200, 20))
    direct_logit_attribution(llama.model, ids[:2], ids[:2, 0])
    with PeakMemory() as memory:
        direct_logit_attribution(llama.model, ids, ids[:, 0], by="source")
    assert budget / 8 < memory.peak < 2 * budget


@pytest.mark.shared
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_stored_logit_differences_are_divided(shared: Path, name: str) -> None:
    folder = shared / "golden" / name
    model = load_model(folder)
    with np.load(folder / "golden.npz", allow_pickle=False) as stored:
        clean, answer, wrong = (torch.from_numpy(stored[n]) for n in ("clean", "answer", "wrong"))
        expected = stored["ld_clean"]
    for by in ("component", "head", "neurons", "source"):
        found = direct_logit_attribution(model, clean, answer, wrong, by=by)
        np.testing.assert_allclose(total(found), expected, rtol=0, atol=1e-4)


def test_what_is_no_such_sum_is_refused(built: Callable[[str], Built]) -> None:
    """A block that adds more than its attention and its MLP."""
    one = built("Llama")
    block = one.model.bridge.blocks[0]
    handle = block.register_forward_hook(lambda _m, _a, out: out + 0.01 * out.flip(-1))
    try:
        with pytest.raises(ModelError, match=r"add up to its logits only to.*another architecture"):
            attributed(one, "component")
    finally:
        handle.remove()


HALF = [("Llama", torch.bfloat16), ("Gemma 2", torch.bfloat16), ("GPT-2", torch.float16)]


@pytest.mark.parametrize(("name", "dtype"), [*HALF, ("Granite", torch.bfloat16)])
@pytest.mark.parametrize("by", ["component", "head", "source"])
@torch.no_grad()
def test_in_half_precision_rounding_is_told_apart(name: str, dtype: torch.dtype, by: Any) -> None:
    hf = ARCHITECTURES[name].build().to(dtype)
    whole = ARCHITECTURES[name].build().to(dtype).float()
    model = load_model(hf, tokenizer=build_tokenizer())
    found = direct_logit_attribution(model, PROMPTS, ANSWERS, FOILS, by=by)
    np.testing.assert_allclose(total(found) + found["rounding"], found["logit_diff"], atol=1e-6)
    exact = load_model(whole, tokenizer=build_tokenizer())
    expected = direct_logit_attribution(exact, PROMPTS, ANSWERS, FOILS, by=by)
    size = float(np.abs(expected["contribution"]).max())
    within = 0.1 if dtype is torch.bfloat16 else 0.01  # activations differ too
    np.testing.assert_allclose(
        found["contribution"], expected["contribution"], rtol=0, atol=within * size
    )
    assert float(np.abs(found["rounding"]).max()) < within / 4 * size
    # The same words in Hugging Face's own stream, and its own weights in double precision.
    if by == "component" and name == "Llama":
        layout = ARCHITECTURES[name].layout
        rows = [
            [VOCABULARY.index(t[example].strip()) for t in (ANSWERS, FOILS)] for example in (0, 1)
        ]
        for example, (answer, foil) in enumerate(rows):
            ids = model.token_ids(PROMPTS[example])
            final = surgery.activation(hf, layout, "resid_post", 1, ids)[-1].double()
            weight = hf.lm_head.weight.double()
            read = (weight[answer] - weight[foil]) * hf.model.norm.weight.double()
            read = read / (final.square().mean() + 1e-6).sqrt()
            row = found.isel(example=example).set_index(component="component")["contribution"]
            for site in ("attn_out", "mlp_out"):
                part = surgery.activation(hf, layout, site, 1, ids)[-1].double()
                share = float(row.sel(component=f"{site[0]}1"))
                assert share == pytest.approx(float(part @ read), rel=1e-5, abs=1e-6)
            assert float(found["logit_diff"][example]) == pytest.approx(
                float(final @ read), rel=1e-5
            )


def test_what_rounding_does_not_explain_is_refused() -> None:
    model = load_model(
        ARCHITECTURES["Llama"].build().to(torch.bfloat16), tokenizer=build_tokenizer()
    )
    block = model.bridge.blocks[0]
    block.register_forward_hook(lambda _m, _a, out: out + 0.1 * out.flip(-1))
    with pytest.raises(ModelError, match=r"which rounding in bfloat16 .* load it in float32"):
        direct_logit_attribution(model, PROMPTS, ANSWERS, FOILS)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((PROMPTS,), {}, PromptError, "no answers"),
        ((PROMPTS, [" Ann"]), {}, PromptError, "1 answers for 2 prompts"),
        ((PROMPTS, ANSWERS, [" Ann"]), {}, PromptError, "1 foils for 2 prompts"),
        ((PROMPTS, [[" Ann", " Bo"]] * 2), {}, PromptError, "one answer"),
        ((PROMPTS, ANSWERS), {"by": "layer"}, ArgumentError, "Unknown by 'layer'"),
        ((PROMPTS, ANSWERS), {"neurons": 4}, PromptError, "by='neurons'"),
        ((PROMPTS, ANSWERS), {"run": "corrupt"}, PromptError, "PromptPairs"),
        ((PROMPTS, ANSWERS), {"run": "dirty"}, ArgumentError, "Unknown run"),
        (([], []), {}, PromptError, "no prompts"),
        (
            (PROMPTS, ANSWERS),
            {"by": "neurons", "neurons": [[0, 1], [1]]},
            SiteError,
            "groups of neurons overlap",
        ),
        (
            (PROMPTS, ANSWERS),
            {"by": "neurons", "neurons": [[D_HEAD**4]]},
            SiteError,
            "out of range",
        ),
    ],
)
def test_what_cannot_be_attributed_is_refused(
    llama: Tiny,
    arguments: Any,
    options: dict[str, Any],
    kind: type[ObverseError],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        direct_logit_attribution(llama.model, *arguments, **options)


def test_pairs_come_without_other_answers(llama: Tiny) -> None:
    pairs = PromptPairs(llama.model, PROMPTS, PROMPTS, ANSWERS, FOILS)
    with pytest.raises(PromptError, match="bring their answers"):
        direct_logit_attribution(llama.model, pairs, ANSWERS)
