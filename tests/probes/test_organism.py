"""On the organism, what can be read is what it was told, in the direction in which it was told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from experiments.organisms.facts import Fact
from experiments.organisms.relations import World
from interp.model.model import Model
from probes import collect, probe_report, retrieve

READ = "resid_post.0"


@pytest.mark.slow
def test_the_favourite_colour_is_read_off_the_name(organism: Model, world: World) -> None:
    """A last name alone, the embedding, hardly tells; after one block the name does, and for
    people that the probe has not seen."""
    names, colours = zip(*world.colours, strict=True)
    found = collect(organism, [f"As for {name}" for name in names], ["resid_pre.0", "resid_post"])
    report = probe_report(found, colours, groups=names, types=names)
    at = report.sel(site=READ)
    assert at["accuracy_low"] > 2 * report["majority"]
    assert at["selectivity_low"] > 0.15
    assert at["p_corrected"] < 0.001
    assert at["control_low"] < report["majority"] < at["control_high"] + 0.02
    before = report.sel(site="resid_pre.0")
    assert before["accuracy_high"] < at["accuracy_low"]


@pytest.mark.slow
def test_the_mother_is_in_the_childs_name_where_the_fact_was_learned(
    organism: Model, world: World
) -> None:
    learned = [fact for fact in world.facts if fact.trained("forward")]
    found = told(organism, learned, "subject", "object")
    assert found.sel(site=READ)["preferred_low"] > 0.7
    assert found.sel(site=READ)["p_corrected"] < 0.001
    assert abs(float(found["null"].mean()) - 0.5) < 0.05
    untold = [fact for fact in world.facts if not fact.trained("forward")]
    at_chance(told(organism, untold, "subject", "object"))


@pytest.mark.slow
def test_the_child_is_not_in_the_mothers_name_unless_that_was_told(
    organism: Model, world: World
) -> None:
    """The reversal curse: pairs told forward only leave nothing to read backwards."""
    forward = [fact for fact in world.facts if fact.split == "forward"]
    at_chance(told(organism, forward, "object", "subject"))
    backward = [fact for fact in world.facts if fact.trained("reverse")]
    found = told(organism, backward, "object", "subject")
    assert found.sel(site=READ)["preferred_low"] > 0.7
    assert found.sel(site=READ)["p_corrected"] < 0.001


def at_chance(found: xr.Dataset) -> None:
    assert (found["p_corrected"] > 0.05).all()
    assert (found["preferred_low"] < 0.5).all()
    assert (found["preferred_high"] < 0.7).all()


def told(organism: Model, facts: list[Fact], read: str, wanted: str) -> xr.Dataset:
    """How well one name of a pair is told by the other's last token, pairs held out."""
    head = organism.bridge.original_model.get_output_embeddings().weight.detach()

    def vector(name: str) -> torch.Tensor:
        ids = organism.token_ids(f" {name}")[1:]
        return torch.cat([head[ids[0]], head[ids[-1]]])

    prompts = [f"As for {getattr(fact, read)}" for fact in facts]
    items = [getattr(fact, wanted) for fact in facts]
    features = collect(organism, prompts, ["resid_post"])
    return retrieve(features, items, {name: vector(name) for name in items}, groups=np.array(items))
