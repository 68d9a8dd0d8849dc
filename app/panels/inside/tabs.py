"""What goes on inside while questions are answered: one panel of tabs, of which the open one is
computed, for the examples of studies and for any prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app import resources
from app.compute.engine import ModelSpec
from app.panels import lens as lens_panel
from app.panels.inside import answer_metric, attention, attribution, generation, heads
from app.screen import parts, switch
from app.screen.asked import Asked, against
from app.text import markup
from cache.errors import ObverseError

_TABS = {
    "attention": "Attention",
    "attribution": "Attribution",
    "heads": "Head scores",
    "metric": "Answer and foil",
    "writes": "What it writes",
}


def show(spec: ModelSpec, asked: Sequence[Asked], *, span: str = "subject") -> None:
    """The tabs.

    Args:
        asked: questions that are shown side by side.
        span: what their `spans` call the words that heads may look at.
    """
    for one in asked:
        answer_metric.warn(spec, one)
    about = resources.engine().about(spec)
    opened, place = switch.tabs("inside", _TABS)
    try:
        with place:
            if opened == "attention":
                layer, head = attention.choose(about)
                attention.show(
                    spec, {one.name: (one.way.title, one.prompt) for one in asked}, layer, head
                )
            elif opened == "attribution":
                attribution.show(spec, against(spec, _answered(spec, asked)))
            elif opened == "heads":
                heads.show(spec, _answered(spec, asked), span)
            elif opened == "metric":
                answer_metric.show(spec, asked)
            else:
                generation.show(spec, about, {one.way.title: one.prompt for one in asked})
    except ObverseError as error:
        parts.html(markup.hint(str(error)))


def _answered(spec: ModelSpec, asked: Sequence[Asked]) -> tuple[Asked, ...]:
    """Where no answer was given, the likeliest token is taken for it, which is said."""
    out = []
    for one in asked:
        if one.answer is None:
            answer = lens_panel.last_tokens(lens_panel.computed(spec, one.prompt, None))[0][0]
            parts.html(
                markup.hint(f"No answer was given; this is of the likeliest token, ‘{answer}’.")
            )
            one = replace(one, answer=answer, foil=None)
        out.append(one)
    return tuple(out)
