"""Two models, or two questions, read layer by layer through a lens that both sides have."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from app import resources
from app.panels import lens as lens_panel
from app.panels import lens_kinds
from app.panels.comparing.reading import Reading
from app.panels.comparing.side import COLOURS
from app.runs import Run
from app.screen import parts
from app.screen.told import Told, together
from app.text import markup, two_snippets
from experiments.explorer import Pair
from interp.figures import rank_lines


def show(found: Mapping[str, Reading], runs: Mapping[str, Run | None]) -> None:
    """What each layer would say, side by side, and the answer's rank from layer to layer.

    Args:
        found: what is asked of "a" and of "b".
        runs: that they are of.
    """
    lenses = {}
    for (name, one), column in zip(found.items(), st.columns(2, gap="large"), strict=True):
        with column:
            parts.html(markup.way(titles(found)[name], COLOURS[name]))
            tokens = resources.engine().tokens(one.spec, one.prompt, _spans(one.pair))
            parts.strip(tokens, name)
            lens = lens_panel.computed(one.spec, one.prompt, one.answer)
            lenses[name] = lens
            names, probabilities = lens_panel.last_tokens(lens)
            parts.html(
                markup.next_tokens(
                    names,
                    probabilities,
                    colour=COLOURS[name],
                    answer=lens_panel.first_token(lens),
                    heading="likeliest next tokens",
                )
            )
    parts.html(markup.heading("What each layer would say"))
    sides = {
        name.upper(): (one.spec, None if (run := runs[name]) is None else run.record.path)
        for name, one in found.items()
    }
    chosen = {name.lower(): lens for name, lens in lens_kinds.common(sides).items()}
    for name, one in found.items():
        if chosen[name].lens is not None:
            lenses[name] = lens_kinds.read(one.spec, chosen[name], one.prompt, one.answer)
    figures = lens_panel.drawn([lenses[name] for name in found], parts.width(2))
    for (name, one), fig, column in zip(
        found.items(), figures, st.columns(2, gap="large"), strict=True
    ):
        with column:
            lens_panel.show(
                one.spec, lenses[name], name, one.prompt, one.answer, fig, chosen=chosen[name]
            )
    asked = {
        name.upper(): (one.spec, one.prompt, one.answer)
        for name, one in found.items()
        if one.answer is not None
    }
    if len(asked) < 2:
        parts.html(markup.hint("With an answer, its rank by layer would stand here."))
        return
    lines = {name.upper(): lens for name, lens in lenses.items()}
    depths = {lens.sizes["layer"] for lens in lines.values()}
    parts.html(
        markup.heading(
            "Where the answer comes up",
            "Rank of the answer’s first token after the whole prompt."
            + ("" if len(depths) == 1 else " The models have other depths: each has its own axis."),
        )
    )
    note = next((one.note for one in chosen.values() if one.note), "")
    parts.figure(
        rank_lines(lines),
        "compare-ranks",
        data=lambda: pd.concat(
            [
                lens["answer_rank"].isel(position=-1).to_dataframe().reset_index().assign(side=name)
                for name, lens in lines.items()
            ],
            ignore_index=True,
        ),
        code=two_snippets.asked_ranks(
            asked, {name.upper(): lens.through for name, lens in chosen.items()}
        ),
        alt="Rank of the answer by layer, in A and in B",
        told=Told(
            shows="Rank of the answer’s first token by layer, one prompt in each, read through the "
            f"{chosen['a'].name.lower()}.{note}",
            n="1 prompt each",
            interval="none: one prompt",
            control="none: no other answer is read beside it",
            checks=together(
                {
                    name.upper(): [
                        lens_panel.checked(one.spec, lenses[name], one.prompt, chosen[name])
                    ]
                    for name, one in found.items()
                }
            ),
        ),
    )


def _spans(pair: Pair | None) -> dict[str, str]:
    return {} if pair is None else {pair.span: pair.words[0]}


def titles(found: Mapping[str, Reading]) -> dict[str, str]:
    """What tells the two apart: the model, or what it is asked."""
    same = found["a"].spec == found["b"].spec
    return {
        name: f"{name.upper()}: “{one.prompt}”" if same else f"{name.upper()}: {one.spec.source}"
        for name, one in found.items()
    }
