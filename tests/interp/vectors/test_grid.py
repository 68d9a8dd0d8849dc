"""Every cell of a transplant is a whole pass of Hugging Face's model with torch's own hooks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import Intervention, applied, load_model, span_mask, transplant
from interp.errors import PromptError, SiteError
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import build_tokenizer, words
from tests.interp.vectors.whole_passes import Built

# Of unequal length, and the subject at other places, of one token and of two.
SOURCE = ["we saw Ann near Rome and then", "so Fay Jo is", "the friend of Bo is near"]
TARGET = ["who is Cy so", "near Oslo we saw Dee Eve and the", "Hal is the friend of"]
SOURCE_SPANS = {"subject": ["Ann", "Fay Jo", "Bo"]}
TARGET_SPANS = {"subject": ["Cy", "Dee Eve", "Hal"]}
ANSWERS = [" Gus Jo", " Ida", " Cy Riga Bonn"]
# Token numbers of the subjects without BOS.
SOURCE_AT = [[2], [1, 2], [3]]
TARGET_AT = [[2], [4, 5], [0]]
# Of the cells of a whole grid so many are compared; no factor of any axis of it.
EVERY = 5
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def bos(built: Built) -> int:
    return len(built.ids("so")) - 1


def expected(
    built: Built,
    site: str,
    example: int,
    layers: tuple[int, int],
    source: Sequence[int],
    target: Sequence[int],
    head: int | None = None,
) -> float:
    """One pass; `source` and `target` are tokens, paired in order."""
    read = built.activation(site, layers[0], SOURCE[example])
    rest = () if head is None else (head,)
    writes = [
        (layers[1], (there, *rest), read[(here, *rest)])
        for here, there in zip(source, target, strict=True)
    ]
    return built.logprob(site, TARGET[example], ANSWERS[example].strip(), writes)


def run(built: Built, **settings: Any) -> xr.Dataset:
    given = {"source_spans": SOURCE_SPANS, "target_spans": TARGET_SPANS, "answers": ANSWERS}
    return transplant(built.model, SOURCE, TARGET, **{**given, **settings})


@pytest.mark.slow
@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out", "z"])
def test_each_cell_is_a_whole_pass(built: Built, site: str) -> None:
    found = run(built, site=site, source_at="subject -1", target_at=None)
    patched = found["patched"]
    assert patched.dims == ("example", "source_layer", "target_layer", "target_position")
    extra, n = bos(built), built.n_layers
    moved = []
    for example, text in enumerate(TARGET):
        here = SOURCE_AT[example][-1] + extra
        length = len(built.ids(text))
        of_example = patched[example].values
        assert np.isfinite(of_example).sum() == n * n * length
        there = [at for at in range(patched.shape[-1]) if np.isfinite(of_example[0, 0, at])]
        cells = list(itertools.product(range(n), range(n), enumerate(there)))
        for source, target, (position, at) in cells[example::EVERY]:
            one = expected(built, site, example, (source, target), [here], [position])
            np.testing.assert_allclose(of_example[source, target, at], one, **TOLERANCE)
        plain = built.logprob(site, text, ANSWERS[example].strip(), [])
        np.testing.assert_allclose(found["unpatched"][example], plain, **TOLERANCE)
        moved.append(np.abs(of_example - plain))
    assert max(np.nanmax(one) for one in moved) > 0.1


@pytest.mark.slow
def test_spans_of_as_many_tokens_are_carried_in_order(gpt2: Built) -> None:
    found = run(gpt2, source_at="subject", target_at="subject")
    assert found["patched"].dims == ("example", "source_layer", "target_layer")
    for example in range(3):
        here, there = ([at + 1 for at in rows[example]] for rows in (SOURCE_AT, TARGET_AT))
        for layers in np.ndindex(2, 2):
            one = expected(gpt2, "resid_post", example, layers, here, there)
            np.testing.assert_allclose(found["patched"][example].values[layers], one, **TOLERANCE)
    # The same, as numbers for each example and as masks.
    numbers = {
        "source_at": [[at + 1 for at in row] for row in SOURCE_AT],
        "target_at": torch.zeros(3, 10, dtype=torch.bool),
    }
    for example, row in enumerate(TARGET_AT):
        numbers["target_at"][example, [at + 1 for at in row]] = True  # type: ignore[call-overload]
    again = run(gpt2, source_spans=None, target_spans=None, **numbers)
    np.testing.assert_array_equal(again["patched"], found["patched"])
    mask = span_mask(gpt2.model, TARGET, TARGET_SPANS["subject"])
    again = run(gpt2, source_at="subject", target_at=mask)
    np.testing.assert_array_equal(again["patched"], found["patched"])


@pytest.mark.slow
def test_numbers_are_paired_in_the_order_in_which_they_are_given(gpt2: Built) -> None:
    """Before the first block, behind which another block still tells who stands where."""
    here, there = ([[at + 1 for at in row] for row in rows] for rows in (SOURCE_AT, TARGET_AT))
    turned = [row[::-1] for row in here]
    settings: dict[str, Any] = {
        "site": "resid_pre",
        "source_spans": None,
        "target_spans": None,
        "target_at": there,
    }
    found = run(gpt2, source_at=turned, **settings)["patched"]
    for example in range(3):
        one = expected(gpt2, "resid_pre", example, (1, 0), turned[example], there[example])
        np.testing.assert_allclose(found[example, 1, 0], one, **TOLERANCE)
    ascending = run(gpt2, source_at=here, **settings)["patched"]
    assert abs(float((found - ascending)[1, 1, 0])) > 0.01


@pytest.mark.slow
def test_one_token_goes_to_every_token_of_a_span(gpt2: Built) -> None:
    found = run(gpt2, source_at=["subject -1", -1], target_at=["last", "subject"])
    assert found["patched"].dims[3:] == ("source_position", "target_position")
    assert list(found["source_position"].values) == ["subject -1", "-1"]
    assert list(found["target_position"].values) == ["last", "subject"]
    assert found["source_token"].values[1].tolist() == ["Jo", "is"]
    assert found["target_token"].values[1].tolist() == ["the", "Dee Eve"]
    for example in range(3):
        ends = [SOURCE_AT[example][-1] + 1, len(gpt2.ids(SOURCE[example])) - 1]
        spans = [[len(gpt2.ids(TARGET[example])) - 1], [at + 1 for at in TARGET_AT[example]]]
        for where in np.ndindex(2, 2, 2, 2):
            there = spans[where[3]]
            here = [ends[where[2]]] * len(there)
            one = expected(gpt2, "resid_post", example, where[:2], here, there)
            np.testing.assert_allclose(found["patched"][example].values[where], one, **TOLERANCE)


@pytest.mark.parametrize("metric", ["logit_diff", "logprob_diff", "rank", "probability"])
def test_every_metric_is_read_as_in_a_whole_pass(gpt2: Built, metric: str) -> None:
    foils = [" Bo", " Eve Ann", " Hal"]
    found = run(gpt2, metric=metric, foils=foils, source_at="last", target_at="last", next_tokens=2)
    for example, layers in ((0, (0, 0)), (1, (1, 0)), (2, (0, 1))):
        here = len(gpt2.ids(SOURCE[example])) - 1
        there = len(gpt2.ids(TARGET[example])) - 1
        one = expected(gpt2, "resid_post", example, layers, [here], [there])
        read = gpt2.activation("resid_post", layers[0], SOURCE[example])[here]
        write = [(layers[1], there, read)]
        foil = gpt2.logprob("resid_post", TARGET[example], foils[example].strip(), write)
        logits = gpt2.logits("resid_post", gpt2.ids(TARGET[example]), write)[-1]
        first, other = (words(text[example])[0] for text in (ANSWERS, foils))
        value = {
            "logit_diff": float(logits[first] - logits[other]),
            "logprob_diff": one - foil,
            "rank": float((logits > logits[first]).sum()),
            "probability": np.exp(one),
        }[metric]
        got = found["patched"][example].values[layers]
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5)
        top = logits.softmax(-1).topk(2).values
        np.testing.assert_allclose(found["top_prob"][example].values[layers], top, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_in_every_dtype(gpt2: Built, dtype: torch.dtype) -> None:
    hf = ARCHITECTURES["GPT-2"].build().to(dtype)
    model = load_model(hf, tokenizer=build_tokenizer())
    assert model.dtype == dtype
    given = {"source_at": "last", "target_at": -2, "answers": ANSWERS}
    found = transplant(model, SOURCE, TARGET, **given)  # type: ignore[arg-type]
    single = transplant(gpt2.model, SOURCE, TARGET, **given)  # type: ignore[arg-type]
    atol = 1e-4 if dtype == torch.float64 else 0.5
    np.testing.assert_allclose(found["patched"], single["patched"], atol=atol)
    # Vectors of a model of another dtype are written in this one's.
    crossed = transplant(model, SOURCE, TARGET, source_model=gpt2.model, **given)  # type: ignore[arg-type]
    np.testing.assert_allclose(crossed["patched"], single["patched"], atol=atol)


@pytest.mark.slow
def test_numbers_may_be_numpys_or_torchs(gpt2: Built) -> None:
    plain = run(gpt2, source_at=[1, -1], target_at=2)
    for several, one in (
        (np.array([1, -1]), np.int64(2)),
        (torch.tensor([1, -1]), torch.tensor(2)),
        ([np.int64(1), np.int64(-1)], 2),
    ):
        found = run(gpt2, source_at=several, target_at=one)
        assert found["patched"].equals(plain["patched"])


@pytest.mark.slow
def test_a_result_is_kept_in_a_file(gpt2: Built, tmp_path: Path) -> None:
    found = run(gpt2, source_at=["last"], target_at=None, next_tokens=2)
    found.to_netcdf(tmp_path / "moved.nc", engine="h5netcdf")
    again = xr.load_dataset(tmp_path / "moved.nc", engine="h5netcdf")
    np.testing.assert_array_equal(again["patched"], found["patched"])
    assert list(again["source_position"].values) == ["last"]


@pytest.mark.slow
def test_hooks_of_the_users_own_are_part_of_the_model(gpt2: Built) -> None:
    silent = Intervention.silence("mlp_out.1")
    given = {"source_at": "last", "target_at": "last", "answers": ANSWERS}
    before = transplant(gpt2.model, SOURCE, TARGET, **given)  # type: ignore[arg-type]
    with applied(gpt2.model, silent):
        found = transplant(gpt2.model, SOURCE, TARGET, **given)  # type: ignore[arg-type]
    after = transplant(gpt2.model, SOURCE, TARGET, **given)  # type: ignore[arg-type]
    np.testing.assert_array_equal(before["patched"], after["patched"])
    block = gpt2.hf.get_submodule(gpt2.layout.blocks)[1]
    with block.get_submodule(gpt2.layout.mlp_out).register_forward_hook(lambda *a: a[2] * 0):
        for layers in np.ndindex(2, 2):
            here, there = len(gpt2.ids(SOURCE[0])) - 1, len(gpt2.ids(TARGET[0])) - 1
            one = expected(gpt2, "resid_post", 0, layers, [here], [there])
            np.testing.assert_allclose(found["patched"][0].values[layers], one, **TOLERANCE)


def test_one_head_is_carried_alone(gpt2: Built) -> None:
    found = run(gpt2, site="z", head=2, source_at=-1, target_at="subject -1", source_layers=[1])
    assert found.attrs["site"] == "z.h2"
    assert list(found["source_layer"].values) == [1]
    for example in range(3):
        here = [len(gpt2.ids(SOURCE[example])) - 1]
        there = [TARGET_AT[example][-1] + 1]
        for layer in range(2):
            one = expected(gpt2, "z", example, (1, layer), here, there, head=2)
            np.testing.assert_allclose(found["patched"][example, 0, layer], one, **TOLERANCE)


def test_an_example_without_the_place_has_no_number(gpt2: Built) -> None:
    found = run(gpt2, source_at="subject -2", target_at="last", next_tokens=1)
    assert np.isnan(found["patched"]).all(("source_layer", "target_layer")).values.tolist() == [
        True,
        False,
        True,
    ]
    assert (found["top_token"][0] == "").all()
    assert (found["top_token"][1] != "").all()
    assert np.isfinite(found["unpatched"]).all()


def test_a_prompts_own_vectors_at_their_own_places_change_nothing(gpt2: Built) -> None:
    found = transplant(
        gpt2.model, TARGET, TARGET, source_at=[2, 3], target_at=[2, 3], answers=ANSWERS
    )
    same = found["patched"].values[:, [0, 1], [0, 1]][:, :, [0, 1], [0, 1]]
    np.testing.assert_allclose(
        same, np.broadcast_to(found["unpatched"].values[:, None, None], same.shape), **TOLERANCE
    )


def test_one_text_stands_for_all_examples(gpt2: Built) -> None:
    one = transplant(gpt2.model, SOURCE, "who is Cy so", next_tokens=2)
    each = transplant(gpt2.model, SOURCE, ["who is Cy so"] * 3, next_tokens=2)
    np.testing.assert_array_equal(one["top_prob"], each["top_prob"])
    assert one["top_prob"].dims == ("example", "source_layer", "target_layer", "k")
    alone = transplant(gpt2.model, SOURCE[0], "who is Cy so", next_tokens=2)
    np.testing.assert_allclose(alone["top_prob"][0], one["top_prob"][0], atol=1e-5)


@pytest.mark.slow
def test_vectors_come_from_another_model(gpt2: Built) -> None:
    other = Built("GPT-NeoX")
    found = run(gpt2, source_model=other.model, source_at="last", target_at="last")
    here = len(other.ids(SOURCE[1])) - 1
    read = other.activation("resid_post", 0, SOURCE[1])[here]
    at = len(gpt2.ids(TARGET[1])) - 1
    one = gpt2.logprob("resid_post", TARGET[1], ANSWERS[1].strip(), [(1, at, read)])
    np.testing.assert_allclose(found["patched"][1, 0, 1], one, **TOLERANCE)
    assert found.attrs["source_fingerprint"] == other.model.fingerprint


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"source_at": "subject"}, PromptError, "2 tokens and 'last' .* 1"),
        ({"source_at": 9}, PromptError, "source prompts has 8 tokens and no position 9"),
        ({"target_at": -7}, PromptError, "target prompts has 5 tokens and no position -7"),
        ({"source_at": "object"}, PromptError, "no place 'object' in the source prompts"),
        ({"source_at": "subject", "source_spans": None}, PromptError, "spans tell"),
        ({"source_at": "subject -3"}, PromptError, "no place 'subject -3'"),
        ({"source_at": [1, 1]}, PromptError, "named twice"),
        ({"source_at": []}, PromptError, "No place"),
        ({"source_at": [[1], [2]]}, PromptError, "2 of 3 source prompts"),
        ({"source_at": [[1], [2, 2], [3]]}, PromptError, "position is named twice"),
        ({"source_at": [[], [], []]}, PromptError, "No example has tokens"),
        ({"target_at": torch.ones(3, 2, dtype=torch.bool)}, PromptError, "mask"),
        ({"target_spans": {"subject": ["Cy", "Dee", "Bo"]}}, PromptError, "not in the prompt"),
        ({"target_spans": {"subject": ["Cy"]}}, PromptError, "1 of 3"),
        ({"site": "pattern"}, SiteError, "no vectors"),
        ({"site": "resid"}, SiteError, "Unknown site"),
        ({"head": 0}, SiteError, "no heads"),
        ({"site": "z", "head": 4}, SiteError, "Head 4"),
        ({"source_layers": [2]}, SiteError, "Layer 2 is out of range"),
        ({"target_layers": []}, SiteError, "No layers"),
        ({"answers": None}, PromptError, "answers"),
        ({"answers": ANSWERS[:2]}, PromptError, "2 answers for 3"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    gpt2: Built, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        run(gpt2, **{"source_at": "last", **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_models_and_prompts_must_fit(gpt2: Built) -> None:
    with pytest.raises(PromptError, match="2 source and 3 target"):
        transplant(gpt2.model, SOURCE[:2], TARGET, next_tokens=1)
    with pytest.raises(SiteError, match="same widths"):
        transplant(
            gpt2.model,
            SOURCE,
            TARGET,
            next_tokens=1,
            site="mlp_act",
            source_model=Built("Llama").model,
        )
