"""Facts written into one MLP: does the reverse come out, and does it follow a forward fact?

Where an answer is written is a name's last token, as one rank-one edit (`measurements.rank_one`).
What is written is made in two ways, neither longer than twice what the MLP writes for names anyway:

- mean map: what raises the answer's logits in the questions of *other* names, which the model
  answers; the asked name and its question play no part in it;
- optimised: from there along the gradient of the answer's log-probability in the edited question,
  as is usual (ROME). Such a value can force a token whatever the model keeps.

Keys and optimised values are made in some wordings, and all is judged in others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from experiments.organisms.facts import DIRECTIONS, Direction, Fact
from experiments.reporter import Progress
from experiments.reversal_curse.facts import fill
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.crossing import apart, refused
from experiments.reversal_curse.measurements.rank_one import (
    Answers,
    Edits,
    Keys,
    answered,
    improved,
    mean_effect,
    name_ends,
    written,
)
from experiments.reversal_curse.prompts import asked, questions
from interp.errors import ModelError, PromptError, SiteError
from interp.generation.answers import score_answers
from interp.prompts.pairs import continuations
from interp.model.model import Model
from interp.prompts.tokens import TokenBatch, tokenise

__all__ = ["FAMILIES", "follows", "known", "restored"]

FAMILIES = ("mean map", "optimised")
LEAST_FACTS = 10
LEAST_ASKED = 4
MOST_FACTS = 40
_WORDINGS = 2
_OTHERS = 3
_SENTENCES = 200
MOST_LAYERS = 6
_LENGTHS = {"mean map": (1.0, 2.0), "optimised": (2.0,)}
"""Of values, in units of what the MLP writes for names."""

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def known(subject: Subject, direction: Direction) -> npt.NDArray[np.bool_]:
    """Whether the model answers each fact in the main template."""
    answers = [f" {answer}" for answer in subject.answers(direction)]
    found = score_answers(subject.model, subject.prompts(direction), answers)
    right: npt.NDArray[np.bool_] = found["correct"].values
    return right


def restored(
    subject: Subject,
    members: Indices,
    told: Indices,
    others: Indices,
    seed: int,
    progress: Progress,
) -> xr.Dataset:
    """Write each fact's reverse answer at the name that is asked about, one fact at a time.

    Args:
        members: facts that the model knows forward, and not in reverse.
        told: facts that it answers in reverse, whose questions make the mean map.
        others: facts that it answers forward, to see whether they stay.

    Returns:
        For each family of values (example, family): made and unseen, whether the answer is given
        whole in the wordings that the edit was made in, and in others; mismatched (the same value
        at another name's key), random (a random value of the same length), other_question (whether
        the answer comes when the name is asked the other question), elsewhere (the same value at a
        name whose reverse the model was told), forward (whether the fact is still answered
        forward), kept_forward and kept_reverse (of other facts); unedited(example); and
        cells(example, cell), made of every layer and value. Each half of the questions is edited in
        the cell that is best in the other half. Without variables, and with the attribute
        `refused`, where it cannot be done.
    """
    rng = np.random.default_rng(seed)
    rows = _drawn(subject, members, rng)
    sources = np.sort(rng.permutation(apart(subject, told)))
    if len(rows) < LEAST_FACTS:
        return _refused(f"{len(rows)} facts that are known forward only, and {LEAST_FACTS} needed")
    if len(sources) < LEAST_ASKED:
        return _refused(
            f"{len(sources)} facts are answered in reverse, and {LEAST_ASKED} at least show how"
        )
    try:
        job = _Job.of(subject, "reverse", rows, _targets(subject, "reverse", rows), sources, rng)
        if isinstance(job, str):
            return _refused(job)
        progress(1, 3)
        values = job.cells(rng)
        progress(2, 3)
        return _labelled(job, values, _restored(job, values, others, rng))
    except (PromptError, ModelError, SiteError) as error:
        return _refused(str(error))


def follows(
    subject: Subject, members: Indices, told: Indices, seed: int, progress: Progress
) -> xr.Dataset:
    """Edit a fact forward (A's mother becomes C): is A now C's child, and still B's?

    Args:
        members: facts that the model was told forward only, and knows.
        told: facts that it answers forward, whose questions make the mean map.

    Returns:
        (example, family): made and unseen, whether C is answered; followed, whether A is answered
        when C is asked, and before(example) the same without an edit; remained, whether A is
        answered when B is asked, and remained_before(example); gain, by how much A's log-probability
        rises when C is asked (nats), and gain_control when a third object is asked; cells as in
        `restored`. Without variables, and with `refused`, where it cannot be done.
    """
    rng = np.random.default_rng(seed)
    rows = _drawn(subject, members, rng)
    if len(rows) < LEAST_FACTS:
        return _refused(f"{len(rows)} facts that are known forward only, and {LEAST_FACTS} needed")
    partner = _partners(subject, rows)
    third = partner[partner]
    try:
        targets = [subject.facts[i].object for i in rows[partner]]
        sources = np.sort(rng.permutation(apart(subject, told)))
        job = _Job.of(subject, "forward", rows, targets, sources, rng)
        if isinstance(job, str):
            return _refused(job)
        progress(1, 3)
        values = job.cells(rng)
        progress(2, 3)
        facts = [subject.facts[i] for i in rows]
        reverse = subject.main_template("reverse")
        children = [fact.subject for fact in facts]

        def asking(of: Indices) -> Answers:
            prompts = [
                fill(reverse, replace(fact, object=facts[j].object))
                for fact, j in zip(facts, of, strict=True)
            ]
            return Answers.of(subject.model, prompts, children)

        every = np.arange(len(rows))
        to_new, to_old, to_third = asking(partner), asking(every), asking(third)
        plain = {
            n: answered(subject.model, one, None)
            for n, one in (("new", to_new), ("old", to_old), ("third", to_third))
        }
        out = job.efficacy(values)
        for family in FAMILIES:
            for name, one, base in (
                ("followed", to_new, "new"),
                ("remained", to_old, "old"),
                ("third", to_third, "third"),
            ):
                right, logprob = job.run(one, values[family])
                out[name, family] = right.astype(float)
                if name != "remained":
                    key = "gain" if name == "followed" else "gain_control"
                    out[key, family] = logprob - plain[base][1]
        found = _labelled(job, values, out)
        return found.assign(
            before=("example", plain["new"][0].astype(float)),
            remained_before=("example", plain["old"][0].astype(float)),
        )
    except (PromptError, ModelError, SiteError) as error:
        return _refused(str(error))


def _refused(reason: str) -> xr.Dataset:
    return refused("rank-one edits", reason)


def _drawn(subject: Subject, members: Indices, rng: np.random.Generator) -> Indices:
    """At most 40 facts, each of another question and answer, of words that have a partner."""
    seen: set[str] = set()
    kept = []
    for i in rng.permutation(apart(subject, members)).tolist():
        names = {subject.facts[i].subject, subject.facts[i].object}
        if not names & seen:
            seen |= names
            kept.append(i)
    kept = kept[:MOST_FACTS]
    words = [(subject.facts[i].relation, subject.facts[i].inverse) for i in kept]
    return np.array(
        sorted(i for i, w in zip(kept, words, strict=True) if words.count(w) > 2), np.int64
    )


def _partners(subject: Subject, rows: Indices) -> Indices:
    """The next fact that is asked in the same words [row]."""
    words = [(subject.facts[i].relation, subject.facts[i].inverse) for i in rows]
    out = np.zeros(len(rows), np.int64)
    for each in dict.fromkeys(words):
        mine = np.array([k for k, w in enumerate(words) if w == each])
        out[mine] = np.roll(mine, -1)
    return out


def _targets(subject: Subject, way: Direction, rows: Indices) -> list[str]:
    return [subject.facts[i].answer(way) for i in rows]


@dataclass(frozen=True)
class _Values:
    """The edits of one family.

    Attributes:
        edits: of each cell, those of all facts.
        names: of the cells.
        made: how often each fact comes out in the wordings that it was made in [fact, cell].
        chosen: the cell of each fact, which the other half chose [fact].
        keys: of each layer.
    """

    edits: list[Edits]
    names: list[str]
    made: Floats
    chosen: Indices
    keys: dict[int, Keys]

    def changed(self, change: Callable[[Edits], Edits]) -> _Values:
        used = set(self.chosen.tolist())
        return replace(
            self, edits=[change(e) if i in used else e for i, e in enumerate(self.edits)]
        )


@dataclass(frozen=True)
class _Job:
    """Which facts are edited, asked which way, to what."""

    subject: Subject
    way: Direction
    rows: Indices
    targets: list[str]
    sources: Indices
    wordings: tuple[str, ...]
    unseen: tuple[str, ...]
    partner: Indices
    half: Indices

    @classmethod
    def of(
        cls,
        subject: Subject,
        way: Direction,
        rows: Indices,
        targets: list[str],
        sources: Indices,
        rng: np.random.Generator,
    ) -> _Job | str:
        templates = subject.templates[way]
        made = templates.trained[:_WORDINGS]
        unseen = templates.held_out[:_WORDINGS] or templates.trained[_WORDINGS : 2 * _WORDINGS]
        if not unseen:
            return f"all wordings of the {way} question are needed to make the edits"
        half = rng.permutation(np.arange(len(rows)) % 2)
        partner = _partners(subject, rows)
        return cls(subject, way, rows, targets, sources, made, unseen, partner, half)

    @property
    def facts(self) -> list[Fact]:
        return [self.subject.facts[i] for i in self.rows]

    def prompts(self, templates: Sequence[str]) -> list[str]:
        """[fact · wording]"""
        return [fill(template, fact) for fact in self.facts for template in templates]

    def asking(self, templates: Sequence[str]) -> Answers:
        targets = [target for target in self.targets for _ in templates]
        return Answers.of(self.subject.model, self.prompts(templates), targets)

    def cells(self, rng: np.random.Generator) -> dict[str, _Values]:
        """Make every value at every layer, and choose."""
        model, subject = self.subject.model, self.subject
        n, layers = len(self.rows), _layers(model.n_layers)
        batch = tokenise(model, self.prompts(self.wordings))
        names = [asked(fact, self.way) for fact in self.facts for _ in self.wordings]
        ends = name_ends(batch, names)
        effect = self._mean_effect()
        asking = self.asking(self.wordings)
        number = np.repeat(np.arange(n), len(self.wordings))
        sentences = [
            f"{prompt} {answer}"
            for way in DIRECTIONS
            for prompt, answer in zip(subject.prompts(way), subject.answers(way), strict=True)
        ]
        drawn = [sentences[i] for i in rng.permutation(len(sentences))[:_SENTENCES]]
        seen: dict[int, Keys] = {}
        made: dict[str, list[tuple[str, Edits, Floats, Floats]]] = {f: [] for f in FAMILIES}
        for layer in layers:
            keys = written(model, batch, ends, "mlp_act", [layer])[0].double()
            keys = keys.reshape(n, len(self.wordings), -1).mean(1)
            seen[layer] = Keys.of(model, drawn, layer, 0)
            reader = seen[layer].reader(keys)
            outputs = written(model, batch, ends, "mlp_out", [layer])[0].double()
            unit = float((outputs - outputs.mean(0)).norm(dim=1).mean())
            direction = effect[:, layer].to(reader.device)
            direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-30)
            for family in FAMILIES:
                for length in _LENGTHS[family]:
                    edits = Edits(layer, reader, length * unit * direction)
                    if family == "optimised":
                        edits = improved(model, asking, edits, number, length * unit)
                    right, logprob = answered(model, asking, edits.of(number))
                    made[family].append(
                        (
                            f"layer {layer}, length {length:g}",
                            edits,
                            right.reshape(n, -1).mean(1),
                            logprob.reshape(n, -1).mean(1),
                        )
                    )
        return {family: self._chosen(found, seen) for family, found in made.items()}

    def _chosen(
        self, found: list[tuple[str, Edits, Floats, Floats]], keys: dict[int, Keys]
    ) -> _Values:
        right = np.stack([each[2] for each in found], axis=1)
        logprob = np.stack([each[3] for each in found], axis=1)
        cell = np.zeros(len(self.rows), np.int64)
        for which in (0, 1):
            rest = self.half != which
            # Log-probabilities only where as many are right.
            order = np.lexsort((logprob[rest].mean(0), right[rest].mean(0)))
            cell[self.half == which] = order[-1]
        return _Values([each[1] for each in found], [each[0] for each in found], right, cell, keys)

    def _mean_effect(self) -> Tensor:
        """See `rank_one.mean_effect`; questions of other names, which the model answers."""
        model, subject = self.subject.model, self.subject
        mine = {name for i in self.rows for name in _names(subject.facts[i])} | set(self.targets)
        free = [int(i) for i in self.sources if not mine & _names(subject.facts[int(i)])]
        # Where all facts are edited, the questions of others are still others' questions.
        free = (free or [int(i) for i in self.sources])[:8]
        facts = [subject.facts[i] for i in free]
        prompts = [fill(self.wordings[0], fact) for fact in facts]
        questions_ = Answers.of(model, prompts, [fact.answer(self.way) for fact in facts])
        ends = name_ends(questions_.reads, [asked(fact, self.way) for fact in facts])
        own = tokenise(model, self.prompts(self.wordings[:1]))
        ids = continuations(model, own, [f" {target}" for target in self.targets])
        targets = torch.full((len(ids), max(len(each) for each in ids)), -1)
        for row, each in enumerate(ids):
            targets[row, : len(each)] = torch.tensor(each)
        return mean_effect(model, questions_, ends, targets)

    def run(self, asking: Answers, values: _Values, per: int = 1) -> tuple[Floats, Floats]:
        """Answers under each fact's own edit, `per` questions of each [fact · question]."""
        right, logprob = np.zeros(len(asking)), np.zeros(len(asking))
        for cell in np.unique(values.chosen):
            rows = np.nonzero(values.chosen == cell)[0]
            at = (rows[:, None] * per + np.arange(per)).reshape(-1)
            edits = values.edits[cell].of(np.repeat(rows, per))
            right[at], logprob[at] = answered(self.subject.model, _some(asking, at), edits)
        return right, logprob

    def efficacy(self, values: dict[str, _Values]) -> dict[tuple[str, str], Floats]:
        out = {}
        for name, templates in (("made", self.wordings), ("unseen", self.unseen)):
            asking = self.asking(templates)
            for family in FAMILIES:
                right, _ = self.run(asking, values[family], len(templates))
                out[name, family] = right.reshape(len(self.rows), -1).mean(1)
        return out


def _restored(
    job: _Job, values: dict[str, _Values], others: Indices, rng: np.random.Generator
) -> dict[tuple[str, str], Floats]:
    model, subject, facts = job.subject.model, job.subject, job.facts
    n, out = len(facts), job.efficacy(values)
    unseen, width = job.asking(job.unseen), len(job.unseen)
    plain, _ = answered(model, unseen, None)
    forward = Answers.of(
        model, [fill(subject.main_template("forward"), f) for f in facts], [f.object for f in facts]
    )
    mine = {name for fact in facts for name in _names(fact)}

    def drawn(pool: Indices, way: Direction) -> Answers | None:
        free = [int(i) for i in pool if not mine & _names(subject.facts[int(i)])]
        if not free:
            return None
        picked = [subject.facts[free[i]] for i in rng.integers(len(free), size=n * _OTHERS)]
        prompts = [fill(subject.main_template(way), fact) for fact in picked]
        return Answers.of(model, prompts, [fact.answer(way) for fact in picked])

    kept = {"kept_forward": drawn(others, "forward"), "kept_reverse": drawn(job.sources, "reverse")}
    told = [subject.facts[int(i)] for i in rng.permutation(job.sources)]
    hosts = [told[i % len(told)] for i in range(n)]
    batch = tokenise(model, [fill(job.wordings[0], fact) for fact in hosts])
    ends = name_ends(batch, [asked(fact, job.way) for fact in hosts])
    at_host = Answers.of(model, [fill(job.unseen[0], fact) for fact in hosts], job.targets)
    swapped = [fill(subject.main_template("forward"), replace(f, subject=f.object)) for f in facts]
    differs = not set(swapped) & set(job.prompts((*job.wordings, *job.unseen)))
    for family, one in values.items():
        right, _ = job.run(unseen, one.changed(lambda e: replace(e, key=e.key[job.partner])), width)
        out["mismatched", family] = right.reshape(n, -1).mean(1)
        right, _ = job.run(unseen, one.changed(lambda e: _random(e, rng)), width)
        out["random", family] = right.reshape(n, -1).mean(1)
        moved = one.changed(lambda e: replace(e, key=_reader(model, one, e.layer, batch, ends)))
        out["elsewhere", family] = job.run(at_host, moved)[0]
        out["forward", family] = job.run(forward, one)[0]
        for name, asking in kept.items():
            if asking is not None:
                right, _ = job.run(asking, one, _OTHERS)
                before = answered(model, asking, None)[0].reshape(n, -1)
                stayed = (right.reshape(n, -1) * before).sum(1)
                count = before.sum(1)
                out[name, family] = np.where(count > 0, stayed / np.maximum(count, 1), np.nan)
        if differs:
            asking = Answers.of(model, swapped, job.targets)
            out["other_question", family] = job.run(asking, one)[0]
        out["unedited", family] = plain.astype(float).reshape(n, -1).mean(1)
    return out


def _random(edits: Edits, rng: np.random.Generator) -> Edits:
    drawn = torch.from_numpy(rng.normal(size=tuple(edits.value.shape))).to(edits.value)
    length = edits.value.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
    return replace(edits, value=drawn * length)


def _reader(model: Model, one: _Values, layer: int, batch: TokenBatch, ends: Indices) -> Tensor:
    return one.keys[layer].reader(written(model, batch, ends, "mlp_act", [layer])[0])


def _some(asking: Answers, rows: Indices) -> Answers:
    at = torch.from_numpy(rows)
    return Answers(asking.reads, asking.ids[at], asking.positions[at], asking.targets[at])


def _names(fact: Fact) -> set[str]:
    return {fact.subject, fact.object}


def _layers(n: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, MOST_LAYERS)).round()})


def _labelled(
    job: _Job, values: dict[str, _Values], found: dict[tuple[str, str], Floats]
) -> xr.Dataset:
    n = len(job.rows)
    variables = {
        name: (
            ("example", "family"),
            np.stack([found.get((name, f), np.full(n, np.nan)) for f in FAMILIES], axis=1),
        )
        for name in dict.fromkeys(name for name, _ in found)
    }
    cells = [f"{family}, {cell}" for family in FAMILIES for cell in values[family].names]
    asks = questions(job.subject.facts, job.way)
    return xr.Dataset(
        {
            **variables,
            "cells": (("example", "cell"), np.hstack([values[f].made for f in FAMILIES])),
        },
        coords={
            "family": list(FAMILIES),
            "cell": cells,
            "fact": ("example", job.rows),
            "question": ("example", np.array([asks[i] for i in job.rows], np.int64)),
            "half": ("example", job.half),
            "used": (
                ("example", "family"),
                np.stack([np.array(values[f].names)[values[f].chosen] for f in FAMILIES], axis=1),
            ),
        },
        attrs={"instrument": "rank-one edits", "asked": job.way, **job.subject.model.identity},
    )
