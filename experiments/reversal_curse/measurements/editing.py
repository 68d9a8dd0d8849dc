"""Values for rank-one edits of several facts: made at every layer, chosen on the other half.

What is written is made in two ways, along the gradient of the answer's log-probability, and never
longer than twice what the MLP writes for names anyway:

- at other names: while it is written at the keys of other facts' names and their questions are
  asked. The name that is edited, and its question, play no part in it;
- at this name: in the edited question itself, as is usual (ROME).
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
from experiments.reversal_curse.facts import fill
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.crossing import apart
from experiments.reversal_curse.measurements.rank_one import (
    Answers,
    Edits,
    Keys,
    answered,
    improved,
    name_ends,
    written,
)
from experiments.reversal_curse.prompts import asked, questions

__all__ = [
    "AT_NAME",
    "ELSEWHERE",
    "Floats",
    "Indices",
    "Job",
    "Values",
    "facts_to_edit",
    "partners",
    "random_values",
]

ELSEWHERE, AT_NAME = "at other names", "at this name"
MOST_FACTS = 40
MOST_LAYERS = 6
LENGTH = 2.0
"""Of values at most, in units of what the MLP writes for names beyond their mean."""
_WORDINGS = 2
_HOSTS = 4
_LEAST_GROUP = 3
_SENTENCES = 200

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def facts_to_edit(subject: Subject, members: Indices, rng: np.random.Generator) -> Indices:
    """At most 40 facts that share no name, each with others that are asked in the same words."""
    seen: set[str] = set()
    kept: list[int] = []
    for i in rng.permutation(apart(subject, members)).tolist():
        names = {subject.facts[i].subject, subject.facts[i].object}
        if not names & seen and len(kept) < MOST_FACTS:
            seen |= names
            kept.append(i)
    words = [_words(subject.facts[i]) for i in kept]
    usable = [i for i, w in zip(kept, words, strict=True) if words.count(w) >= _LEAST_GROUP]
    return np.array(sorted(usable), np.int64)


def partners(subject: Subject, rows: Indices, apart_by: int = 1) -> Indices:
    """Another fact that is asked in the same words, each of them once [row]."""
    words = [_words(subject.facts[i]) for i in rows]
    out = np.zeros(len(rows), np.int64)
    for each in dict.fromkeys(words):
        mine = np.array([k for k, w in enumerate(words) if w == each])
        # Never round to the fact itself.
        out[mine] = np.roll(mine, -(1 + (apart_by - 1) % (len(mine) - 1)))
    return out


def _words(fact: Fact) -> tuple[str, str]:
    return fact.relation, fact.inverse


@dataclass(frozen=True)
class Values:
    """What one family of values is, at every layer.

    Attributes:
        edits: by layer, those of all facts.
        layers: their names.
        made: how often each comes out where it was made for the fact's own name [fact, layer].
        chosen: which of the layers each fact is edited at: the best of the other half [fact].
    """

    edits: list[Edits]
    layers: list[str]
    made: Floats
    chosen: Indices

    def changed(self, change: Callable[[Edits], Edits]) -> Values:
        """The same with something else about the edits that are used."""
        used = set(self.chosen.tolist())
        return replace(
            self, edits=[change(e) if i in used else e for i, e in enumerate(self.edits)]
        )


@dataclass(frozen=True)
class Job:
    """Which facts are edited, asked which way, to which answers.

    Attributes:
        rows: the facts.
        targets: the answer that each is to have.
        wordings, unseen: in which edits are made, and judged.
        half: of each fact, for choosing and judging.
    """

    subject: Subject
    way: Direction
    rows: Indices
    targets: list[str]
    wordings: tuple[str, ...]
    unseen: tuple[str, ...]
    half: Indices

    @classmethod
    def of(
        cls,
        subject: Subject,
        way: Direction,
        rows: Indices,
        targets: list[str],
        rng: np.random.Generator,
    ) -> Job | str:
        """The job, or why there is none."""
        templates = subject.templates[way]
        # Where the name ends the question, what is written there is read out as the answer.
        name = "{subject}" if way == "forward" else "{object}"
        trained, others = (
            tuple(each for each in given if not each.endswith(name))
            for given in (templates.trained, templates.held_out)
        )
        made = trained[:_WORDINGS]
        unseen = others[:_WORDINGS] or trained[_WORDINGS : 2 * _WORDINGS]
        if not made:
            return (
                f"the {way} question ends with the name in every wording, so that an edit there "
                "writes the answer itself"
            )
        if not unseen:
            return f"there is no wording of the {way} question left to judge edits in"
        half = rng.permutation(np.arange(len(rows)) % 2)
        return cls(subject, way, rows, targets, made, unseen, half)

    @property
    def facts(self) -> list[Fact]:
        return [self.subject.facts[i] for i in self.rows]

    def asking(self, templates: Sequence[str]) -> Answers:
        """The edited questions [fact · wording]."""
        prompts = [fill(template, fact) for fact in self.facts for template in templates]
        targets = [target for target in self.targets for _ in templates]
        return Answers.of(self.subject.model, prompts, targets)

    def values(self, families: Sequence[str], rng: np.random.Generator) -> dict[str, Values]:
        """Make values at every layer (six at most that are evenly spread), and choose."""
        model, n, width = self.subject.model, len(self.rows), len(self.wordings)
        layers = np.linspace(0, model.n_layers - 1, min(model.n_layers, MOST_LAYERS)).round()
        asking = self.asking(self.wordings)
        names = [asked(fact, self.way) for fact in self.facts for _ in self.wordings]
        ends = name_ends(asking.reads, names)
        number = np.repeat(np.arange(n), width)
        elsewhere, hosts, guests = self._elsewhere()
        sentences = self._sentences(rng)
        made: dict[str, list[tuple[str, Edits, Floats, Floats]]] = {each: [] for each in families}
        for layer in sorted({int(each) for each in layers}):
            keys = written(model, asking.reads, ends, "mlp_act", [layer])[0].double()
            keys = keys.reshape(n, width, -1).mean(1)
            reader = Keys.of(model, sentences, layer, 0).reader(keys)
            outputs = written(model, asking.reads, ends, "mlp_out", [layer])[0].double()
            radius = LENGTH * float((outputs - outputs.mean(0)).norm(dim=1).mean())
            nothing = Edits(layer, reader, outputs.new_zeros(n, model.d_model))
            for family in families:
                if family == ELSEWHERE:
                    value = improved(model, elsewhere, nothing.of(hosts), guests, n, radius)
                else:
                    value = improved(model, asking, nothing.of(number), number, n, radius)
                edits = replace(nothing, value=value)
                right, logprob = answered(model, asking, edits.of(number))
                made[family].append(
                    (
                        f"layer {layer}",
                        edits,
                        right.reshape(n, -1).mean(1),
                        logprob.reshape(n, -1).mean(1),
                    )
                )
        return {family: self._chosen(found) for family, found in made.items()}

    def _elsewhere(self) -> tuple[Answers, Indices, Indices]:
        """Other facts' questions with this fact's answer; whose question, and whose answer."""
        hosts = [partners(self.subject, self.rows, 1 + host) for host in range(_HOSTS)]
        facts = self.facts
        prompts = [
            fill(self.wordings[number % len(self.wordings)], facts[host])
            for number, each in enumerate(hosts)
            for host in each
        ]
        asking = Answers.of(self.subject.model, prompts, self.targets * _HOSTS)
        return asking, np.concatenate(hosts), np.tile(np.arange(len(facts)), _HOSTS)

    def _sentences(self, rng: np.random.Generator) -> list[str]:
        """The study's own, of both directions, from which the covariance of keys is."""
        whole = [
            f"{prompt}{answer}"
            for way in DIRECTIONS
            for prompt, answer in zip(
                self.subject.prompts(way), self.subject.answers(way), strict=True
            )
        ]
        return [whole[i] for i in rng.permutation(len(whole))[:_SENTENCES]]

    def _chosen(self, found: list[tuple[str, Edits, Floats, Floats]]) -> Values:
        right = np.stack([each[2] for each in found], axis=1)
        logprob = np.stack([each[3] for each in found], axis=1)
        layer = np.zeros(len(self.rows), np.int64)
        for which in (0, 1):
            rest = self.half != which
            # By log-probability where as many are right.
            order = np.lexsort((logprob[rest].mean(0), right[rest].mean(0)))
            layer[self.half == which] = order[-1]
        return Values([each[1] for each in found], [each[0] for each in found], right, layer)

    def run(self, asking: Answers, values: Values, per: int = 1) -> tuple[Floats, Floats]:
        """Whether each is right under its own fact's edit, and log-probability [fact · question].

        Args:
            per: questions of each fact, which stand together.
        """
        right, logprob = np.zeros(len(asking)), np.zeros(len(asking))
        for layer in np.unique(values.chosen):
            rows = np.nonzero(values.chosen == layer)[0]
            at = (rows[:, None] * per + np.arange(per)).reshape(-1)
            edits = values.edits[layer].of(np.repeat(rows, per))
            right[at], logprob[at] = answered(self.subject.model, asking.of_rows(at), edits)
        return right, logprob

    def efficacy(self, values: dict[str, Values]) -> dict[tuple[str, str], Floats]:
        """How often the answer comes out in the wordings of the edit, and in others."""
        out = {}
        for name, templates in (("made", self.wordings), ("unseen", self.unseen)):
            asking = self.asking(templates)
            for family, one in values.items():
                right, _ = self.run(asking, one, len(templates))
                out[name, family] = right.reshape(len(self.rows), -1).mean(1)
        return out

    def labelled(
        self, values: dict[str, Values], found: dict[tuple[str, str], Floats]
    ) -> xr.Dataset:
        """Everything that was found, (example, family), and `made` of every layer."""
        n, families = len(self.rows), list(values)
        asks = questions(self.subject.facts, self.way)
        variables: dict[str, tuple[tuple[str, ...], Floats]] = {
            name: (
                ("example", "family"),
                np.stack([found.get((name, f), np.full(n, np.nan)) for f in families], axis=1),
            )
            for name in dict.fromkeys(name for name, _ in found)
        }
        layers = values[families[0]].layers
        variables["by_layer"] = (
            ("example", "family", "layer"),
            np.stack([values[f].made for f in families], axis=1),
        )
        used = [np.array(values[f].layers)[values[f].chosen] for f in families]
        return xr.Dataset(
            variables,
            coords={
                "family": families,
                "layer": layers,
                "fact": ("example", self.rows),
                "question": ("example", np.array([asks[i] for i in self.rows], np.int64)),
                "half": ("example", self.half),
                "used": (("example", "family"), np.stack(used, axis=1)),
            },
            attrs={
                "instrument": "rank-one edits",
                "asked": self.way,
                **self.subject.model.identity,
            },
        )


def random_values(edits: Edits, rng: np.random.Generator) -> Edits:
    """The same keys with random values of the same lengths."""
    drawn: Tensor = torch.from_numpy(rng.normal(size=tuple(edits.value.shape))).to(edits.value)
    length = edits.value.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
    return replace(edits, value=drawn * length)
