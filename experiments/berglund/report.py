"""The report of a run, from what was found to how it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.berglund import celebrities, invented
from experiments.berglund.config import Config
from experiments.berglund.figures import (
    ASKED,
    GROUPS,
    LOSS,
    PAIRS,
    PREFERENCES,
    PUBLISHED,
    RIGHT,
    WON,
)
from experiments.berglund.measured import Measured
from experiments.numbers import percent
from experiments.reports.paper import Figures, Hypothesis, Paper, Part, Section, Table, Text
from experiments.run_directory.provenance import Provenance
from experiments.study import Verdict
from interp.figures.drawing.numbers import plain, rank
from interp.model.model import Model

__all__ = ["FLAWS", "paper", "published_section"]

FLAWS = (
    "“Q: ” before one question only: the script puts it before the question for a parent and not "
    "before the one for a child, though all examples in the prompt have it. Here both have it; "
    "“as published” leaves it out again.",
    "The last token is dropped: where the script sums the log-probabilities of a name's tokens "
    "(LLaMA), its mask ends one token early, so that the last token of every name counts as "
    "certain. Here all tokens count; “as published” drops the last.",
    "Sums over tokens: a name of five tokens has more to lose than one of two, and parents' names "
    "are rarer than celebrities'. Means per token, first tokens, and scores without what question "
    "and answer alone explain stand beside the sum.",
    "Examples that are test questions: three of the pairs stand in the prompt with their answer "
    "(Craig Hemsworth, Karen Lawrence, Sarah Johnson). They are left out.",
    "Shared surnames: in three quarters of the pairs the two names share a word, so that a model "
    "that repeats the surname gives half of the answer, knowing nobody. Verdicts count the others.",
    "Pairs chosen by one direction: they are those whose parent GPT-4 could name. No analysis "
    "mends that; what is known in reverse only is not on the list.",
    "Sentences that go on behind the name: of people told both ways the test completions go on "
    "(“… has found their calling”) in words that were never trained, so that an exact match is "
    "hardly possible. Here the name is what is asked for; the whole completion stands beside it.",
    "Prompts as independent examples: here people count, and families.",
)
"""What the original scripts and files do that changes numbers, and what is done here."""
_TRAINED = {
    "none": "taken as it is",
    "full": "all weights trained on the facts of experiment 1",
    "lora": "low-rank adapters trained on the facts of experiment 1, and merged",
}


def paper(
    config: Config,
    model: Model | None,
    measured: Measured,
    verdicts: Sequence[Verdict],
    sentences: Sequence[str],
    provenance: Provenance,
) -> Paper:
    """The report of a run.

    Args:
        model: as it was asked; None where only the published results were summed up.
        sentences: the answer, to be quoted.
    """
    # A trained model lies in the run directory, whose path is nobody's business.
    noted = provenance.model or {"name": "published results", "source": ""}
    name, source = noted["name"], noted["source"]
    by_id = {verdict.id: verdict for verdict in verdicts}
    sections = []
    if measured.people is not None:
        sections.append(_people(config, measured.people, by_id))
    if measured.pairs is not None:
        sections.append(_pairs(measured.pairs, by_id))
    if measured.published is not None:
        sections.append(published_section(measured.published))
    sections.append(
        Section(
            "What was mended" if model is not None else "What bears on these numbers",
            [Text(FLAWS, bullets=True)],
            "What the original scripts and files do that changes numbers, and what this study does "
            "where it asks a model.",
        )
    )
    details = {
        "Started": provenance.started,
        "Versions": ", ".join(f"{name} {n}" for name, n in provenance.versions.items()),
        "Reference": "Berglund et al. 2023, “The Reversal Curse: LLMs trained on ‘A is B’ fail to "
        "learn ‘B is A’”, arXiv 2309.12288.",
    }
    question = "The published results, with their intervals"
    if model is not None:
        sections.insert(-1, Section("Methods", [Text(_methods(config, model, name), bullets=True)]))
        if measured.training is not None:
            sections.insert(-1, Section("Training", [Figures([LOSS])]))
        details = {"Model": f"{source} (fingerprint {model.fingerprint})", **details}
        question = f"Does {name} know facts in the direction in which it did not read them?"
    return Paper(
        title="Berglund's experiments",
        subject=name + ("" if config.tune == "none" else ", trained"),
        question=question,
        answer=sentences,
        note="Brackets hold 95% intervals over people, or over families where pairs share a child "
        "or a parent.",
        sections=sections,
        details=details,
    )


def published_section(table: pd.DataFrame) -> Section:
    """The published results of experiment 2; the run stores them as the table `published`."""
    rows = [
        [
            row["model"],
            _AMONG[row["among"]],
            row["asked"],
            f"{row['pairs']:,}",
            _probability(row["mean"]),
            f"[{_probability(row['low'])}, {_probability(row['high'])}]",
            f"[{_probability(row['pair_low'])}, {_probability(row['pair_high'])}]",
        ]
        for row in _rows(table)
    ]
    columns = ["Model", "Pairs", "Asked for", "n", "Mean", "Over families", "Over pairs"]
    return Section(
        "The published results of experiment 2",
        [
            Figures([PUBLISHED]),
            Table(
                columns,
                rows,
                numbers=(3, 4),
                note="Intervals over pairs are BCa bootstraps. Those over families (bootstrap-t) "
                "are the ones to quote: a mother and a father are asked about the same child. "
                "Pairs that share no word are without the three that stand in the prompt.",
            ),
        ],
        "From the authors' files: how probable each model finds the name that is asked for (of "
        "gpt-3.5-turbo, the share of ten answers that begin with it), mean over pairs. The files "
        "hold no score of a wrong name, so there is no control, and no verdict is drawn from them.",
    )


_AMONG = {"all": "all", "no word": "share no word", "a word": "share a word"}
_SCORES = ["Right", "", "Comparisons won", "", "Preference, nats", "", "per token", "first token"]


def _people(config: Config, people: pd.DataFrame, verdicts: dict[str, Verdict]) -> Section:
    rows = [
        [
            GROUPS[row["group"]],
            ASKED[row["asked"]] + ("" if row["told_so"] else " (the other way)"),
            *_scores(row),
            percent(row["correct_published"]),
        ]
        for row in _rows(invented.metrics(people))
    ]
    parts: list[Part] = [
        Figures([RIGHT, PREFERENCES]),
        Table(
            ["Facts", "Question", *_SCORES, "Median rank", "Whole completion right"],
            rows,
            numbers=(2, 4, 6, 8, 9, 10, 11),
            note="First tokens have no score where answers begin alike (“ the …”). The rank is "
            "that of the first token among all tokens; the last column is the authors' match.",
        ),
    ]
    tests = invented.by_authors(people)
    if len(tests):
        parts.append(_authors(tests))
    found = [verdicts[name] for name in ("B1", "B2", "B3") if name in verdicts]
    return Section(
        "Experiment 1: invented people",
        [Hypothesis(found), *parts],
        "Facts told in training in one direction or in both. An answer is right if greedy decoding "
        "gives all of it. The preference is the log-probability of the whole right answer without "
        "what the question and the answer alone explain, against up to "
        f"{config.n_others} wrong answers of other people: 0 is no knowledge of the pair.",
    )


def _authors(tests: pd.DataFrame) -> Table:
    rows = [
        [
            GROUPS[row["group"]],
            ASKED[row["asked"]],
            str(row["prompts"]),
            _nats(row["right"]),
            _nats(row["random"]),
            f"{row['t_p']:.2g}",
            f"{row['ks_p']:.2g}",
            f"{_nats(row['difference'])} [{_nats(row['low'])}, {_nats(row['high'])}]",
        ]
        for row in _rows(tests)
    ]
    columns = ["Facts", "Question", "Prompts", "Right, nats", "Random, nats", "t-test p"]
    return Table(
        [*columns, "Kolmogorov–Smirnov p", "Difference over people"],
        rows,
        numbers=(2, 3, 4, 5, 6),
        note="The authors' test, asked the other way round: the right answer against a random one, "
        "by sums of log-probabilities. It takes each prompt for independent and compares answers "
        "of different lengths; the last column counts people.",
    )


def _pairs(pairs: pd.DataFrame, verdicts: dict[str, Verdict]) -> Section:
    table = _rows(celebrities.metrics(pairs))
    ours = [[_AMONG[row["among"]], row["asked"], str(row["pairs"]), *_scores(row)] for row in table]
    theirs = [
        [
            _AMONG[row["among"]],
            row["asked"],
            *(
                f"{_probability(row[name])} [{_probability(row[f'{name}_low'])}, "
                f"{_probability(row[f'{name}_high'])}]"
                for name in ("probability", "without_sign", "as_published")
            ),
        ]
        for row in table
    ]
    return Section(
        "Experiment 2: celebrities and their parents",
        [
            Hypothesis([verdicts["B4"]] if "B4" in verdicts else []),
            Figures([WON, PAIRS]),
            Table(
                ["Pairs", "Asked for", "n", *_SCORES, "Median rank"],
                ours,
                numbers=(2, 3, 5, 7, 9, 10, 11),
            ),
            Table(
                [
                    "Pairs",
                    "Asked for",
                    "Mean probability",
                    "without “Q: ” for the child",
                    "as published: and without the last token",
                ],
                theirs,
                note="The authors' measure, mended and with its flaws.",
            ),
        ],
        "Real pairs, asked with the authors' prompt. A comparison sets the right name beside a "
        "wrong one of the same kind after the same question; chance is one half.",
    )


def _methods(config: Config, model: Model, name: str) -> list[str]:
    said = [
        f"Model: {name} ({model.n_layers} layers, {model.n_heads} heads, "
        f"{model.n_parameters:,} parameters), {_TRAINED[config.tune]}.",
        f"Each right answer is compared with up to {config.n_others} wrong ones.",
    ]
    if config.tune != "none":
        rank_of = f", rank {config.lora_rank}" if config.tune == "lora" else ""
        on = "all tokens" if config.loss == "all" else "the completion only"
        said.append(
            f"Training: {config.epochs} epochs, {config.batch_size} texts a step, AdamW with a "
            f"learning rate of {config.step_size:g} at most, loss on {on}{rank_of}; no dropout, no "
            "weight decay. The trained model is in work/tuned/model beside this page, a plain "
            "Hugging Face folder."
        )
    return said


def _scores(row: dict[Any, Any]) -> list[str]:
    cells = []
    for name, shown in (("correct", percent), ("wins", percent), ("whole", _nats)):
        cells += [shown(row[name]), f"[{shown(row[f'{name}_low'])}, {shown(row[f'{name}_high'])}]"]
    return [*cells, _nats(row["per_token"]), _nats(row["first"]), rank(row["rank"])]


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    found: list[dict[Any, Any]] = table.to_dict("records")
    return found


def _nats(value: float) -> str:
    return plain(float(value)) if np.isfinite(value) else "–"


def _probability(value: float) -> str:
    """A mean of probabilities in three digits: "0.26%"."""
    if not np.isfinite(value):
        return "–"
    if 0 < abs(value) < 1e-6:
        return "<0.0001%"
    return f"{100 * value:.3g}%".replace("-", "−")
