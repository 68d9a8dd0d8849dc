"""What is known of how the page is looked at."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.compute.engine import Engine, ModelSpec
from app.panels import lens as lens_panel
from app.screen import look
from interp.figures import lens_heatmap
from tests.app.material import HOSTILE


@pytest.mark.parametrize(
    ("later", "in_browser", "waited"),
    [(0.1, True, [0.15]), (3.0, True, [0.0]), (0.1, False, [])],
)
def test_the_first_figure_of_a_visit_lets_the_heading_ahead(
    monkeypatch: pytest.MonkeyPatch, later: float, in_browser: bool, waited: list[float]
) -> None:
    now, slept = [10.0], list[float]()
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=slept.append)
    monkeypatch.setattr(look, "time", clock)
    monkeypatch.setattr(look, "in_browser", lambda: in_browser)
    monkeypatch.setattr(look.st, "session_state", {})
    look.page_begins()
    now[0] += later
    look.let_heading_ahead()
    # Others do not wait, nor does another page of the same visit.
    look.let_heading_ahead()
    look.page_begins()
    look.let_heading_ahead()
    assert slept == pytest.approx(waited)


@pytest.mark.slow
def test_figures_beside_one_another_end_on_one_line_and_draw_as_much(
    engine: Engine, spec: ModelSpec
) -> None:
    # The labels of the second one are longer.
    prompts = "Tom Cruise's mother is", f"Ann {HOSTILE}'s mother is"
    lenses = [engine.lens(spec, prompt, None) for prompt in prompts]
    before = [lens_heatmap(lens, width=480).layout for lens in lenses]
    after = [fig.layout for fig in lens_panel.drawn(lenses, 480)]
    assert before[0].height < before[1].height == after[0].height == after[1].height
    for one, other in zip(before, after, strict=True):
        assert one.height - one.margin.b == other.height - other.margin.b
