"""A site that its model has to show is tried by all that comes to use it, on the bare model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cache import ActivationStore
from interp import (
    Intervention,
    Model,
    PromptPairs,
    Site,
    capture,
    load_model,
    logits,
    record,
    sweep,
)
from interp.errors import SiteError
from interp.forward.access import changing, keeping
from interp.forward.interventions import applied
from interp.generation.stream import generate
from interp.harvest import harvest
from interp.patching import Patch, estimate, patch_once, patch_sets, refine
from interp.sites import hook_points
from probes import collect
from tests.interp import reference
from tests.interp.architectures import BLOOM, N_HEADS, N_LAYERS, Architecture, Layout
from tests.interp.tiny import Tiny, build_tokenizer

PROMPTS = ["we saw Ann near Rome", "so Fay is"]
SITE = "resid_mid"


@pytest.fixture(scope="module")
def bloom() -> Model:
    """Its skip connections start from norms: it has no stream between attention and MLP."""
    settings = {
        "n_layer": N_LAYERS,
        "n_head": N_HEADS,
        "apply_residual_connection_post_layernorm": True,
    }
    return load_model(
        Architecture("Bloom", settings, Layout(**BLOOM)).build(), tokenizer=build_tokenizer()
    )


def pairs(model: Model) -> PromptPairs:
    return PromptPairs(
        model, PROMPTS, ["we saw Bo near Oslo", "so Gus is"], [" Gus", " Jo"], [" Ida", " Cy"]
    )


def nothing(model: Model, door: Callable[..., object], *what: object) -> None:
    with door(model, *what):  # type: ignore[attr-defined]
        pass


SILENCED = Intervention.silence(f"{SITE}.1")
USES: dict[str, Callable[[Model, Path], object]] = {
    "keeping": lambda model, _: nothing(model, keeping, [Site(SITE, 1)]),
    "changing": lambda model, _: nothing(model, changing, [(Site(SITE, 1), torch.neg)]),
    "record": lambda model, _: record(model, torch.tensor([[5, 6]]), [Site(SITE, 1)]),
    "capture": lambda model, _: capture(model, PROMPTS, SITE),
    "capture while changed": lambda model, _: capture(
        model, PROMPTS, SITE, interventions=Intervention.silence("attn_out.0")
    ),
    "steer": lambda model, _: logits(model, PROMPTS, interventions=SILENCED),
    "applied": lambda model, _: nothing(model, applied, SILENCED),
    "generate": lambda model, _: generate(model, PROMPTS, max_new_tokens=1, sites=SITE),
    "sweep": lambda model, _: sweep(model, pairs(model), SITE),
    "estimate": lambda model, _: estimate(model, pairs(model), SITE),
    "refine": lambda model, _: list(refine(model, pairs(model), SITE)),
    "patch_once": lambda model, _: patch_once(model, pairs(model), SITE, 1, position=1),
    "patch_sets": lambda model, _: patch_sets(model, pairs(model), {"a": [Patch(f"{SITE}.1")]}),
    "store": lambda model, path: ActivationStore(path).get(model, PROMPTS, SITE),
    "harvest": lambda model, path: harvest(
        model, PROMPTS, [SITE], store=ActivationStore(path), context=4
    ),
    "probes": lambda model, _: collect(model, PROMPTS, f"{SITE}.1"),
}


@pytest.mark.parametrize("use", USES)
def test_no_way_leads_around_the_trial(bloom: Model, use: str, tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="do not add the MLP's output"):
        USES[use](bloom, tmp_path / "store")


@pytest.mark.slow
def test_what_others_have_placed_has_no_part_in_the_trial(llama: Tiny) -> None:
    """Changed activations are no sum of what was added to them: the bare model is tried."""
    model = load_model(llama.folder)
    ids = tuple(llama.ids(PROMPTS[0]))
    with applied(model, Intervention.silence("resid_post.1")):
        (point,) = hook_points(model, [Site("resid_post", 1)]).values()
        before = list(point.fwd_hooks), dict(point._forward_hooks)
        assert before[0]
        found = capture(model, PROMPTS[:1], ["resid_mid.0", "resid_pre.2"])
        assert (point.fwd_hooks, dict(point._forward_hooks)) == before
    expected = reference.activation(llama, ids, "resid_mid", 0)
    torch.testing.assert_close(found["resid_mid.0"][0], expected, rtol=0, atol=1e-4)
    assert not found["resid_pre.2"].any()  # what was placed acts again after the trial


@pytest.mark.slow
def test_a_change_is_made_in_place_where_only_that_reaches_all(llama: Tiny) -> None:
    """A change returns a new tensor everywhere, and the door knows what to do with it."""
    ids = llama.ids(PROMPTS[0])
    with changing(llama.model, [(Site("resid_mid", 1), torch.zeros_like)]), torch.no_grad():
        found = llama.model.bridge(torch.tensor([ids]), use_cache=False)[0]
    with reference.intervened(llama, "resid_mid", 1, lambda value: value.zero_()):
        expected = reference.logits(llama, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
