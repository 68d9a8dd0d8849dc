"""The study in the explorer: facts, each asked forward and in reverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments.errors import FactsError
from experiments.explorer import (
    Column,
    Examples,
    Label,
    Measure,
    Page,
    Pair,
    Trainings,
    Way,
    pair_in,
)
from experiments.organisms.arms import ARMS
from experiments.organisms.facts import DIRECTIONS, Direction, Fact, Templates
from experiments.reporter import Progress
from experiments.reversal_curse import facts as files
from experiments.reversal_curse.arms.figures import ARM_FIGURES, SCALE_FIGURES, TIME_FIGURES
from experiments.reversal_curse.hypotheses import (
    association,
    attribution,
    edits,
    gradients,
    one_map,
    retrieval,
    transplant,
    two_entries,
)
from experiments.reversal_curse.mechanism.investigate import FIGURES as MECHANISM
from experiments.reversal_curse.prompts import answer, make_pairs
from experiments.reversal_curse.report.figures import ACCURACY, LOGPROBS, MARGINS, RANKS
from interp.figures.drawing import theme
from interp.generation.answers import score_answers
from interp.model.model import Model

__all__ = ["page"]

_RIGHT = "Whether it gives the right answer when asked about the {}."
_RANK = "Rank of the answer’s first token, asked {}; 1 is on top."
_MARGIN = "Log-probability of the right name minus the mean over others, in nats."
_ALONG = (
    Measure(
        "score",
        "Preference for the right name",
        "preference for the right name (nats)",
        "score",
        "The log-probability of the right name beyond what the question and the name explain by "
        "themselves, among names that are asked for in the same words.",
        "0: nothing is known of the pair beyond its question and its name",
        ("low", "high"),
        chance=0.0,
    ),
    Measure(
        "first",
        "Right name first",
        "right name first of those asked alike (share)",
        "held_first",
        "How often the right name is the likeliest of those that are asked for in the same words.",
        "a guess among these names",
        scale="share",
        chance="chance",
    ),
    Measure(
        "place",
        "Median rank of the right name",
        "median rank of the right name among all (1: first)",
        "open_rank",
        "Where the whole right name stands among all names, by its log-probability.",
        "the same facts asked the other way round",
        scale="rank",
    ),
    Measure(
        "weights",
        "Weights lead to the right name",
        "weights lead to the right name (SD)",
        "association",
        "How far the weights alone lead from the name that is asked about to the right one, over "
        "all paths, in standard deviations of wrong pairs.",
        "0: wrong pairs",
        ("association_low", "association_high"),
        chance=0.0,
    ),
)
_FACT = ["subject", "object", "relation", "inverse", "split"]


def page() -> Page:
    """Facts with their ranks both ways, and figures of all of them and of other trainings."""
    return Page(
        figures=(
            *(MARGINS, LOGPROBS, ACCURACY, RANKS),
            retrieval.FIGURE,
            *(attribution.FIGURE, association.FIGURE, gradients.FIGURE, two_entries.FIGURE),
            *(edits.RESTORED, edits.FOLLOWED, edits.FOLLOWED_ALONE),
            *(one_map.FIGURE, one_map.ALONE, transplant.FIGURE),
            *MECHANISM,
            *(*ARM_FIGURES, *SCALE_FIGURES, *TIME_FIGURES),
        ),
        examples=Examples(
            one="fact",
            many="facts",
            table="facts",
            key="fact",
            group="split",
            ways=(
                Way("forward", "Asked forward", theme.COLOURS["forward"], "subject"),
                Way("reverse", "Asked in reverse", theme.COLOURS["reverse"], "object"),
            ),
            columns=(
                # Ranks and margins first: on a narrow screen these are what is seen at once.
                Column("subject", "Subject", "text", 100),
                Column("object", "Object", "text", 118),
                Column(
                    "split",
                    "Trained",
                    "text",
                    64,
                    "The direction in which the model learned the fact.",
                ),
                Column("forward_rank", "Rank →", "rank", 60, _RANK.format("forward")),
                Column("reverse_rank", "Rank ←", "rank", 60, _RANK.format("in reverse")),
                Column("forward_margin", "Margin →", "number", 72, _MARGIN),
                Column("reverse_margin", "Margin ←", "number", 72, _MARGIN),
                Column("forward_correct", "Forward", "flag", 62, _RIGHT.format("subject")),
                Column("reverse_correct", "Reverse", "flag", 62, _RIGHT.format("object")),
            ),
            search=("subject", "object"),
            first=first_choice,
            heading=heading,
            measure=measured,
            pair=pair,
            labels=(
                Label("inverse", "What the one asked for in reverse is: son, daughter …"),
                Label("relation", "Relation"),
            ),
        ),
        probes=(retrieval.FIGURE,),
        trainings=Trainings(
            table="training_time",
            way="direction",
            n="facts",
            measures=_ALONG,
            group="facts that were told forward only",
            about="The facts were planted by this training: it shows how this small model learns "
            "them, and not how others do.",
            arms={arm.name: arm.about for arm in ARMS.values()},
            folder="organisms/time-{arm}-{seed}",
            command="obverse run reversal-curse --preset full",
        ),
    )


def first_choice(facts: pd.DataFrame) -> int | None:
    """The fact to start with: Tom Cruise, else one that is known in one direction only."""
    cruise = facts[facts["subject"] == "Tom Cruise"]
    cursed = facts[facts["forward_correct"] & ~facts["reverse_correct"].astype(bool)]
    for rows in (cruise, cursed, facts):
        if len(rows):
            return int(rows.iloc[0]["fact"])
    return None


def heading(row: pd.Series) -> tuple[str, str]:
    """The two names, and how the model came to know the fact."""
    trained = str(row["split"])
    small = {
        "held_out": "never trained",
        "unknown": "how it was learned is unknown",
        "both": "trained both ways",
    }.get(trained, f"trained {trained} only")
    return f"{row['subject']}  ·  {row['object']}", small


def measured(model: Model, progress: Progress) -> pd.DataFrame | None:
    """The facts beside a model's weights, one row for each, as a run's table has it.

    Margins are left out: they compare with many other names, which takes minutes.
    """
    try:
        path = files.find_facts(model.path, None)
    except FactsError:
        return None
    facts = files.read_facts(path)
    templates = _templates(model, None)
    table = pd.DataFrame(
        [tuple(getattr(fact, name) for name in _FACT) for fact in facts], columns=_FACT
    )
    table.insert(0, "fact", np.arange(len(table)))
    for number, direction in enumerate(DIRECTIONS):
        template = templates[direction].trained[0]
        prompts = [files.fill(template, fact) for fact in facts]
        answers = [answer(fact, direction) for fact in facts]

        def tell(done: int, total: int, before: int = number) -> None:
            progress(before * total + done, len(DIRECTIONS) * total)

        scores = score_answers(model, prompts, answers, progress=tell)
        table[f"{direction}_prompt"], table[f"{direction}_answer"] = prompts, answers
        for name in ("rank", "logprob", "correct"):
            table[f"{direction}_{name}"] = scores[name].values
    return table


def pair(
    model: Model, facts: pd.DataFrame, row: int, way: Way, settings: Mapping[str, Any]
) -> Pair:
    """A pair for the fact in a row, with a partner drawn as the study draws it.

    Raises:
        FactsError: the templates cannot be read, or no other fact can be its partner.
    """
    direction: Direction = "forward" if way.name == "forward" else "reverse"
    template = _templates(model, settings.get("templates"))[direction].trained[0]
    rows: list[dict[Any, Any]] = facts[_FACT].astype(str).to_dict("records")
    pairs = make_pairs(
        model,
        [Fact(**one) for one in rows],
        [row],
        direction,
        template,
        int(settings.get("seed", 0)),
    )
    answers = pairs.answers[0], (pairs.foils or ("",))[0]
    return pair_in(facts, way, pairs.clean.texts[0], pairs.corrupt.texts[0], answers)


def _templates(model: Model, given: str | None) -> Mapping[Direction, Templates]:
    found = files.find_templates(model.path, given)
    return files.DEFAULT_TEMPLATES if found is None else files.read_templates(found)
