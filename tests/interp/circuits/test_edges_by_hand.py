"""Shares, edges, circuits and paths of every architecture, by hooks on Hugging Face's own model.

Norms behind attention and MLP, scaled writers, biases behind a norm, queries of all heads under one
norm, MLPs that are no module, position biases: `apart.py` knows of a norm's scale only that it is
held at what it is in the run that a writer is part of.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import PromptPairs, load_model
from interp.circuits import attribute_edges, measure
from interp.components.components import Components
from interp.components.contrast import contrasts
from interp.components.graph import Graph
from interp.metrics import logit_diff
from interp.patching import patch_paths
from tests.interp.architectures import ARCHITECTURES, N_HEADS, Architecture
from tests.interp.circuits.apart import Apart, Run
from tests.interp.tiny import build_tokenizer

pytestmark = pytest.mark.slow

CLEAN, CORRUPT = [1, 4, 9, 15, 22, 7], [1, 5, 9, 18, 22, 12]
ANSWER, FOIL = 8, 19
GEMMA = ARCHITECTURES["Gemma 2"]
MODELS = {
    **ARCHITECTURES,
    # Queries of all heads under one norm, and no norm behind.
    "OLMoE": Architecture("Olmoe", {"num_experts": 3, "num_experts_per_tok": 2}),
    "Gemma 2 with biases": replace(GEMMA, settings={**GEMMA.settings, "attention_bias": True}),
}
SPECIAL = (
    "OLMoE",
    "Gemma 2",
    "Gemma 2 with biases",
    "Gemma 3",
    "OLMo 2",
    "Granite",
    "OPT",
    "BLOOM",
)


class Case:
    """One pair of prompts, by hand and through the instruments."""

    def __init__(self, name: str) -> None:
        self.hand = Apart(MODELS[name])
        self.model = load_model(MODELS[name].build(), tokenizer=build_tokenizer())
        ids = (torch.tensor([row]) for row in (CLEAN, CORRUPT))
        self.pairs = PromptPairs(self.model, *ids, torch.tensor([ANSWER]), torch.tensor([FOIL]))
        self.clean, self.corrupt = self.hand.run(CLEAN), self.hand.run(CORRUPT)

    def value(self, streams: Any) -> float:
        return metric(self.hand.told(CLEAN, streams))


def metric(logits: torch.Tensor) -> float:
    return float(logits[ANSWER] - logits[FOIL])


@pytest.fixture(scope="module")
def case() -> Any:
    return functools.cache(Case)


@pytest.mark.parametrize("name", MODELS)
def test_shares_are_those_of_held_scales_and_add_up_to_the_stream(case: Any, name: str) -> None:
    one = case(name)
    parts = Components(one.model, torch.tensor([CLEAN]))
    (contrast,) = contrasts(parts, one.pairs, logit_diff, "clean")
    total = contrast.input_change()[0]
    for i in one.hand.layers:
        change = contrast.layer_change(i)[0]
        for head in range(N_HEADS):
            name_ = f"a{i}.h{head}"
            expected = one.corrupt.written[name_] - one.clean.written[name_]
            torch.testing.assert_close(change[head], expected, rtol=0, atol=2e-4)
        total = total + change.sum(0)
        streams = [one.hand.seen(ids, ("resid_post", i)) for ids in (CLEAN, CORRUPT)]
        torch.testing.assert_close(total, streams[1] - streams[0], rtol=0, atol=5e-4)
    # By hand too they are all that is added.
    whole = sum(one.clean.written.values())
    stream = one.hand.seen(CLEAN, ("resid_post", one.hand.layers[-1]))
    torch.testing.assert_close(whole, stream, rtol=0, atol=5e-4)


@pytest.mark.parametrize("name", MODELS)
def test_an_exact_edge_is_what_its_reader_makes_of_another_stream(case: Any, name: str) -> None:
    one = case(name)
    found = attribute_edges(one.model, one.pairs, method="exact")["score"]
    value = one.value({})
    largest = float(np.abs(found).max())
    assert largest > 0.1
    readers = ["a1.h0.k", "m1", "logits"]
    if name in SPECIAL:
        readers += ["m0", "a1.h2.q", "a1.h0.v", f"m{one.hand.layers[-1]}"]
    for reader in readers:
        reads = one.hand.reads(reader)
        stream = sum(one.clean.written[writer] for writer in reads)
        for writer in reads if name in SPECIAL else reads[:7:3]:
            changed = stream + one.corrupt.written[writer] - one.clean.written[writer]
            expected = value - one.value({reader: changed})
            ours = float(found.sel(source=writer, destination=reader))
            assert ours == pytest.approx(expected, abs=2e-4 * max(1, largest)), (writer, reader)


@pytest.mark.parametrize("name", SPECIAL)
def test_edges_out_of_a_whole_layer_are_its_component_patched(case: Any, name: str) -> None:
    """All heads of a layer together tell a reader what patching the attention's output would."""
    one = case(name)
    graph = Graph.of(one.model)
    without = graph.real.copy()
    without[graph.heads_of(0), graph.destinations.index("logits")] = False
    found = float(measure(one.model, one.pairs, without[None])[0, 0])
    clean, corrupt = (
        sum(run.written[f"a0.h{head}"] for head in range(N_HEADS))
        for run in (one.clean, one.corrupt)
    )
    final = one.hand.seen(CLEAN, ("resid_post", one.hand.layers[-1]))
    # Not by shares: what attention adds, as Hugging Face has it.
    whole = [one.hand.seen(ids, ("attn_out", 0)) for ids in (CLEAN, CORRUPT)]
    torch.testing.assert_close(corrupt - clean, whole[1] - whole[0], rtol=0, atol=2e-4)
    expected = one.value({"logits": final - whole[0] + whole[1]})
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", SPECIAL)
def test_circuits_are_what_readers_make_of_mixed_streams(case: Any, name: str) -> None:
    one = case(name)
    graph = Graph.of(one.model)
    rng = np.random.default_rng(0)
    circuits = np.stack([graph.real & (rng.random(graph.real.shape) < p) for p in (0.9, 0.5, 0.15)])
    silent = graph.heads_of(0).start + 1  # one head that nobody hears
    circuits[0, silent] = False
    deaf = graph.heads_of(1).start + 1  # one that hears nobody, and is heard beside others
    circuits[1][:, graph.feeds[:, deaf]] = False
    # Alone and together: what others need computed is no matter.
    found = measure(one.model, one.pairs, circuits)[:, 0]
    alone = [measure(one.model, one.pairs, circuit[None])[0, 0] for circuit in circuits]
    np.testing.assert_allclose(alone, found, rtol=0, atol=1e-4)
    for circuit, ours in zip(circuits, found, strict=True):
        edges = {(graph.sources[s], graph.destinations[d]) for s, d in np.argwhere(circuit)}
        heard = one.hand.wired(CLEAN, one.clean, one.corrupt, edges)
        assert ours == pytest.approx(one.value({"logits": heard["logits"]}), abs=2e-3)


@pytest.mark.parametrize("name", ["Gemma 2 with biases", "OLMo 2", "Granite"])
def test_circuits_among_silence_are_made_of_what_is_left(case: Any, name: str) -> None:
    """What heads put out, not what they add, is zero: the bias behind it stays."""
    one = case(name)
    graph = Graph.of(one.model)
    rng = np.random.default_rng(1)
    circuits = graph.real & (
        rng.random((2, *graph.real.shape)) < np.array([0.8, 0.4])[:, None, None]
    )
    found = measure(one.model, one.pairs, circuits, ablation="zero")[:, 0]
    z = [torch.zeros_like(value) for value in one.clean.z]
    written = {writer: torch.zeros_like(value) for writer, value in one.clean.written.items()}
    for i in one.hand.layers:
        written.update({f"a{i}.h{h}": one.hand.share(i, h, z[i], z[i]) for h in range(N_HEADS)})
    for circuit, ours in zip(circuits, found, strict=True):
        edges = {(graph.sources[s], graph.destinations[d]) for s, d in np.argwhere(circuit)}
        heard = one.hand.wired(CLEAN, one.clean, Run(z, written), edges)
        assert ours == pytest.approx(one.value({"logits": heard["logits"]}), abs=2e-3)


@pytest.mark.parametrize("name", SPECIAL)
def test_paths_are_what_receivers_are_told(case: Any, name: str) -> None:
    one = case(name)
    through, receivers = ["a1.h0", "a1.h3", "m0"], ["a1.h2.q", "a1.h1.v", "m1"]
    senders = ["input", "a0.h1", "m0"]
    found = patch_paths(one.model, one.pairs, receivers, senders=senders, through=through)
    passing = [(name, reader) for name in through for reader in receivers]
    for writer in through:
        into = [r for r in receivers_of(one.hand) if feeds(r, writer, one.hand)]
        passing += [(other, r) for other in through for r in into]
    for sender in senders:
        into = {r for w in through for r in receivers_of(one.hand) if feeds(r, w, one.hand)}
        edges = {*passing, *((sender, r) for r in {*into, *receivers})}
        fixed = {sender: one.corrupt.written[sender]}
        reference: Run = one.clean
        heard = one.hand.wired(CLEAN, one.clean, reference, edges, fixed)
        expected = one.value({reader: heard[reader] for reader in receivers})
        ours = float(found["patched"].sel(sender=sender)[0])
        assert ours == pytest.approx(expected, abs=2e-3), sender
    assert float(np.abs(found["patched"] - found["clean"]).max()) > 0.02


def receivers_of(hand: Apart) -> list[str]:
    names = []
    for i in hand.layers:
        names += [
            f"a{i}.h{h}.{k}" for k in "qkv" for h in range(N_HEADS if k == "q" else hand.n_keys)
        ]
        names.append(f"m{i}")
    return names


def feeds(reader: str, writer: str, hand: Apart) -> bool:
    """Whether the reader is an input of the writer."""
    if writer[0] == "m" or reader[0] == "m":
        return reader == writer
    layer, head = writer[1:].split(".h")
    shared = int(head) if reader[-1] == "q" else int(head) * hand.n_keys // N_HEADS
    return reader[:-2] == f"a{layer}.h{shared}"


@pytest.mark.parametrize("name", SPECIAL[1:])  # experts do not run in double precision
def test_an_estimate_is_the_slope_of_the_exact_edge(case: Any, name: str) -> None:
    """With as little of the change as goes, the norms behind moving along."""
    little = 1e-4 if name == "OPT" else 3e-3  # its neurons have a kink; others' norms round
    hand = Apart(MODELS[name], double=True)
    found = attribute_edges(case(name).model, case(name).pairs, method="eap")["score"]
    clean, corrupt = hand.run(CLEAN), hand.run(CORRUPT)
    largest = float(np.abs(found).max())
    for reader in ("a0.h1.v", "a1.h2.q", "a1.h1.k", "m0", "m1", "logits"):
        reads = hand.reads(reader)
        stream = sum(clean.written[writer] for writer in reads)
        for writer in [*reads[:3], reads[-1]]:
            step = little * (corrupt.written[writer] - clean.written[writer])
            up, down = (metric(hand.told(CLEAN, {reader: stream + s})) for s in (step, -step))
            ours = float(found.sel(source=writer, destination=reader))
            assert ours == pytest.approx((down - up) / (2 * little), abs=2e-3 * largest), (
                writer,
                reader,
            )


def test_edges_in_half_precision_are_those_of_single_precision_rounded() -> None:
    built = [MODELS["Gemma 2"].build().to(torch.bfloat16) for _ in range(2)]
    scores = []
    for hf in (built[0], built[1].float()):
        model = load_model(hf, tokenizer=build_tokenizer())
        ids = (torch.tensor([row]) for row in (CLEAN, CORRUPT))
        pairs = PromptPairs(model, *ids, torch.tensor([ANSWER]), torch.tensor([FOIL]))
        scores.append(attribute_edges(model, pairs, method="eap")["score"])
    largest = float(np.abs(scores[1]).max())
    np.testing.assert_allclose(*scores, rtol=0, atol=0.05 * largest)


@pytest.mark.parametrize("method", ["exact", "eap"])
def test_edges_of_gemma_2_are_those_of_a_hooked_transformer(method: Any) -> None:
    """Stored answers of TransformerLens 2.18; `make_gemma2_edges.py` says how they were made."""
    with np.load(Path(__file__).with_name("gemma2_edges.npz"), allow_pickle=False) as stored:
        given = {name: stored[name] for name in stored}
    model = load_model(GEMMA.build(), tokenizer=build_tokenizer())
    tokens = (torch.from_numpy(given[name]) for name in ("clean", "corrupt", "answer", "foil"))
    found = attribute_edges(model, PromptPairs(model, *tokens), method=method)
    assert list(found["source"].values) == list(given["sources"])
    assert list(found["destination"].values) == list(given["destinations"])
    largest = float(np.nanmax(np.abs(given[method])))
    assert largest > 0.1
    np.testing.assert_allclose(found["by_example"], given[method], rtol=0, atol=2e-4 * largest)
