"""One fact from both ends: prompts, next tokens, layers, ranks, and patches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st
import xarray as xr

from app import resources
from app.compute.engine import ModelSpec, Token
from app.facts import WAYS
from app.text import markup, snippets
from app.views import fact_patching, fact_table, follow, lens_view, parts
from app.views.study import Study
from interp.figures import rank_lines
from interp.figures.drawing import numbers, theme


def show(study: Study, fact: int) -> None:
    """Everything about one fact. Where the model is missing, what the run stores is shown."""
    row = study.facts.iloc[study.row(fact)]
    parts.html(fact_table.heading(row))
    lenses: dict[str, xr.Dataset] = {}
    columns = st.columns(2, gap="large")
    for way, column in zip(WAYS, columns, strict=True):
        with column:
            lens = _question(study, row, way)
            if lens is not None:
                lenses[way] = lens
    if study.spec is not None and lenses:
        _layers(study.spec, row, lenses)
    _ranks(study, row, lenses)
    fact_patching.show(study, fact)


def _question(study: Study, row: pd.Series, way: str) -> xr.Dataset | None:
    """The prompt of one direction, what the model says, and the likeliest next tokens."""
    prompt, answer = str(row[f"{way}_prompt"]), str(row[f"{way}_answer"])
    colour = theme.COLOURS[way]
    title = "Asked forward" if way == "forward" else "Asked in reverse"
    parts.html(markup.way(title, colour))
    if study.spec is None:
        parts.html(markup.strip([Token(word) for word in prompt.split()]))
        parts.html(_said(row, way))
        return None
    subject = str(row["subject" if way == "forward" else "object"])
    with st.spinner("Loading the model …", show_time=True):
        tokens = resources.engine().tokens(study.spec, prompt, {"subject": subject})
    parts.strip(tokens, way)
    parts.html(_said(row, way))
    lens = lens_view.computed(study.spec, prompt, answer)
    names, probabilities = lens_view.last_tokens(lens)
    parts.html(
        markup.next_tokens(
            names,
            probabilities,
            colour=colour,
            answer=lens_view.first_token(lens),
            heading="likeliest next tokens",
        )
    )
    return lens


def _said(row: pd.Series, way: str) -> str:
    """What the model answers, and where the right answer stands."""
    right, answer = bool(row[f"{way}_correct"]), str(row[f"{way}_answer"]).strip()
    rank = int(row[f"{way}_rank"])
    if right:
        mark = '<b style="color:#00704f">✓ right</b>'
        text = f"says “{markup.esc(answer)}”"
    else:
        mark = '<b style="color:#a34700">✗ wrong</b>'
        said = str(row.get(f"{way}_said", "") or "").strip()
        text = f"says “{markup.esc(said)}”, " if said else ""
        text += f"the answer “{markup.esc(answer)}” starts at rank {numbers.rank(rank)}"
    return f'<div class="ob-said">{mark} &nbsp; {text}</div>'


def _layers(spec: ModelSpec, row: pd.Series, lenses: dict[str, xr.Dataset]) -> None:
    parts.html(
        markup.heading(
            "What each layer would say",
            "The logit lens: the residual stream after each block, read as the next token.",
        )
    )
    for way, column in zip(lenses, st.columns(2, gap="large"), strict=False):
        with column:
            prompt, answer = str(row[f"{way}_prompt"]), str(row[f"{way}_answer"])
            lens_view.show(spec, lenses[way], way, prompt, answer)


def _ranks(study: Study, row: pd.Series, lenses: dict[str, xr.Dataset]) -> None:
    """The answer's rank from layer to layer: in this fact, and in all of its split."""
    stored = {} if study.run is None else {w: study.run.dataset(f"lens_{w}") for w in WAYS}
    group = {way: _of_split(lens, row) for way, lens in stored.items() if lens is not None}
    if not lenses and not group:
        return
    parts.html(
        markup.heading(
            "Where the answer comes up", "Rank of the answer’s first token after the whole prompt."
        )
    )
    chance = None
    if study.spec is not None and lenses:
        chance = resources.engine().about(study.spec).d_vocab
    columns = st.columns(2, gap="large")
    if lenses and study.spec is not None:
        asked = {w: (str(row[f"{w}_prompt"]), str(row[f"{w}_answer"])) for w in lenses}
        with columns[0]:
            parts.figure(
                rank_lines(lenses, title="This fact", chance=chance),
                "ranks",
                data=lambda: _rank_table(lenses),
                code=snippets.ranks(study.spec, asked),
                alt="Rank of the answer by layer, this fact in both directions",
            )
            follow.layers("ranks")
    if group and study.run is not None:
        run, split = study.run.record.path, str(row["split"])
        n = next(iter(group.values())).sizes["example"]
        title = f"All {n} facts of its kind: median and 95% interval"
        with columns[1 if lenses else 0]:
            parts.figure(
                rank_lines(group, title=title, chance=chance),
                "ranks-all",
                data=lambda: _rank_table(group),
                code=snippets.run_ranks(run, split),
                alt="Rank of the answer by layer, all facts of the same split",
            )
            follow.layers("ranks-all")


def _of_split(lens: xr.Dataset, row: pd.Series) -> xr.Dataset:
    return lens.isel(example=np.nonzero(lens["split"].values == str(row["split"]))[0])


def _rank_table(lenses: dict[str, xr.Dataset]) -> pd.DataFrame:
    frames = []
    for name, lens in lenses.items():
        ranks = lens["answer_rank"]
        if "position" in ranks.dims:
            ranks = ranks.isel(position=-1)
        frame = ranks.to_dataframe().reset_index()
        frames.append(frame.assign(asked=name)[["asked", "example", "layer", "answer_rank"]])
    return pd.concat(frames, ignore_index=True)
