"""The figures of the study, drawn from what a run stores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from experiments.berglund import celebrities, invented
from experiments.figure import Figure, counted, of_mean, of_share
from interp.figures import direction_scatter, way_bars
from interp.figures.drawing import theme

__all__ = [
    "ASKED",
    "GROUPS",
    "LOSS",
    "PAIRS",
    "PREFERENCES",
    "PUBLISHED",
    "RIGHT",
    "WAYS",
    "WON",
    "loss_line",
    "pair_scatter",
    "preference_bars",
    "published_bars",
    "right_bars",
    "won_bars",
]

WAYS = {"parent": "parent asked for", "child": "child asked for"}
ASKED = {"name": "asked by the name", "description": "asked by the description"}
GROUPS = {
    "name first": "told name first",
    "description first": "told description first",
    "both": "told both ways",
}


def published_bars(table: pd.DataFrame) -> go.Figure:
    """The published means over all pairs, by model.

    Args:
        table: the table `published` of a run, as `published.summary` makes it.
    """
    kept = table[(table["among"] == "all") & table["asked"].isin(list(WAYS))]
    rows = pd.DataFrame(
        {
            "group": kept["model"],
            "way": [WAYS[asked] for asked in kept["asked"]],
            "value": kept["mean"],
            "low": kept["low"],
            "high": kept["high"],
            "n": kept["pairs"],
        }
    )
    return way_bars(rows, axis="mean probability of the name", share=True)


def right_bars(people: pd.DataFrame) -> go.Figure:
    """How many invented people are answered right, as told and the other way round.

    Args:
        people: the table of that name of a run.
    """
    rows = _people(people, "correct")
    return way_bars(rows, axis="answered right (greedy)", share=True)


def preference_bars(people: pd.DataFrame) -> go.Figure:
    """How far the right answer is preferred to other people's.

    Args:
        people: the table of that name of a run.
    """
    rows = _people(people, "whole")
    fig = way_bars(rows, axis="preference for the right answer (nats)")
    # A nat either way at least: bars that only differ by noise are not to fill the figure.
    ends = rows[["value", "low", "high"]].to_numpy(float)
    ends = ends[np.isfinite(ends)]
    low, high = float(ends.min(initial=-1.0)), float(ends.max(initial=1.0))
    room = 0.04 * (high - low)
    return fig.update_yaxes(range=[low - room, high + room])


def won_bars(pairs: pd.DataFrame) -> go.Figure:
    """How often the right name is preferred to a wrong one, by what is asked for.

    Args:
        pairs: the table of that name of a run.
    """
    table = celebrities.metrics(pairs)
    names = {"no word": "names share no word", "a word": "names share a word"}
    rows = pd.DataFrame(
        {
            "group": [names[among] for among in table["among"]],
            "way": [WAYS[asked] for asked in table["asked"]],
            "value": table["wins"],
            "low": table["wins_low"],
            "high": table["wins_high"],
            "n": table["pairs"],
        }
    )
    return way_bars(rows, axis="comparisons won", share=True, even=0.5)


def pair_scatter(pairs: pd.DataFrame) -> go.Figure:
    """Each pair: the preference for the right parent against that for the right child.

    Args:
        pairs: the table of that name of a run.
    """
    wide = pairs.pivot(index="pair", columns="asked", values="whole")
    first = pairs.drop_duplicates("pair").set_index("pair").loc[wide.index]
    facts = pd.DataFrame(
        {
            "fact": wide.index.to_numpy(),
            "subject": first["child"].to_numpy(),
            "object": first["parent"].to_numpy(),
            "split": ["share a word" if one else "share no word" for one in first["shared"]],
            "forward_margin": wide["parent"].to_numpy(),
            "reverse_margin": wide["child"].to_numpy(),
        }
    )
    fig = direction_scatter(facts)
    fig.update_xaxes(title_text="parent asked for (nats)")
    fig.update_yaxes(title_text="child asked for (nats)")
    fig.update_layout(legend_title_text="names")
    return fig


def loss_line(training: pd.DataFrame) -> go.Figure:
    """The loss of each step of the training.

    Args:
        training: the table of that name of a run.
    """
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


def _people(people: pd.DataFrame, value: str) -> pd.DataFrame:
    """Rows of bars: people told both ways are asked as told either way."""
    table = invented.metrics(people)
    both = table["group"] == "both"
    rows = pd.DataFrame(
        {
            "group": [
                GROUPS[group] + (f", {ASKED[asked]}" if together else "")
                for group, asked, together in zip(table["group"], table["asked"], both, strict=True)
            ],
            "way": ["as told" if told else "the other way round" for told in table["told_so"]],
            "value": table[value],
            "low": table[f"{value}_low"],
            "high": table[f"{value}_high"],
            "n": table["people"],
        }
    )
    return rows.sort_values("way", kind="stable")


def _published_pairs(table: pd.DataFrame) -> str:
    kept = table[(table["among"] == "all") & table["asked"].isin(list(WAYS))]
    families = counted(kept["families"], "family", "families")
    return f"{counted(kept['pairs'], 'pair')} of {families} a bar"


def _people_asked(people: pd.DataFrame) -> str:
    table = invented.metrics(people)
    return f"{counted(table['people'], 'person', 'people')} a bar, each in several wordings"


def _pairs_asked(pairs: pd.DataFrame) -> str:
    table = celebrities.metrics(pairs)
    asked = table[table["pairs"] > 0]
    families = counted(asked["families"], "family", "families")
    return f"{counted(asked['pairs'], 'pair')} of {families} a bar"


def _every_pair(pairs: pd.DataFrame) -> str:
    wide = pairs.pivot(index="pair", columns="asked", values="whole")
    return counted([int(wide[list(WAYS)].notna().all(axis=1).sum())], "pair")


def _steps(training: pd.DataFrame) -> str:
    return counted([len(training)], "step")


_BOTH_WAYS = "people who were told both ways, and the same people asked as they were told"

PUBLISHED = Figure(
    "published",
    "Published results",
    ("published",),
    published_bars,
    "Mean probability of the parent given the child and of the child given the parent, by model",
    "Blue above orange: the parent of a celebrity comes more easily than the celebrity of a "
    "parent.",
    shows="How probable models find the name that is asked for, as the authors' files have it.",
    n=_published_pairs,
    interval=of_mean("families, which share a child or a parent"),
    control="none: the files hold no score of a wrong name",
)
RIGHT = Figure(
    "people-right",
    "Answered right",
    ("people",),
    right_bars,
    "Share of right answers on invented people, as told and the other way round",
    "A cursed model has tall bars as told and none the other way round; facts told both ways show "
    "that the questions can be answered.",
    shows="Share of questions about invented people whose whole answer greedy decoding gives.",
    n=_people_asked,
    interval=of_share("people"),
    control=_BOTH_WAYS,
)
PREFERENCES = Figure(
    "people-preferred",
    "Preferences",
    ("people",),
    preference_bars,
    "Preference for the right answer on invented people, as told and the other way round",
    "What lies at 0 is not known, what lies below is avoided.",
    shows="How far the right answer is preferred to other people's, beyond what question and "
    "answer alone explain.",
    n=_people_asked,
    interval=of_mean("people"),
    control=f"0: the answers of other people; and {_BOTH_WAYS}",
)
WON = Figure(
    "pairs-won",
    "Comparisons won",
    ("pairs",),
    won_bars,
    "Share of comparisons that the right name wins, by what is asked for",
    "Bars at one half: nothing is known. A gap between the colours among names that share no word "
    "is the curse; where they share one, the surname tells a part of the answer.",
    shows="How often the right name is likelier than a wrong one after the same question.",
    n=_pairs_asked,
    interval=of_share("families, which share a child or a parent"),
    control="wrong names of the same kind: the dotted line, one half, is chance",
)
PAIRS = Figure(
    "pairs-both-ways",
    "Every pair",
    ("pairs",),
    pair_scatter,
    "Preference for the right parent against that for the right child, one point a pair",
    "A pair that is known one way only lies on the right at 0, one that is known both ways in the "
    "upper right.",
    shows="How far each right name is preferred to wrong ones, from either end of a pair.",
    n=_every_pair,
    interval="none: each point is one pair",
    control="0: wrong names of the same kind",
)
LOSS = Figure(
    "training-loss",
    "Loss",
    ("training",),
    loss_line,
    "Loss before each step of the training",
    shows="Loss of each step's batch before the step, in nats a token.",
    n=_steps,
    interval="none: one training",
    control="none: no other training stands beside it",
)
