"""The measurements: what the model answers, and how far it prefers the right name to others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr

from experiments.organisms.facts import DIRECTIONS, Direction, Fact, Templates
from experiments.reporter import Progress
from experiments.reversal_curse.facts import fill
from experiments.reversal_curse.prompts import answer, questions, right_answers
from interp.forward.capture import capture
from interp.forward.passes import readout
from interp.generation.answers import complete, score_answers
from interp.lens.jacobian.lens import JacobianLens
from interp.lens.logit import logit_lens
from interp.lens.tuned import TunedLens
from interp.model.model import Model
from interp.prompts.pairs import continuations
from interp.prompts.tokens import tokenise
from interp.stats import wilson


@dataclass(frozen=True)
class Subject:
    """What the study is about: a model, facts, and how to ask for them."""

    model: Model
    facts: tuple[Fact, ...]
    templates: dict[Direction, Templates]

    def main_template(self, direction: Direction) -> str:
        """The template of every measurement that uses one only."""
        return self.templates[direction].trained[0]

    def prompts(self, direction: Direction) -> list[str]:
        """All facts in the main template."""
        return [fill(self.main_template(direction), fact) for fact in self.facts]

    def answers(self, direction: Direction) -> list[str]:
        return [answer(fact, direction) for fact in self.facts]


@dataclass(frozen=True)
class Measurements:
    """All stored results of a run, as the hypotheses and the report read them."""

    answers: pd.DataFrame
    accuracy: pd.DataFrame
    facts: pd.DataFrame
    names: dict[Direction, xr.Dataset]
    lens: dict[Direction, xr.Dataset]
    other_lenses: dict[str, dict[Direction, xr.Dataset]]
    """As `names`, under the tuned and the Jacobian lens."""
    maps: dict[tuple[Direction, str], xr.Dataset]
    sham: xr.Dataset
    probes: dict[tuple[Direction, Direction], xr.Dataset]
    """By how the facts were told, and how they are asked."""


def answer_all(subject: Subject, progress: Progress) -> pd.DataFrame:
    """Every fact in every template: one row for each (fact, direction, template).

    Columns: fact, split, direction, templates (trained | held_out), template, logprob of the
    answer, rank of its first token, correct (greedy decoding gives a right answer; a mother with
    several children on the list may be answered with any of them).
    """
    rows, prompts, answers, valid = [], [], [], []
    for direction in DIRECTIONS:
        rights = right_answers(subject.facts, direction)
        groups = subject.templates[direction]
        for group, texts in (("trained", groups.trained), ("held_out", groups.held_out)):
            for number, template in enumerate(texts):
                for index, fact in enumerate(subject.facts):
                    own = fact.answer(direction)
                    for right in [own, *sorted(rights[index] - {own})]:
                        rows.append((index, fact.split, direction, group, number))
                        prompts.append(fill(template, fact))
                        answers.append(" " + right)
                        valid.append(right == own)
    scores = score_answers(subject.model, prompts, answers, progress=progress)
    table = pd.DataFrame(rows, columns=["fact", "split", "direction", "templates", "template"])
    for name in ("logprob", "rank", "correct"):
        table[name] = scores[name].values
    keys = ["fact", "direction", "templates", "template"]
    table["correct"] = table.groupby(keys)["correct"].transform("any")
    return table[valid].reset_index(drop=True)


def with_questions(answers: pd.DataFrame, facts: Sequence[Fact]) -> pd.DataFrame:
    """The same rows with a column `question`: equal where facts ask the same (in a direction)."""
    number = {direction: np.array(questions(facts, direction)) for direction in DIRECTIONS}
    asked = np.array(
        [
            number["forward" if way == "forward" else "reverse"][fact]
            for way, fact in zip(answers["direction"], answers["fact"], strict=True)
        ],
        dtype=np.int64,
    )
    return answers.assign(question=asked)


def accuracy(asked: pd.DataFrame) -> pd.DataFrame:
    """Accuracy for each split, direction and group of templates, with 95% Wilson intervals.

    Questions count, not rows: facts that ask the same (a mother of three) are one question with
    several right answers, and a question's templates are not independent tries.

    Args:
        asked: as `with_questions` gives it.

    Returns:
        Columns split, direction, templates; correct and total, of questions in templates; facts
        and questions; rate over questions, with its interval low, high.
    """
    rows = []
    for key, group in asked.groupby(["split", "direction", "templates"], sort=False):
        tries = group.groupby(["question", "template"])["correct"].any()
        by_question = tries.groupby("question").mean()
        low, high = wilson(float(by_question.sum()), len(by_question))
        counts = (int(tries.sum()), len(tries), int(group["fact"].nunique()), len(by_question))
        rows.append((*key, *counts, float(by_question.mean()), low, high))
    columns = ["split", "direction", "templates", "correct", "total", "facts", "questions"]
    return pd.DataFrame(rows, columns=[*columns, "rate", "low", "high"])


def pick_names(facts: Sequence[Fact], n_names: int, rng: np.random.Generator) -> list[int]:
    """The facts whose answers serve as "other names": up to `n_names` of each split, at random."""
    chosen: list[int] = []
    for split in dict.fromkeys(fact.split for fact in facts):
        members = [i for i, fact in enumerate(facts) if fact.split == split]
        drawn = rng.permutation(members)[:n_names]
        chosen += sorted(int(i) for i in drawn)
    return chosen


def name_grid(facts: Sequence[Fact], names: Sequence[int]) -> list[tuple[int, int]]:
    """Which (fact, name) are compared: every fact with the chosen names of its own split."""
    return [(i, j) for i, fact in enumerate(facts) for j in names if facts[j].split == fact.split]


def score_names(
    subject: Subject, direction: Direction, grid: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    """Whole-answer log-probability (nats) of each name after each fact's prompt."""
    template = subject.main_template(direction)
    scores = score_answers(
        subject.model,
        [fill(template, subject.facts[i]) for i, _ in grid],
        [answer(subject.facts[j], direction) for _, j in grid],
    )
    return pd.DataFrame(
        {
            "fact": [i for i, _ in grid],
            "name": [j for _, j in grid],
            "logprob": scores["logprob"].values,
        }
    )


def margins(
    subject: Subject, direction: Direction, own: npt.NDArray[np.float64], names: pd.DataFrame
) -> npt.NDArray[np.float64]:
    """Log-probability of each fact's answer minus the mean over other names [fact], in nats."""
    out = np.full(len(subject.facts), np.nan)
    rights = right_answers(subject.facts, direction)
    for fact, mine in names.groupby("fact"):
        index = int(str(fact))
        wrong = [subject.facts[j].answer(direction) not in rights[index] for j in mine["name"]]
        if any(wrong):
            out[index] = own[index] - float(mine["logprob"][wrong].mean())
    return out


def complete_all(subject: Subject, progress: Progress) -> pd.DataFrame:
    """What the model says instead: greedy continuations as long as the answers (main template).

    Columns: fact, direction, said.
    """
    rows = []
    for number, direction in enumerate(DIRECTIONS):
        prompts, answers = subject.prompts(direction), subject.answers(direction)
        batch = tokenise(subject.model, prompts)
        lengths = [len(ids) for ids in continuations(subject.model, batch, answers)]
        texts = complete(subject.model, prompts, lengths)
        rows += [(i, direction, text) for i, text in enumerate(texts)]
        progress(number + 1, len(DIRECTIONS))
    return pd.DataFrame(rows, columns=["fact", "direction", "said"])


def fact_table(
    subject: Subject,
    answers: pd.DataFrame,
    names: dict[Direction, pd.DataFrame],
    said: pd.DataFrame,
) -> pd.DataFrame:
    """One row for each fact, with both directions side by side (main template)."""
    table = pd.DataFrame(
        [(f.subject, f.object, f.relation, f.inverse, f.split) for f in subject.facts],
        columns=["subject", "object", "relation", "inverse", "split"],
    )
    table.insert(0, "fact", np.arange(len(table)))
    main = answers[(answers["templates"] == "trained") & (answers["template"] == 0)]
    for direction in DIRECTIONS:
        mine = main[main["direction"] == direction].sort_values("fact")
        own = mine["logprob"].to_numpy(dtype=np.float64)
        table[f"{direction}_prompt"] = subject.prompts(direction)
        table[f"{direction}_answer"] = subject.answers(direction)
        table[f"{direction}_said"] = said[said["direction"] == direction]["said"].to_numpy()
        table[f"{direction}_rank"] = mine["rank"].to_numpy()
        table[f"{direction}_logprob"] = own
        table[f"{direction}_margin"] = margins(subject, direction, own, names[direction])
        table[f"{direction}_correct"] = mine["correct"].to_numpy()
    return table


def lens_ranks(subject: Subject, direction: Direction, progress: Progress) -> xr.Dataset:
    """Rank and log-probability of the answer's first token at the prompt's end, layer by layer."""
    lens = logit_lens(
        subject.model,
        subject.prompts(direction),
        subject.answers(direction),
        k=1,
        positions="last",
        progress=progress,
    )
    kept = lens[["answer_rank", "answer_logprob"]].isel(position=0, drop=True)
    return kept.assign_coords(
        {
            "fact": ("example", np.arange(len(subject.facts))),
            "subject": ("example", [fact.subject for fact in subject.facts]),
            "object": ("example", [fact.object for fact in subject.facts]),
            "split": ("example", [fact.split for fact in subject.facts]),
        }
    ).assign_attrs(d_vocab=subject.model.d_vocab)


def lens_names(
    subject: Subject,
    direction: Direction,
    names: Sequence[int],
    progress: Progress,
    fit: Callable[[Progress], TunedLens | JacobianLens] | None = None,
) -> xr.Dataset:
    """The lens on other names: log-probability of each name's first token at the prompt's end.

    Args:
        fit: makes the lens; the logit lens if left out.

    Returns:
        logprob(example, layer, name) in nats, for all facts and the chosen names of every split;
        first_token(name) is the token looked at.
    """
    model = subject.model
    prompts, answers = subject.prompts(direction), subject.answers(direction)
    asked = tokenise(model, [prompts[j] for j in names])
    of_names = continuations(model, asked, [answers[j] for j in names])
    first = torch.tensor([ids[0] for ids in of_names])
    sites = ["resid_pre.0", "resid_post"]
    # Where a lens has to be fitted first, that is what takes long.
    lens = fit(progress) if fit else None
    activations = capture(
        model, prompts, sites, positions="last", progress=None if fit else progress
    )
    layers = []
    for layer, hidden in enumerate(activations.values()):
        if lens is not None and layer < model.n_layers:
            hidden = lens.translate(layer, hidden)
        logprobs = readout(model, hidden).log_softmax(-1)
        layers.append(logprobs[:, first.to(hidden.device)].cpu().numpy())
    return xr.Dataset(
        {"logprob": (("example", "layer", "name"), np.stack(layers, axis=1))},
        coords={
            "layer": np.arange(len(layers)),
            "name": list(names),
            "first_token": ("name", first.numpy()),
        },
        attrs={"instrument": "logit lens on other names", "fingerprint": model.fingerprint},
    )
