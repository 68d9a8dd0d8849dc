"""A patchscope is what Hugging Face's model writes with the vector put in by torch's own hooks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from interp import load_model, patchscope, transplant
from interp.errors import DirectionError, MetricError, PromptError, SiteError
from interp.forward.source import is_hooked
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import N_SPECIAL, VOCABULARY, build_tokenizer
from tests.interp.vectors.whole_passes import Built

pytestmark = pytest.mark.slow

SOURCES = ["we saw Ann near Rome", "so Fay is near Oslo", "who saw Bo then"]
TARGETS = ["Cy is Cy and Dee is Dee and who", "so is Gus so who", "the friend of who"]
N_NEW = 3


def written(
    built: Built, site: str, text: str, layer: int, at: list[int], vector: Tensor
) -> tuple[list[int], Tensor]:
    """Greedy tokens, and log-probabilities of the first [vocabulary], by whole passes."""
    ids, first = built.ids(text), None
    new: list[int] = []
    for _ in range(N_NEW):
        logits = built.logits(site, [*ids, *new], [(layer, at, vector)])[-1]
        first = logits.log_softmax(-1) if first is None else first
        new.append(int(logits.argmax()))
    assert first is not None
    return new, first


def words_of(ids: list[int]) -> list[str]:
    return [VOCABULARY[i] for i in ids if i >= N_SPECIAL]


def check(
    found: xr.Dataset, prefix: str, cell: dict[str, int], ids: list[int], first: Tensor
) -> None:
    one = found.isel(**cell)
    assert str(one[f"{prefix}text"].item()).split() == words_of(ids)
    best = first.topk(5).values
    np.testing.assert_allclose(one[f"{prefix}top_logprob"], best, atol=5e-4)
    assert one[f"{prefix}top_token"].values[0].strip() == VOCABULARY[int(first.argmax())]


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_every_cell_is_written_as_by_hand(built: Built, site: str) -> None:
    """Prompts of unequal length; a span of several placeholders in some."""
    at = [[-1], [0, 2], [1]]
    found = patchscope(
        built.model,
        SOURCES,
        TARGETS,
        source_at=2,
        target_at=at,
        site=site,
        max_new_tokens=N_NEW,
        stop_at_eos=False,
    )
    assert found.sizes == {
        "example": 3, "source_layer": built.n_layers, "target_layer": built.n_layers, "k": 5
    }  # fmt: skip
    assert found.attrs["control"] == "another example's vector"
    texts = set()
    for example, text in enumerate(TARGETS):
        places = [p % len(built.ids(text)) for p in at[example]]
        for s in range(built.n_layers):
            for which, prefix in ((example, ""), ((example + 1) % 3, "control_")):
                vector = built.activation(site, s, SOURCES[which])[2].clone()
                for t in range(built.n_layers):
                    cell = {"example": example, "source_layer": s, "target_layer": t}
                    ids, first = written(built, site, text, t, places, vector)
                    check(found, prefix, cell, ids, first)
                    texts.add(found[f"{prefix}text"][example, s, t].item())
        plain, first = written(built, site, text, 0, [], torch.zeros(()))
        check(found, "unpatched_", {"example": example}, plain, first)
    assert len(texts) > 4
    assert not is_hooked(built.model)
    assert found["control_prompt"].values.tolist() == [SOURCES[1], SOURCES[2], SOURCES[0]]


def test_the_next_tokens_are_those_of_a_transplant(gpt2: Built) -> None:
    options: dict[str, Any] = {"source_at": -1, "target_at": 1, "next_tokens": 4}
    found = patchscope(gpt2.model, SOURCES, TARGETS[0], max_new_tokens=0, **options)
    assert "text" not in found
    expected = transplant(gpt2.model, SOURCES, TARGETS[0], **options)
    np.testing.assert_allclose(np.exp(found["top_logprob"]), expected["top_prob"], atol=1e-5)
    np.testing.assert_array_equal(found["top_token"], expected["top_token"])
    np.testing.assert_array_equal(found["unpatched_top_token"], expected["unpatched_top_token"])


def test_pieces_change_nothing(gpt2: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    options: dict[str, Any] = {"max_new_tokens": 2, "stop_at_eos": False}
    whole = patchscope(gpt2.model, SOURCES, TARGETS, **options)
    for name in ("interp.vectors.scope", "interp.generation.reading"):
        monkeypatch.setattr(f"{name}.room_to_keep", lambda model: 40_000)
    pieces = patchscope(
        gpt2.model, SOURCES, TARGETS, progress=lambda *at: seen.append(at), **options
    )
    xr.testing.assert_allclose(whole, pieces, atol=1e-4)
    total = 2 * 3 * 2 * 2 * 2
    assert seen[-1] == (total, total)
    assert len({done for done, _ in seen}) > 3
    assert seen == sorted(seen)


def test_a_given_control_and_one_prompt_alone(gpt2: Built) -> None:
    alone = patchscope(gpt2.model, SOURCES[0], TARGETS[0], max_new_tokens=2)
    assert alone.attrs["control"] == "none"
    assert not any(str(name).startswith("control") for name in alone.variables)
    beside = patchscope(
        gpt2.model, SOURCES[0], TARGETS[0], control=SOURCES[2], control_at=1, max_new_tokens=2
    )
    other = patchscope(gpt2.model, SOURCES[2], TARGETS[0], source_at=1, max_new_tokens=2)
    np.testing.assert_array_equal(beside["text"], alone["text"])
    np.testing.assert_allclose(beside["control_top_logprob"], other["top_logprob"], atol=1e-5)
    np.testing.assert_array_equal(beside["control_text"], other["text"])


def test_a_mapping_lies_between_the_streams(gpt2: Built) -> None:
    """Also from a model of another width."""
    turned = patchscope(gpt2.model, SOURCES[0], TARGETS[0], mapping=-torch.eye(32))
    vector = -gpt2.activation("resid_post", 1, SOURCES[0])[-1]
    _, first = written(gpt2, "resid_post", TARGETS[0], 0, [-1], vector)
    best = first.topk(5).values
    np.testing.assert_allclose(turned["top_logprob"][0, 1, 0], best, atol=5e-4)
    wide = ARCHITECTURES["Llama"]
    other = load_model(
        type(wide)("Llama", {**wide.settings, "hidden_size": 16, "head_dim": 4}).build(),
        tokenizer=build_tokenizer(),
    )
    generator = torch.Generator().manual_seed(0)
    mapping = torch.randn(2, 16, 32, generator=generator)
    crossed = patchscope(
        gpt2.model, SOURCES, TARGETS[0], source_model=other, mapping=mapping, max_new_tokens=1
    )
    with torch.no_grad():
        ids_read = torch.tensor([other.token_ids(SOURCES[1])])
        hidden = other.bridge.original_model(ids_read, output_hidden_states=True).hidden_states
    vector = hidden[1][0, -1] @ mapping[0]
    _, first = written(gpt2, "resid_post", TARGETS[0], 1, [-1], vector)
    np.testing.assert_allclose(crossed["top_logprob"][1, 0, 1], first.topk(5).values, atol=5e-4)
    assert crossed.attrs["source_fingerprint"] == other.fingerprint
    # A map belongs to the layer that was named where it stands, whatever their order.
    turned = patchscope(
        gpt2.model,
        SOURCES,
        TARGETS[0],
        source_model=other,
        source_layers=[1, 0],
        mapping=mapping.flip(0),
        max_new_tokens=1,
    )
    assert turned["source_layer"].values.tolist() == [0, 1]
    np.testing.assert_array_equal(turned["top_logprob"], crossed["top_logprob"])
    with pytest.raises(SiteError, match="same widths"):
        patchscope(gpt2.model, SOURCES, TARGETS[0], source_model=other)


def test_a_mapping_in_half_precision_does_not_round_the_vectors(gpt2: Built) -> None:
    """The identity is the same number in any precision."""
    exact, half = (
        patchscope(gpt2.model, SOURCES[0], TARGETS[0], mapping=one, max_new_tokens=0)
        for one in (torch.eye(32), torch.eye(32, dtype=torch.bfloat16))
    )
    np.testing.assert_array_equal(half["top_logprob"], exact["top_logprob"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": SOURCES[:2]}, PromptError, "2 source and 3 target"),
        ({"source": []}, PromptError, "no source prompts"),
        ({"source": ["", "so", "so"]}, PromptError, "empty"),
        ({"control": SOURCES[:2]}, PromptError, "2 control and 3 target"),
        ({"control_at": 0}, PromptError, "give control"),
        ({"source_at": [[0, 1], [0], [0]]}, PromptError, "name the one that is read"),
        ({"target_at": [[], [0], [0]]}, PromptError, "0 tokens"),
        ({"source_at": ["last", 0]}, PromptError, "one place"),
        ({"source_at": 20}, PromptError, "no position 20"),
        ({"source_at": "subject"}, PromptError, "no place 'subject'"),
        ({"site": "pattern"}, SiteError, "no vectors"),
        ({"source_layers": [7]}, SiteError, "out of range"),
        ({"target_layers": []}, SiteError, "No layers"),
        ({"max_new_tokens": 40}, PromptError, "ask for at most"),
        ({"max_new_tokens": -1}, PromptError, "Nothing would be read"),
        ({"max_new_tokens": 0, "next_tokens": 0}, PromptError, "Nothing would be read"),
        ({"next_tokens": 10_000}, MetricError, "cannot be kept"),
        ({"mapping": torch.eye(31)}, DirectionError, "does not fit"),
        (
            {"mapping": torch.zeros(2, 32, 32), "source_layers": [0, 1, 0]},
            SiteError,
            "named twice",
        ),
        ({"mapping": torch.full((32, 32), torch.nan)}, DirectionError, "finite"),
        ({"mapping": torch.eye(8), "site": "z"}, SiteError, "stream to stream"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    gpt2: Built, options: dict[str, Any], error: Any, message: str
) -> None:
    given = {"source": SOURCES, "target": TARGETS, **options}
    with pytest.raises(error, match=message):
        patchscope(gpt2.model, **given)
    assert not is_hooked(gpt2.model)


def test_probabilities_are_probabilities(gpt2: Built) -> None:
    found = patchscope(gpt2.model, SOURCES[0], TARGETS[0], next_tokens=len(VOCABULARY))
    total = np.exp(found["top_logprob"]).sum("k")
    assert math.isclose(float(total.min()), 1, abs_tol=1e-4)
    assert math.isclose(float(total.max()), 1, abs_tol=1e-4)
