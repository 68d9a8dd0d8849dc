"""One component of a circuit: what it attends to, and what it writes."""

from __future__ import annotations

from collections.abc import Mapping

from app import resources, state
from app.compute.component_output import Written
from app.compute.engine import ModelSpec
from app.panels.inside import attention
from app.screen import parts
from app.text import markup, sentences
from cache.errors import ObverseError
from experiments.explorer import Pair, Way
from interp.figures.drawing import theme

_RUNS = (("clean", "Clean prompt"), ("corrupt", "Corrupted prompt"))


def show(spec: ModelSpec, pairs: Mapping[Way, tuple[Pair, ...]]) -> None:
    """The component that is opened, on the first pair of its circuit."""
    node = state.view().node
    way = next((way for way in pairs if node is not None and way.name == node.way), None)
    if node is None or way is None:
        parts.html(
            markup.hint("Open a head or an MLP of the circuit to see what it reads and writes.")
        )
        return
    pair = pairs[way][0]
    layer, _, head = node.name[1:].partition(".h")
    try:
        found = resources.engine().written(spec, pair, int(layer), int(head) if head else None)
        name = f"Head {head} of block {layer}" if head else f"MLP of block {layer}"
        parts.html(
            markup.heading(name, f"{way.title}, on the first of {len(pairs[way])} pairs.")
            if len(pairs[way]) > 1
            else markup.heading(name, f"{way.title}.")
        )
        if head:
            prompts = {run: (title, getattr(pair, run)) for run, title in _RUNS}
            attention.show(spec, prompts, int(layer), int(head))
        _writing(found, pair)
    except ObverseError as error:
        parts.html(markup.hint(str(error)))


def _writing(found: Mapping[str, Written], pair: Pair) -> None:
    """The tokens that are raised most, and the part in the logits, of both prompts."""
    pieces = []
    for run, title in _RUNS:
        one = found[run]
        rows = "".join(
            f'<span class="t">{markup.esc(theme.shorten(theme.visible(token), 30))}</span>'
            f'<span class="p">{markup.esc(sentences.number(logit))}</span>'
            for token, logit in one.raised
        )
        pieces.append(
            f'<div><div class="ob-small">{title}: what it writes raises most, in logits</div>'
            f'<div class="ob-written">{rows}</div>'
            f'<div class="ob-small">{markup.esc(_share(one, pair))}</div></div>'
        )
    parts.html(f'<div class="ob-two">{"".join(pieces)}</div>')


def _share(one: Written, pair: Pair) -> str:
    return sentences.written(one.share, one.whole, pair.answer, pair.foil, one.among)
