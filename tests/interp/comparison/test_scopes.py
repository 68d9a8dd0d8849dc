"""What a model writes with a mean difference in a prompt, by a hook on Hugging Face's model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

from interp.comparison import mean_difference, patchscope_difference
from interp.errors import ArgumentError, DirectionError, MetricError, ModelError, PromptError
from tests.interp import surgery
from tests.interp.architectures import ARCHITECTURES
from tests.interp.comparison.by_hand import Two, loaded
from tests.interp.tiny import VOCABULARY

TEXTS = ["the friend of Dee", "Riga is near home", "so we saw Hal"]
TARGET = "Ann is Ann and Bo"


@pytest.fixture(scope="module")
def made(two: Callable[[str], Two]) -> Two:
    return two("Llama")


@pytest.fixture(scope="module")
def means(made: Two) -> xr.Dataset:
    return mean_difference(made.base, made.tuned, TEXTS, tokens=2)


@pytest.mark.slow
def test_texts_are_what_a_hook_makes(made: Two, means: xr.Dataset) -> None:
    scales = (0.5, 2.0)
    found = patchscope_difference(
        made.base, means, TARGET, at=[[2, 5]], scales=scales, max_new_tokens=3, draws=2
    )
    layout, hf = ARCHITECTURES["Llama"].layout, made.hf["base"]
    ids = made.base.token_ids(TARGET)
    for layer in (1, 2):
        for position in range(2):
            at = {"layer": layer, "position": position}
            vector = torch.tensor(means["difference"].sel(at).values)
            size = float(means["base_norm"].sel(at))
            for scale in scales:
                put = vector / vector.norm() * size * scale

                def write(value: torch.Tensor, put: torch.Tensor = put) -> None:
                    value[2], value[5] = put, put

                written = list(ids)
                for step in range(3):
                    with surgery.intervened(hf, layout, "resid_post", layer - 1, write):
                        logits = surgery.logits(hf, written)[-1]
                    if step == 0:
                        one = found.sel(at).sel(scale=scale)
                        best = logits.log_softmax(-1).topk(5)
                        tokens = [VOCABULARY[i] for i in best.indices.tolist()]
                        assert one["top_token"].values.tolist() == tokens
                        np.testing.assert_allclose(one["top_logprob"], best.values, atol=1e-4)
                    written.append(int(logits.argmax()))
                    if written[-1] == hf.config.eos_token_id:
                        break
                text = made.base.decode(written[len(ids) :]).split()
                assert str(one["text"].values).split() == text
    assert found["control_text"].dims == ("draw", "layer", "position", "scale")
    plain = surgery.logits(hf, ids)[-1].argmax()
    assert found["unpatched_top_token"].values[0] == VOCABULARY[int(plain)]


@pytest.mark.slow
def test_each_difference_goes_to_its_own_layer(made: Two, means: xr.Dataset) -> None:
    plain = patchscope_difference(made.base, means, TARGET, max_new_tokens=1)
    back = patchscope_difference(made.base, means.isel(layer=[2, 0, 1]), TARGET, max_new_tokens=1)
    xr.testing.assert_identical(back, plain)
    for wrong in (means.isel(layer=[0, 1]), means.isel(layer=[1, 1, 2]), means.isel(layer=1)):
        with pytest.raises(DirectionError, match="lack layers"):
            patchscope_difference(made.base, wrong, TARGET)
    with pytest.raises(DirectionError, match="no dimension 'position'"):
        patchscope_difference(made.base, means.isel(position=0), TARGET)
    with pytest.raises(ArgumentError, match="mean_difference"):
        patchscope_difference(made.base, means.drop_vars("difference"), TARGET)


@pytest.mark.slow
def test_no_difference_writes_nothing(made: Two) -> None:
    means = mean_difference(made.base, loaded(made.hf["base"]), TEXTS, tokens=2)
    found = patchscope_difference(made.base, means, TARGET, max_new_tokens=2)
    assert (found["text"] == "").all()
    assert np.isnan(found["top_logprob"]).all()
    assert str(found["unpatched_text"].values)


@pytest.mark.slow
def test_what_cannot_be_asked_is_told(made: Two, means: xr.Dataset) -> None:
    other = loaded(ARCHITECTURES["GPT-2"].build())
    with pytest.raises(ModelError, match="neither"):
        patchscope_difference(other, means, TARGET)
    for scales in ((), (0.0,), (float("nan"),)):
        with pytest.raises(DirectionError):
            patchscope_difference(made.base, means, TARGET, scales=scales)
    for wrong in ({"at": 40}, {"at": ["last", 1]}, {"max_new_tokens": 99}, {"draws": -1}):
        with pytest.raises(PromptError):
            patchscope_difference(made.base, means, TARGET, **wrong)  # type: ignore[arg-type]
    with pytest.raises(MetricError):
        patchscope_difference(made.base, means, TARGET, next_tokens=10_000)
    with pytest.raises(PromptError):
        patchscope_difference(made.base, means, "")
