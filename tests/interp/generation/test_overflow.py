"""Of logits that overflow, or are NaN, nothing is the likeliest: refused, or told as missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp import (
    Model,
    Sampling,
    generate,
    load_model,
    logit_lens,
    patchscope,
    put_vectors,
    score_answers,
    stream,
)
from interp.errors import ModelError
from interp.forward.interventions import Intervention
from interp.generation.answers import complete
from interp.metrics import METRICS
from interp.vectors.table import Vectors
from tests.interp.tiny import D_MODEL, N_LAYERS, VOCABULARY, build_tokenizer, llama

SOUND, TOO_LARGE = "we saw Ann near Oslo", "we saw Ann near Rome"


@pytest.fixture(scope="module")
def model() -> Model:
    """In half precision, in which what is read at one of the words is nearly too large."""
    torch.manual_seed(0)
    hf = llama().eval()
    with torch.no_grad():
        hf.model.embed_tokens.weight[VOCABULARY.index("Rome")] = 65_000.0
        for block in hf.model.layers:
            block.self_attn.o_proj.weight *= 2_000.0
    model = load_model(hf.half(), tokenizer=build_tokenizer())
    logit_lens(model, SOUND)
    return model


@pytest.mark.slow
def test_what_overflows_is_not_written_on(model: Model) -> None:
    message = r"no finite logits after '.*Rome': .* from block 0 on; load it in bfloat16"
    for run in (
        lambda: generate(model, [SOUND, TOO_LARGE], max_new_tokens=3),
        lambda: generate(model, TOO_LARGE, max_new_tokens=2, sampling=Sampling(top_p=0.9)),
        lambda: list(stream(model, [TOO_LARGE], max_new_tokens=2)),
        lambda: complete(model, [SOUND, TOO_LARGE], 2),
        lambda: score_answers(model, [SOUND, TOO_LARGE], [" Ann", " Bo"]),
        lambda: patchscope(model, SOUND, TOO_LARGE, next_tokens=0),
        lambda: patchscope(model, SOUND, TOO_LARGE, max_new_tokens=0),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            run()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_model_whose_weights_were_spoilt_is_no_defect_of_its_architecture() -> None:
    model = load_model(llama().eval(), tokenizer=build_tokenizer())
    with torch.no_grad():
        model.bridge.blocks[1].mlp.out.original_component.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"no finite logits after .* block 1 on; look at its we"):
        score_answers(model, [SOUND], [" Ann"])
    with pytest.raises(ModelError, match="no finite logits"):
        logit_lens(model, SOUND)


@pytest.mark.slow
def test_what_an_intervention_makes_infinite_is_told(model: Model) -> None:
    push = Intervention.add(torch.ones(D_MODEL), "resid_post.1", 65_000.0)
    with pytest.raises(ModelError, match=r"no finite logits .* from block [12] on"):
        generate(model, SOUND, max_new_tokens=2, interventions=(push, push))


def test_where_others_are_sound_it_is_missing(model: Model) -> None:
    found = logit_lens(model, [SOUND, TOO_LARGE], [" Ann", " Ann"], positions="last")
    sound, lost = (found.isel(example=i, position=0) for i in range(2))
    assert (sound["answer_rank"] >= 0).all()
    assert (sound["top_token"] != "").all()
    last = lost.sel(layer=N_LAYERS)
    assert (last["top_token"] == "").all()
    for name in ("top_prob", "entropy", "kl", "answer_logprob"):
        assert last[name].isnull().all(), name
    assert int(last["answer_rank"]) == int(last["final_rank"]) == -1
    assert (lost["final_rank"] == -1).all()  # the last layer puts no token first
    assert (lost.sel(layer=0)["top_token"] != "").all()


@pytest.mark.slow
def test_next_tokens_after_vectors_are_missing_too(model: Model) -> None:
    far = torch.zeros(2, D_MODEL)
    far[1] = 65_000.0
    table = Vectors("resid_post", far, example=[0, 0], layer=[0, 0], position=[4, 4], vector=[0, 1])
    for metric in ("rank", "answer_logprob"):
        found = put_vectors(model, [SOUND], table, metric=metric, answers=[" Ann"], next_tokens=2)
        assert np.isfinite(found["patched"].values[0]), metric
        assert np.isnan(found["patched"].values[1]), metric
    assert (found["top_token"].values[0] != "").all()
    assert (found["top_token"].values[1] == "").all()
    assert np.isnan(found["top_prob"].values[1]).all()


def test_no_rank_stands_beside_nan() -> None:
    logits = torch.tensor([[[0.0, 1.0, 2.0]], [[0.0, torch.nan, 2.0]], [[torch.nan, 1.0, 2.0]]])
    targets = torch.tensor([[0], [0], [0]])
    (term,) = METRICS["rank"].terms
    np.testing.assert_array_equal(term.score(logits, targets), [2, np.nan, np.nan])
