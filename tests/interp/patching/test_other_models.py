"""Values recorded for each token, from another model's run, put in cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp import PromptPairs, capture, estimate, sweep
from interp.errors import SiteError
from interp.execute import Executor
from interp.loading.load import load_model
from interp.model.model import Model
from tests.interp.pairs import CASES, prompt_pairs
from tests.interp.tiny import Tiny, save

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same architecture with other weights."""
    return load_model(save("llama", tmp_path_factory.mktemp("other"), seed=1))


def recorded(model: Model, pairs: PromptPairs, site: str, run: str) -> dict[int, torch.Tensor]:
    found = capture(model, pairs.prompts(run), site)  # type: ignore[arg-type]
    return {layer: found[f"{site}.{layer}"] for layer in range(model.n_layers)}


@pytest.mark.parametrize(("site", "hook"), [("resid_pre", "hook_resid_pre"), ("z", "attn.hook_z")])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_each_cell_is_a_pass_with_the_other_models_activation(
    llama: Tiny, other: Model, site: str, hook: str, direction: str
) -> None:
    model, pairs = llama.model, prompt_pairs(llama)
    run = "clean" if direction == "noising" else "corrupt"
    values = recorded(other, pairs, site, run)
    found = sweep(model, pairs, site, by="position", source=values, direction=direction)  # type: ignore[arg-type]
    assert found.attrs["source"] == "given"
    slots = getattr(pairs.alignment, run)
    for layer in range(model.n_layers):
        for example in range(len(CASES)):
            ids = torch.tensor([pairs.prompts(run).row(example)])  # type: ignore[arg-type]
            for slot, token in enumerate(slots[example]):
                if token < 0:
                    assert np.isnan(found["patched"][example, layer, slot])
                    continue
                new = values[layer][example, token]

                def put(
                    value: torch.Tensor, hook: object, at: int = token, new: torch.Tensor = new
                ) -> torch.Tensor:
                    value = value.clone()
                    value[0, at] = new
                    return value

                with torch.no_grad():
                    logits = model.bridge.run_with_hooks(
                        ids, fwd_hooks=[(f"blocks.{layer}.{hook}", put)], use_cache=False
                    )[0, -1]
                answer, foil = (pairs.first_tokens(which)[example] for which in ("answer", "foil"))
                expected = float(logits[answer] - logits[foil])
                assert float(found["patched"][example, layer, slot]) == pytest.approx(
                    expected, abs=1e-4
                )


def test_slices_and_whole_answers_get_their_own_examples(
    llama: Tiny, other: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = llama.model, prompt_pairs(llama)
    values = recorded(other, pairs, "resid_pre", "clean")
    whole = sweep(model, pairs, "resid_pre", "logprob_diff", source=values)
    # One pair in each slice.
    monkeypatch.setattr("interp.patching.slices.CELLS_PER_SLICE", 1.0)
    monkeypatch.setattr("interp.patching.slices.OPERATIONS_PER_SLICE", 1.0)
    sliced = sweep(
        model, pairs, "resid_pre", "logprob_diff", source=values, executor=Executor("serial")
    )
    np.testing.assert_allclose(sliced["patched"], whole["patched"], atol=1e-5)
    with monkeypatch.context() as memory:  # one example and one row at a time
        memory.setattr("interp.model.memory.memory_budget", lambda _model: 1)
        few = sweep(model, pairs, "resid_pre", "logprob_diff", source=values)
    np.testing.assert_allclose(few["patched"], whole["patched"], atol=1e-5)
    for example in (0, len(pairs) - 1):
        alone = {layer: value[example : example + 1] for layer, value in values.items()}
        one = sweep(model, pairs.subset([example]), "resid_pre", "logprob_diff", source=alone)
        np.testing.assert_allclose(one["patched"][0], whole["patched"][example], atol=1e-5)


def test_an_estimate_is_exact_where_the_values_move_a_little(llama: Tiny) -> None:
    model, pairs = llama.model, prompt_pairs(llama)
    values = recorded(model, pairs, "mlp_out", "clean")
    nudged = {layer: value + 1e-3 for layer, value in values.items()}
    exact = sweep(model, pairs, "mlp_out", source=nudged, by="position")
    guess = estimate(model, pairs, "mlp_out", source=nudged, by="position")
    moved = exact["patched"] - exact["clean"]
    np.testing.assert_allclose(
        guess["patched"] - guess["clean"], moved, atol=0.05 * float(np.abs(moved).max())
    )


def test_a_models_own_values_change_nothing(llama: Tiny) -> None:
    model, pairs = llama.model, prompt_pairs(llama)
    values = recorded(model, pairs, "resid_post", "clean")
    found = sweep(model, pairs, "resid_post", source=values)
    assert float(np.abs(found["patched"] - found["clean"]).max()) < 1e-5


def test_values_that_do_not_fit_are_refused(llama: Tiny) -> None:
    model, pairs = llama.model, prompt_pairs(llama)
    values = recorded(model, pairs, "resid_pre", "clean")
    for wrong in (
        {layer: value[:1] for layer, value in values.items()},
        {layer: value[:, :2] for layer, value in values.items()},
        {layer: value[..., :3] for layer, value in values.items()},
        {0: values[0]},
    ):
        with pytest.raises(SiteError, match=r"shape .* for each token"):
            sweep(model, pairs, "resid_pre", source=wrong)
    holed = {layer: value.clone() for layer, value in values.items()}
    holed[1][0, 1, 0] = torch.inf
    with pytest.raises(SiteError, match="layer 1 are not all finite"):
        sweep(model, pairs, "resid_pre", source=holed)
