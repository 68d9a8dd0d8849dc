"""Direct logit attribution of prompts: what each component adds to the answer's logit."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
import xarray as xr

from app import resources
from app.compute import checks
from app.compute.engine import ModelSpec
from app.screen import parts, switch
from app.screen.asked import Asked
from app.screen.told import ONE_PROMPT, Check, Told
from app.text import markup, snippets
from app.text.rows import rows
from cache.errors import ObverseError
from interp.figures import attribution_bars, attribution_map
from interp.figures.drawing.numbers import reach

_BY = {"component": "Attention and MLPs", "head": "Heads"}


def show(spec: ModelSpec, asked: Sequence[Asked]) -> None:
    """Bars and a map for each question, on common scales."""
    parts.html(
        markup.heading(
            "Which components say it",
            "Direct logit attribution: what each adds to the logit at the end, with the final "
            "norm’s scale held. What later components make of it is not counted.",
        )
    )
    by = switch.choose("attribution-by", _BY, "By")
    found: dict[str, xr.Dataset] = {}
    columns = dict(
        zip([one.name for one in asked], st.columns(len(asked), gap="large"), strict=True)
    )
    for one in asked:
        with columns[one.name]:
            parts.html(markup.way(one.way.title, one.way.colour))
            if one.answer is None:
                parts.html(markup.hint("There is no answer whose logit could be divided."))
                continue
            try:
                found[one.name] = resources.engine().attribution(
                    spec, one.prompt, one.answer, one.foil, by
                )
            except ObverseError as error:
                parts.html(markup.hint(str(error)))
    limit = max((_reach(result) for result in found.values()), default=None)
    widest = max((_furthest(result) for result in found.values()), default=None)
    for one in asked:
        if one.name in found:
            with columns[one.name]:
                _one(spec, one, found[one.name], by, (limit, widest), len(asked))


def _one(
    spec: ModelSpec,
    one: Asked,
    result: xr.Dataset,
    by: str,
    limits: tuple[float | None, float | None],
    many: int,
) -> None:
    assert one.answer is not None
    check = checked(spec, one, by)
    of = one.metric
    for kind, fig, limit in (
        ("bars", attribution_bars(result, 0, limit=limits[0]), limits[0]),
        ("map", attribution_map(result, 0, limit=limits[1], width=parts.width(many)), limits[1]),
    ):
        shows = {
            "bars": f"What adds most to {of}, largest first; the last bar is their sum.",
            "map": f"The same, component by component: shares of {of}.",
        }[kind]
        parts.figure(
            fig,
            f"attribution-{kind}-{one.name}",
            data=lambda: rows(result),
            code=snippets.attribution(
                spec, one.prompt, one.answer, one.foil, by, bars=kind == "bars", limit=limit
            ),
            alt=f"What each component adds to {of}, as {kind}",
            told=Told(shows, "1 prompt", ONE_PROMPT, one.control, (check,)),
        )


def checked(spec: ModelSpec, one: Asked, by: str) -> Check:
    """Whether the shares add up to what the model's own logits say."""
    prompt, answer, foil = one.prompt, one.answer, one.foil
    assert answer is not None
    result = resources.engine().attribution(spec, prompt, answer, foil, by)
    return resources.engine().compute(
        spec,
        ("contributions", prompt, answer, foil, by),
        lambda model: checks.contributions(model, result, prompt, answer, foil),
    )


def _reach(result: xr.Dataset) -> float:
    """The furthest bar."""
    return max(abs(float(result[str(result.attrs["of"])][0])), _furthest(result))


def _furthest(result: xr.Dataset) -> float:
    """The end of a scale of shares."""
    return reach(result["contribution"].values.astype(float), "logits")
