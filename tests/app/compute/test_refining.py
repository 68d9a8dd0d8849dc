"""Maps of large models: a rough estimate at once, then a better one, then what is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from app.compute import refining
from app.compute.engine import ModelSpec
from app.compute.pairs import build, typed
from app.compute.refining import Refined, refined
from interp import patching
from interp.model.model import Model
from tests.app.conftest import loaded

PAIR = typed("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea")


@pytest.fixture
def model(spec: ModelSpec) -> Model:
    return loaded(spec)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done, in order."""
    seen: list[str] = []
    estimate, refine = patching.estimate, patching.refine

    def estimated(*given: Any, **named: Any) -> Any:
        seen.append(f"estimate by {named['method']}")
        return estimate(*given, **named)

    def refined_(*given: Any, **named: Any) -> Iterator[Any]:
        seen.append("refine")
        return refine(*given, **named)

    monkeypatch.setattr(patching, "estimate", estimated)
    monkeypatch.setattr(patching, "refine", refined_)
    return seen


def found(model: Model, events: list[str], run: bool) -> list[Refined]:
    out = []
    for one in refined(model, PAIR, "resid_pre", run, lambda done, total: events.append("told")):
        events.append("exact" if one.result["exact"].any() else "estimate")
        out.append(one)
    return out


@pytest.mark.slow
def test_of_a_large_model_a_rough_estimate_comes_before_all_else(
    model: Model, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "LARGE", 0.0)
    rough, better, *rest = found(model, events, run=True)
    assert events[:4] == ["estimate by gradient", "estimate", "refine", "estimate"]
    assert "exact" in events
    assert events[4:].index("told") < events[4:].index("exact")
    assert [one.first for one in (rough, better, *rest)] == [True, *[False] * (1 + len(rest))]
    # It is attribution patching, told as such, and no cell counts as run.
    expected = patching.estimate(
        model, build(model, [PAIR]), "resid_pre", method="gradient", check=0
    )
    np.testing.assert_array_equal(rough.result["patched"], expected["patched"])
    assert rough.result.attrs["estimated_by"] == "gradient"
    assert not rough.result["exact"].any()
    assert rough.result["exact"].dims == better.result["exact"].dims
    # What comes in the end is the same as without it.
    monkeypatch.undo()
    last = found(model, [], run=True)[-1]
    np.testing.assert_allclose(rest[-1].result["patched"], last.result["patched"], atol=1e-5)


@pytest.mark.slow
def test_a_small_model_is_estimated_once(model: Model, events: list[str]) -> None:
    results = found(model, events, run=False)
    assert "estimate by gradient" not in events
    assert not any(one.first for one in results)
