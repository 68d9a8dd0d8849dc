"""A cell is the same one wherever it is framed, and what is estimated is not subtracted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import pytest
import xarray as xr

from app.compute import pairs
from app.compute.engine import Engine, ModelSpec
from app.compute.refining import was_run
from app.panels.both_ways import ESTIMATED
from app.screen import live
from app.selection import Cell
from experiments.explorer import Way
from experiments.records import RunRecord
from tests.app.pages import Open, assert_fine, html, root_of

WAY = "reverse"
NAME = f"patching-{WAY}-resid_pre"


def mark(shown: str) -> Any:
    """The (layer, column) that is framed in a map."""
    (told,) = re.findall(rf'data-figure="{NAME}" data-mark="([^"]*)"', shown)
    return json.loads(unescape(told))["cell"]


@pytest.mark.slow
def test_a_token_is_framed_under_its_name_in_the_mean_of_others(
    open_page: Open, record: RunRecord, engine: Engine, spec: ModelSpec, ways: dict[str, Way]
) -> None:
    """Names of other lengths put it into another column there."""
    stored = record.dataset("patching_reverse_resid_pre")
    labels = [str(label) for label in stored["position_label"].values]
    facts = [int(fact) for fact in stored["fact"].values]
    slots = {
        fact: engine.aligned(spec, pairs.stored(stored, at, record.table("facts"), ways[WAY])).slots
        for at, fact in enumerate(facts)
    }
    fact, label = next(
        (fact, label)
        for fact in facts
        for label, token in slots[fact].items()
        if labels.index(label) != token
    )
    token = slots[fact][label]
    page = open_page(root_of(record), query={"example": str(fact), "patch-of": "mean"})
    view = replace(page.session_state["view"], cell=Cell(WAY, 1, position=token))
    page.session_state["view"] = view
    page.run()
    assert_fine(page)
    assert mark(html(page)) == [1, labels.index(label)]
    # What no prompt has is nowhere, and nothing that goes wrong.
    page.session_state["view"] = replace(view.switched(patch_of="one"), cell=Cell(WAY, 1, 500))
    page.run()
    assert_fine(page)
    assert mark(html(page)) is None


@pytest.mark.slow
def test_estimates_of_both_ways_are_not_subtracted(
    open_page: Open, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SMALL", 0)
    page = open_page(root_of(record), query={"example": "5"})
    assert_fine(page)
    assert ESTIMATED in html(page)
    assert 'data-words="contrast-resid_pre-below"' not in html(page)
    for _ in range(2):
        next(one for one in page.button if one.label == "Run every cell").click().run()
    assert_fine(page)
    assert ESTIMATED not in html(page)
    assert 'data-words="contrast-resid_pre-below"' in html(page)


def test_a_map_was_run_when_all_of_its_numbers_were() -> None:
    patched = np.array([[[1.0, np.nan], [2.0, 3.0]]])
    whole = xr.Dataset({"patched": (("example", "layer", "position"), patched)})
    assert was_run(whole)
    for exact, expected in (([[1, 0], [1, 1]], True), ([[1, 0], [1, 0]], False)):
        cells = np.array(exact, dtype=bool)
        assert was_run(whole.assign(exact=(("layer", "position"), cells))) is expected
