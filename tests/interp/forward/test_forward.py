"""Recordings are Hugging Face's own activations, and resuming gives Hugging Face's own logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp import Site, capture, load_model, record, resume
from interp.errors import ArgumentError, ModelError, PromptError, SiteError
from interp.forward.access import changing
from interp.forward.passes import readout
from interp.prompts.tokens import blank, tokenise
from tests.interp import reference
from tests.interp.tiny import N_LAYERS, Tiny

TOLERANCE = {"rtol": 0, "atol": 1e-5}
# No two of the same length: all but one are padded when they run together.
PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is near home and"]
FIRST, LAST = Site("resid_pre", 0), Site("resid_post", N_LAYERS - 1)


@pytest.mark.parametrize("site", [*reference.STREAMS, *reference.HEADS])
def test_captured_is_what_hugging_faces_modules_compute(tiny: Tiny, site: str) -> None:
    if site not in reference.sites(tiny):
        pytest.skip("parallel blocks have no such stream")
    found = capture(tiny.model, PROMPTS, site)
    assert list(found) == [f"{site}.{layer}" for layer in range(N_LAYERS)]
    for layer, (example, text) in itertools.product(range(N_LAYERS), enumerate(PROMPTS)):
        expected = reference.activation(tiny, tuple(tiny.ids(text)), site, layer)
        alone = found[f"{site}.{layer}"][example, : len(expected)]
        np.testing.assert_allclose(alone, expected, **TOLERANCE)


def test_captured_streams_are_hugging_faces_hidden_states(tiny: Tiny) -> None:
    found = capture(tiny.model, PROMPTS[:1], ["resid_pre", f"resid_post.{N_LAYERS - 1}"])
    with torch.no_grad():
        out = tiny.hf(torch.tensor([tiny.ids(PROMPTS[0])]), output_hidden_states=True)
    for layer in range(N_LAYERS):
        np.testing.assert_allclose(found[f"resid_pre.{layer}"], out.hidden_states[layer], atol=1e-5)
    # Hugging Face applies the final norm before it hands out the last one.
    norm = tiny.hf.base_model
    norm = getattr(norm, {"gpt2": "ln_f", "llama": "norm", "neox": "final_layer_norm"}[tiny.name])
    with torch.no_grad():
        last = norm(found[str(LAST)])
    np.testing.assert_allclose(last, out.hidden_states[-1], atol=1e-5)


def test_captured_patterns_are_hugging_faces_attentions(tiny: Tiny) -> None:
    found = capture(tiny.model, PROMPTS, ["pattern", "pattern.1.h2"])
    for example, text in enumerate(PROMPTS):
        ids = torch.tensor([tiny.ids(text)])
        with torch.no_grad():
            attentions = tiny.hf(ids, output_attentions=True).attentions
        n = ids.shape[1]
        for layer in range(N_LAYERS):
            pattern = found[f"pattern.{layer}"][example, :, :n, :n]
            np.testing.assert_allclose(pattern, attentions[layer][0], **TOLERANCE)
        one = found["pattern.1.h2"][example, :n, :n]
        np.testing.assert_allclose(one, attentions[1][0, 2], **TOLERANCE)


def test_captured_neurons_enter_the_mlps_output_matrix(tiny: Tiny) -> None:
    name = {"gpt2": "c_proj", "llama": "down_proj", "neox": "dense_4h_to_h"}[tiny.name]
    found = capture(tiny.model, PROMPTS[:1], "mlp_act")
    for layer in range(N_LAYERS):
        block = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers"}
        matrix = tiny.hf.get_submodule(f"{block[tiny.name]}.{layer}.mlp.{name}")
        seen: list[torch.Tensor] = []
        handle = matrix.register_forward_pre_hook(lambda _module, args, to=seen: to.append(args[0]))
        reference.logits(tiny, tiny.ids(PROMPTS[0]))
        handle.remove()
        np.testing.assert_allclose(found[f"mlp_act.{layer}"], seen[0], **TOLERANCE)


def test_last_is_each_prompts_own_last_token(tiny: Tiny) -> None:
    found = capture(
        tiny.model, PROMPTS, ["resid_mid.1", "z.2.h3"][tiny.parallel :], positions="last"
    )
    for example, text in enumerate(PROMPTS):
        ids = tuple(tiny.ids(text))
        for name, value in found.items():
            site = Site.parse(name)
            expected = reference.activation(tiny, ids, site.name, site.layer)[-1]
            expected = expected if site.head is None else expected[site.head]
            np.testing.assert_allclose(value[example], expected, **TOLERANCE)


def test_capturing_prompts_one_by_one_gives_the_same(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = ["resid_post", "k", "pattern"]
    together = capture(tiny.model, PROMPTS, sites)
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    seen: list[tuple[int, int]] = []
    alone = capture(tiny.model, PROMPTS, sites, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert together.keys() == alone.keys()
    for name in together:
        np.testing.assert_allclose(alone[name], together[name], **TOLERANCE)


def test_one_site_may_be_named_in_every_way(llama: Tiny) -> None:
    by_name = capture(llama.model, PROMPTS, "v.1")
    assert by_name.keys() == {"v.1"}
    for given in (Site("v", 1), [Site("v", 1)], ["v.1", "v.1"]):
        again = capture(llama.model, tokenise(llama.model, PROMPTS), given)
        torch.testing.assert_close(again, by_name, equal_nan=True)
    head = capture(llama.model, PROMPTS, Site("v", 1, head=1))["v.1.h1"]
    torch.testing.assert_close(head, by_name["v.1"][:, :, 1], equal_nan=True)


def test_captured_activations_may_be_changed_freely(llama: Tiny) -> None:
    sites = ["resid_post.0", "resid_pre.1"]  # one tensor inside the model
    before = capture(llama.model, PROMPTS, sites)
    spoiled = capture(llama.model, PROMPTS, sites)
    spoiled["resid_post.0"].zero_()
    torch.testing.assert_close(spoiled["resid_pre.1"], before["resid_pre.1"], equal_nan=True)
    torch.testing.assert_close(capture(llama.model, PROMPTS, sites), before, equal_nan=True)
    batch = tokenise(llama.model, PROMPTS)
    recording = record(llama.model, batch.ids, map(Site.parse, sites))
    recording[Site.parse(sites[0])].zero_()
    kept = recording[Site.parse(sites[1])]
    blank(kept, batch.lengths, axis=1)
    torch.testing.assert_close(kept, before[sites[1]], equal_nan=True)


@pytest.mark.parametrize("start", range(N_LAYERS + 1))
def test_resuming_at_any_block_gives_the_full_forward_pass(tiny: Tiny, start: int) -> None:
    batch = tokenise(tiny.model, PROMPTS)
    entry = LAST if start == N_LAYERS else Site("resid_pre", start)
    recording = record(tiny.model, batch.ids, [entry])
    rows = torch.tensor([2, 0, 0, 1, 2])  # more rows than prompts, in another order
    final = resume(tiny.model, recording, recording[entry][rows], rows, start=start)
    logits = readout(tiny.model, final)
    assert logits.dtype == torch.float32
    for row, example in enumerate(rows.tolist()):
        expected = reference.logits(tiny, tiny.ids(PROMPTS[example]))
        np.testing.assert_allclose(logits[row, : len(expected)], expected, rtol=0, atol=1e-4)


def test_resuming_up_to_a_block_stops_before_it(tiny: Tiny) -> None:
    ids = torch.tensor([tiny.ids(PROMPTS[0])])
    recording = record(tiny.model, ids, [Site("resid_pre", 0)])
    row = torch.zeros(1, dtype=torch.long)
    stopped = resume(tiny.model, recording, recording[Site("resid_pre", 0)], row, start=0, stop=2)
    expected = reference.activation(tiny, tuple(tiny.ids(PROMPTS[0])), "resid_pre", 2)
    np.testing.assert_allclose(stopped[0], expected, **TOLERANCE)


def test_hooks_of_the_caller_fire_while_resuming(tiny: Tiny) -> None:
    ids = torch.tensor([tiny.ids(PROMPTS[0])])
    recording = record(tiny.model, ids, [Site("resid_pre", 0)])
    row = torch.zeros(1, dtype=torch.long)
    with changing(tiny.model, [(Site("mlp_out", 1), torch.zeros_like)]):
        final = resume(tiny.model, recording, recording[Site("resid_pre", 0)], row, start=0)
    with reference.intervened(tiny, "mlp_out", 1, lambda value: value.zero_()):
        expected = reference.logits(tiny, tiny.ids(PROMPTS[0]))
    np.testing.assert_allclose(readout(tiny.model, final)[0], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_stopping_before_the_unembedding_records_the_same(tiny: Tiny) -> None:
    """The first run of a model goes on to the logits, to be checked; later ones stop earlier."""
    model = load_model(tiny.folder)
    unembedded: list[int] = []
    model.bridge.unembed.register_forward_pre_hook(lambda _module, _args: unembedded.append(1))
    batch = tokenise(model, PROMPTS)
    sites = [Site(name, layer) for name in reference.sites(tiny) for layer in range(N_LAYERS)]
    full = record(model, batch.ids, sites)
    assert unembedded
    unembedded.clear()
    stopped = record(model, batch.ids, sites)
    assert not unembedded
    for site in sites:
        torch.testing.assert_close(stopped[site], full[site], rtol=0, atol=0)
    assert stopped.batch == full.batch
    rows = torch.tensor([2, 0, 1, 1])
    for ours, theirs in zip(stopped.calls, full.calls, strict=True):
        torch.testing.assert_close(ours.at(rows, 3), theirs.at(rows, 3), rtol=0, atol=0)


def test_no_gradient_is_recorded(tiny: Tiny) -> None:
    assert torch.is_grad_enabled()
    batch = tokenise(tiny.model, PROMPTS)
    recording = record(tiny.model, batch.ids, [LAST])
    hidden = recording[LAST].clone().requires_grad_()
    final = resume(tiny.model, recording, hidden, torch.arange(3), start=1)
    for tensor in (recording[LAST], final, readout(tiny.model, hidden)):
        assert not tensor.requires_grad
        assert not tensor.is_inference()  # such a tensor could never enter autograd
    assert torch.is_grad_enabled()
    parameters = list(tiny.model.bridge.original_model.parameters())
    assert not any(p.requires_grad for p in parameters)
    assert all(p.grad is None for p in parameters)
    assert not any(module.training for module in tiny.model.bridge.modules())


def test_readout_takes_any_leading_axes(tiny: Tiny) -> None:
    batch = tokenise(tiny.model, PROMPTS)
    hidden = record(tiny.model, batch.ids, [LAST])[LAST]
    whole = readout(tiny.model, hidden)
    np.testing.assert_allclose(readout(tiny.model, hidden[0, 2]), whole[0, 2], **TOLERANCE)
    cube = hidden[:, :4].reshape(3, 2, 2, -1)
    expected = whole[:, :4].reshape(3, 2, 2, -1)
    np.testing.assert_allclose(readout(tiny.model, cube), expected, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda logits: 2 * logits, "does not reproduce its own logits"),
        (lambda logits: logits * float("nan"), "no finite logits"),
    ],
)
def test_a_model_that_computes_more_than_its_blocks_is_refused(
    tiny: Tiny, spoil: Callable[[Any], Any], message: str
) -> None:
    model = load_model(tiny.folder)

    def outside(_module: object, _args: object, output: object) -> object:
        output.logits = spoil(output.logits)
        return output

    ids = tokenise(model, PROMPTS[:1]).ids
    handle = model.bridge.original_model.register_forward_hook(outside)
    for _ in range(2):  # a refusal is not forgotten
        with pytest.raises(ModelError, match=message):
            record(model, ids, [FIRST])
    handle.remove()
    assert record(model, ids, [FIRST])[FIRST].any()


@pytest.mark.slow
def test_a_model_that_passes_its_stream_by_name_is_refused(llama: Tiny) -> None:
    model = load_model(llama.folder)

    def by_name(_module: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return (), {"hidden_states": args[0], **kwargs}

    model.bridge.blocks[1].register_forward_pre_hook(by_name, with_kwargs=True)
    with pytest.raises(ModelError, match="by name"):
        record(model, tokenise(model, PROMPTS[:1]).ids, [FIRST])


@pytest.mark.parametrize(
    ("sites", "error", "message"),
    [
        ("resid_per", SiteError, "resid_pre"),
        ("resid_pre.3", SiteError, "Layer 3"),
        ("z.0.h4", SiteError, "Head 4"),
        ("k.0.h2", SiteError, "heads 0 to 1"),
        ("resid_pre.0.h1", SiteError, "no heads"),
        (["resid_pre.0", "nonsense.0"], SiteError, "nonsense"),
    ],
)
def test_sites_that_the_model_lacks_are_refused(
    llama: Tiny, sites: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        capture(llama.model, PROMPTS, sites)


def test_patterns_have_no_last_position(llama: Tiny) -> None:
    with pytest.raises(PromptError, match="two position axes"):
        capture(llama.model, PROMPTS, "pattern", positions="last")


def test_an_unknown_choice_of_positions_is_refused(llama: Tiny) -> None:
    with pytest.raises(ArgumentError, match="first"):
        capture(llama.model, PROMPTS, "resid_pre", positions="first")
