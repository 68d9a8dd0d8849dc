"""The report of a run: one HTML page, from what was found to how it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from experiments.berglund import celebrities, invented
from experiments.berglund.config import Config
from experiments.berglund.measured import Measured
from experiments.numbers import percent
from experiments.report import render_page
from experiments.run_directory.provenance import Provenance
from experiments.study import Verdict
from interp.figures import direction_scatter, way_bars
from interp.figures.drawing import theme
from interp.figures.drawing.numbers import plain, rank
from interp.model.model import Model

__all__ = ["FLAWS", "published_bars", "render"]

_TRAINED = {
    "none": "The model was taken as it is.",
    "full": "All weights were trained on the facts of experiment 1.",
    "lora": "Low-rank adapters were trained on the facts of experiment 1, and merged.",
}
_WAYS = {"parent": "parent asked for", "child": "child asked for"}
_ASKED = {"name": "asked by the name", "description": "asked by the description"}
_GROUPS = {
    "name first": "told name first",
    "description first": "told description first",
    "both": "told both ways",
}
FLAWS = (
    (
        "“Q: ” before one question only",
        "The script puts “Q: ” before the question for a parent, and nothing before the one for a "
        "child, though all examples in the prompt have it. Here both questions have it; the column "
        "“as published” leaves it out again.",
    ),
    (
        "The last token is dropped",
        "Where the script sums the log-probabilities of a name's tokens (LLaMA), its mask ends "
        "one token early, so that the last token of every name counts as certain. Here all tokens "
        "count; “as published” drops the last.",
    ),
    (
        "Sums over tokens",
        "A name of five tokens has more to lose than one of two, and parents' names are longer and "
        "rarer than celebrities'. Shown beside the sum: the mean per token, the first token, and "
        "scores without what question and answer alone explain.",
    ),
    (
        "Examples that are test questions",
        "Three of the pairs stand in the prompt with their answer (Craig Hemsworth, Karen "
        "Lawrence, Sarah Johnson). They are left out here.",
    ),
    (
        "Shared surnames",
        "In three quarters of the pairs the two names share a word, so that a model that repeats "
        "the surname gives half of the answer, knowing nobody. Verdicts count the other pairs.",
    ),
    (
        "Pairs chosen by one direction",
        "The pairs are those whose parent GPT-4 could name. No analysis mends this: the list holds "
        "what is known forward, and nothing that is known in reverse only.",
    ),
    (
        "Sentences that go on behind the name",
        "Of people told both ways the test completions go on (“… has found their calling”) in "
        "words that were never trained, so that an exact match is hardly possible. Here the name "
        "is what is asked for; the whole completion stands beside it.",
    ),
)
"""What the original scripts and files do that changes numbers, and what is done here."""


def render(
    config: Config,
    model: Model | None,
    measured: Measured,
    verdicts: Sequence[Verdict],
    sentences: Sequence[str],
    provenance: Provenance,
) -> str:
    """The page as text."""
    figures: dict[str, go.Figure] = {}
    people: list[dict[str, Any]] = []
    authors: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    if measured.people is not None:
        table = invented.metrics(measured.people)
        people = _rows(table)
        authors = _rows(invented.by_authors(measured.people))
        figures["people"] = way_bars(
            _people_bars(table, "correct"), axis="answered right (greedy)", share=True
        )
        figures["centred"] = way_bars(
            _people_bars(table, "whole"), axis="preference for the right answer (nats)"
        )
    if measured.pairs is not None:
        table = celebrities.metrics(measured.pairs)
        pairs = _rows(table)
        figures["wins"] = way_bars(_pair_bars(table), axis="comparisons won", share=True, even=0.5)
        figures["pairs"] = direction_scatter(_scattered(measured.pairs))
        figures["pairs"].update_xaxes(title_text="parent asked for (nats)")
        figures["pairs"].update_yaxes(title_text="child asked for (nats)")
    if measured.published is not None:
        figures["published"] = published_bars(measured.published)
    if measured.training is not None:
        figures["training"] = _losses(measured.training)
    return render_page(
        "experiments.berglund",
        "report.html.j2",
        figures,
        {
            "title": "Berglund's experiments",
            "percent": percent,
            "nats": lambda value: "–" if not np.isfinite(value) else plain(float(value)),
            "probability": _probability,
            "rank": rank,
            "config": config,
            "model": model,
            "trained": _TRAINED[config.tune],
            "headline": sentences,
            "verdicts": verdicts,
            "people": people,
            "authors": authors,
            "pairs": pairs,
            "published": [] if measured.published is None else _rows(measured.published),
            "groups": _GROUPS,
            "asked": _ASKED,
            "ways": _WAYS,
            "flaws": FLAWS,
            "provenance": provenance,
        },
    )


def published_bars(table: pd.DataFrame) -> go.Figure:
    """The published means over all pairs, by model.

    Args:
        table: as `published.summary` gives it.
    """
    kept = table[(table["among"] == "all") & table["asked"].isin(list(_WAYS))]
    rows = pd.DataFrame(
        {
            "group": kept["model"],
            "way": [_WAYS[asked] for asked in kept["asked"]],
            "value": kept["mean"],
            "low": kept["low"],
            "high": kept["high"],
            "n": kept["pairs"],
        }
    )
    return way_bars(rows, axis="mean probability of the name", share=True)


def _people_bars(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """As told and the other way round; of people told both ways, both questions."""
    way = ["as told" if told else "the other way round" for told in table["told_so"]]
    return pd.DataFrame(
        {
            "group": [
                _GROUPS[g] + (f", {_ASKED[a]}" if g == "both" else "")
                for g, a in zip(table["group"], table["asked"], strict=True)
            ],
            "way": way,
            "value": table[value],
            "low": table[f"{value}_low"],
            "high": table[f"{value}_high"],
            "n": table["people"],
        }
    ).sort_values("way", kind="stable")


def _pair_bars(table: pd.DataFrame) -> pd.DataFrame:
    names = {"no word": "names share no word", "a word": "names share a word"}
    return pd.DataFrame(
        {
            "group": [names[among] for among in table["among"]],
            "way": [_WAYS[asked] for asked in table["asked"]],
            "value": table["wins"],
            "low": table["wins_low"],
            "high": table["wins_high"],
            "n": table["pairs"],
        }
    )


def _scattered(pairs: pd.DataFrame) -> pd.DataFrame:
    """Centred scores of each pair, both ways, as a scatter takes them."""
    wide = pairs.pivot(index="pair", columns="asked", values="whole")
    first = pairs.drop_duplicates("pair").set_index("pair").loc[wide.index]
    return pd.DataFrame(
        {
            "fact": wide.index.to_numpy(),
            "subject": first["child"].to_numpy(),
            "object": first["parent"].to_numpy(),
            "split": ["share a word" if one else "share no word" for one in first["shared"]],
            "forward_margin": wide["parent"].to_numpy(),
            "reverse_margin": wide["child"].to_numpy(),
        }
    )


def _losses(training: pd.DataFrame) -> go.Figure:
    fig = go.Figure(
        go.Scatter(
            x=training["step"] + 1,
            y=training["loss"],
            mode="lines",
            line={"color": theme.INK, "width": 1.5},
            hovertemplate="step %{x}: %{y:.3f} nats a token<extra></extra>",
        )
    )
    theme.finish(fig, title=None, height=280)
    fig.update_xaxes(title_text="step")
    fig.update_yaxes(title_text="loss (nats a token)", rangemode="tozero")
    return fig


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    found: list[dict[Any, Any]] = table.to_dict("records")
    return found


def _probability(value: float) -> str:
    """A mean of probabilities in three digits: "0.26%"."""
    if not np.isfinite(value):
        return "–"
    return f"{100 * value:.3g}%".replace("-", "−") if abs(value) >= 1e-6 else "<0.0001%"
