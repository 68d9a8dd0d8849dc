"""Facts written into one MLP: does the reverse come out, and does it follow a forward fact?

An answer is written at the last token of the name that is asked about, as one rank-one edit
(`measurements.rank_one`), one fact at a time. Keys and values are made in some wordings, and all is
judged in others (see `measurements.editing` for what is written).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.organisms.facts import Direction, Fact
from experiments.reporter import Progress
from experiments.reversal_curse.facts import fill
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.crossing import refused
from experiments.reversal_curse.measurements.editing import (
    AT_NAME,
    ELSEWHERE,
    Floats,
    Indices,
    Job,
    Values,
    facts_to_edit,
    partners,
    random_values,
)
from experiments.reversal_curse.measurements.rank_one import Answers, Edits, answered
from interp.errors import ModelError, PromptError, SiteError
from interp.generation.answers import score_answers

__all__ = ["follows", "known", "restored"]

LEAST_FACTS = 10
_OTHERS = 3


def known(subject: Subject, direction: Direction) -> npt.NDArray[np.bool_]:
    """Whether the model answers each fact in the main template."""
    found = score_answers(subject.model, subject.prompts(direction), subject.answers(direction))
    right: npt.NDArray[np.bool_] = found["correct"].values
    return right


def restored(
    subject: Subject,
    members: Indices,
    forward: Indices,
    reverse: Indices,
    seed: int,
    progress: Progress,
) -> xr.Dataset:
    """Write each fact's reverse answer at the name that is asked about.

    Args:
        members: facts that the model knows forward, and not in reverse.
        forward, reverse: all facts that it answers so, to see whether they stay.
        seed: of what is drawn.

    Returns:
        For each family of values (example, family): made and unseen, whether the whole answer is
        given in the wordings that the edit was made in, and in others; mismatched (the same value
        at another name's key), random (a random value of the same length), other_question (whether
        the answer comes when the name is asked the other question), forward (whether the fact is
        still answered forward), kept_forward and kept_reverse (other facts, of those that were
        answered before), unedited; and by_layer(example, family, layer), made at every layer. Each
        half of the questions is edited at the layer that is best in the other half. Without
        examples, and with the attribute `refused`, where it cannot be done.
    """
    rng = np.random.default_rng(seed)
    rows = facts_to_edit(subject, members, rng)
    if len(rows) < LEAST_FACTS:
        return _too_few(len(rows))
    try:
        targets = [subject.facts[i].subject for i in rows]
        job = Job.of(subject, "reverse", rows, targets, rng)
        if isinstance(job, str):
            return _refused(job)
        values = job.values((ELSEWHERE, AT_NAME), rng)
        progress(1, 2)
        found = job.efficacy(values) | _controls(job, values, rng)
        found |= _kept(job, values, "forward", forward, rng)
        found |= _kept(job, values, "reverse", reverse, rng)
        progress(2, 2)
        return job.labelled(values, found)
    except (PromptError, ModelError, SiteError) as error:
        return _refused(str(error))


def follows(subject: Subject, members: Indices, seed: int, progress: Progress) -> xr.Dataset:
    """Edit a fact forward (A's mother becomes C): is A now C's child, and still B's?

    Args:
        members: facts that the model was told forward only, and knows.
        seed: of what is drawn.

    Returns:
        (example, family): made and unseen, whether C is answered; followed, whether A is answered
        when C is asked; remained, whether A is answered when B is asked; before and
        remained_before, these two without an edit; gain, by how much A's log-probability rises when
        C is asked (nats), and gain_control, when the object of a third fact is. Without examples,
        and with the attribute `refused`, where it cannot be done.
    """
    rng = np.random.default_rng(seed)
    rows = facts_to_edit(subject, members, rng)
    if len(rows) < LEAST_FACTS:
        return _too_few(len(rows))
    partner, third = partners(subject, rows, 1), partners(subject, rows, 2)
    facts = [subject.facts[i] for i in rows]
    try:
        job = Job.of(subject, "forward", rows, [facts[j].object for j in partner], rng)
        if isinstance(job, str):
            return _refused(job)
        values = job.values((AT_NAME,), rng)
        progress(1, 2)
        found = job.efficacy(values)
        for name, of in (("new", partner), ("old", np.arange(len(rows))), ("third", third)):
            swapped = [replace(f, object=facts[j].object) for f, j in zip(facts, of, strict=True)]
            asking = _asking(subject, swapped, "reverse")
            before, plain = answered(subject.model, asking, None)
            right, logprob = job.run(asking, values[AT_NAME])
            if name == "new":
                found["followed", AT_NAME] = right
                found["before", AT_NAME] = before.astype(float)
                found["gain", AT_NAME] = logprob - plain
            elif name == "old":
                found["remained", AT_NAME] = right
                found["remained_before", AT_NAME] = before.astype(float)
            else:
                found["gain_control", AT_NAME] = logprob - plain
        progress(2, 2)
        return job.labelled(values, found)
    except (PromptError, ModelError, SiteError) as error:
        return _refused(str(error))


def _refused(reason: str) -> xr.Dataset:
    return refused("rank-one edits", reason, "unseen", ("example", "family"))


def _too_few(n: int) -> xr.Dataset:
    return _refused(
        f"{n} facts that share no name are known forward only, and {LEAST_FACTS} are needed"
    )


def _asking(subject: Subject, facts: Sequence[Fact], way: Direction) -> Answers:
    prompts = [fill(subject.main_template(way), fact) for fact in facts]
    return Answers.of(subject.model, prompts, [fact.answer(way) for fact in facts])


def _controls(
    job: Job, values: dict[str, Values], rng: np.random.Generator
) -> dict[tuple[str, str], Floats]:
    """Where the answer ought not to come, and whether the fact is still answered forward."""
    subject, facts, n = job.subject, job.facts, len(job.rows)
    partner, width = partners(subject, job.rows), len(job.unseen)
    unseen, forward = job.asking(job.unseen), _asking(subject, facts, "forward")
    plain = answered(subject.model, unseen, None)[0].astype(float).reshape(n, -1).mean(1)
    # The name is asked what the subject is asked otherwise: "C's mother" and not "C's child".
    template = subject.main_template("forward")
    other = [fill(template, replace(fact, subject=fact.object)) for fact in facts]
    symmetric = any(fact.relation == fact.inverse for fact in facts)

    def mismatched(edits: Edits) -> Edits:
        return replace(edits, key=edits.key[partner])

    def drawn(edits: Edits) -> Edits:
        return random_values(edits, rng)

    out = {}
    for family, one in values.items():
        for name, change in (("mismatched", mismatched), ("random", drawn)):
            right, _ = job.run(unseen, one.changed(change), width)
            out[name, family] = right.reshape(n, -1).mean(1)
        out["unedited", family] = plain
        out["forward", family] = job.run(forward, one)[0]
        if not symmetric:
            asking = Answers.of(subject.model, other, job.targets)
            out["other_question", family] = job.run(asking, one)[0]
    return out


def _kept(
    job: Job, values: dict[str, Values], way: Direction, pool: Indices, rng: np.random.Generator
) -> dict[tuple[str, str], Floats]:
    """Of three other facts that the model answers, how many it still does [fact]."""
    subject, n = job.subject, len(job.rows)
    mine = [{fact.subject, fact.object} for fact in job.facts]
    facts = [subject.facts[int(i)] for i in pool]
    picked: list[Fact] = []
    for names in mine:
        free = [f for f in facts if not names & {f.subject, f.object}]
        if not free:
            return {}
        picked += [free[i] for i in rng.integers(len(free), size=_OTHERS)]
    asking = _asking(subject, picked, way)
    before = answered(subject.model, asking, None)[0].reshape(n, -1)
    count = before.sum(1)
    out = {}
    for family, one in values.items():
        right = job.run(asking, one, _OTHERS)[0].reshape(n, -1)
        out[f"kept_{way}", family] = np.where(
            count > 0, (right * before).sum(1) / np.maximum(count, 1), np.nan
        )
    return out
