"""One map for both directions: fitted on what subjects store, tried the other way round on objects.

What is stored at a name is read at its last token, where nothing but the name stands before. A
ridge regression M leads from there to the name that is the answer, as it is read out at the end
(its tokens' mean unembedding). The other way round its transpose turns each candidate's name into
what would have to be stored for it, and the candidate is chosen whose is nearest to what stands at
the object's last token. That is one bilinear form, q(answer)ᵀ M x(asked), with the two names in
exchanged parts: it succeeds in reverse only if objects hold their subjects in the code in which
subjects hold their objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from experiments.organisms.facts import DIRECTIONS, Direction, Fact
from experiments.reporter import Progress
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.crossing import apart, refused
from experiments.reversal_curse.prompts import asked, question, right_answers
from experiments.reversal_curse.retrieve import answer_vector, joined_groups, wording
from interp.errors import ModelError, PromptError, SiteError
from interp.prompts.pairs import continuations, find_span
from interp.prompts.tokens import tokenise
from interp.vectors.sources import read_vectors

__all__ = ["mapped"]

LEAST_FACTS = 20
"""Fewer cannot be learned from and tested on."""
LEAST_GROUP = 4
FOLDS = 5
DIVISIONS = 10
"""Into folds, averaged: what one division gives moves by as much as verdicts do."""
SHUFFLES = 200
MOST_FACTS = 400
STRENGTHS = (0.03, 0.3, 3.0)
"""Penalties, times the mean variance per dim and the number of examples."""
_INSTRUMENT = "one map both ways"

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def mapped(
    subject: Subject,
    members: npt.NDArray[np.int64],
    learned: npt.NDArray[np.int64],
    seed: int,
    progress: Progress,
) -> xr.Dataset:
    """How often the map prefers the right name to another one, forward and transposed in reverse.

    Pairs are tested that the map was not fitted on (5 folds; facts that share a question or an
    answer are in one), and this is averaged over 10 divisions into folds. Layer and penalty of each
    fold are those that retrieve best *forward* in the other folds, so that the reverse chooses
    nothing. Facts whose names share a word are left out.

    Args:
        members: facts told forward only, which are tested.
        learned: facts known forward, which the map is fitted on; the members among them.
        seed: of the folds and of shuffled answers.

    Returns:
        forward, reverse (example, layer): how many of the wrong names, among facts asked in the
        same words, the right one is preferred to (chance is one half); forward_at, reverse_at
        (example) at the layer chosen(example); forward_null, reverse_null (draw), means of the same
        with answers shuffled. Without examples, and with the attribute `refused`, where it cannot
        be done.
    """
    tested = set(apart(subject, members).tolist())
    rows = sorted(tested | set(apart(subject, learned).tolist()))[:MOST_FACTS]
    asks = {way: wording(subject.templates[way], way) for way in DIRECTIONS}
    if None in asks.values():
        return _refused("no template begins with the name that it asks about")
    facts = [subject.facts[i] for i in rows]
    groups = np.array(_groups(facts))
    here = np.array([i for i, row in enumerate(rows) if row in tested], np.int64)
    here = here[_large_enough([facts[i] for i in here])]
    if len(np.unique(groups[here])) < LEAST_FACTS or len(rows) - len(here) // FOLDS < LEAST_FACTS:
        return _refused(f"{len(here)} facts, and {LEAST_FACTS} are needed")
    try:
        data = _Data(
            {way: _stored(subject, facts, way, str(asks[way])) for way in DIRECTIONS},
            {way: _names(subject, facts, way) for way in DIRECTIONS},
        )
    except (PromptError, ModelError, SiteError) as error:
        return _refused(str(error))
    tables = {way: _Table.of(subject, facts, here, way, rows) for way in DIRECTIONS}
    seeds = np.random.SeedSequence(seed).spawn(DIVISIONS + 1)
    divisions = []
    for number in range(DIVISIONS):
        fold = _division(groups, np.random.default_rng(seeds[number]))
        # The same shuffles each time: their means over divisions are what chance gives.
        shuffles = np.random.default_rng(seeds[-1])
        divisions.append(_judged(tables, _scores(data, fold, here), fold[here], shuffles))
        progress(number + 1, DIVISIONS)
    return _labelled(subject, tables["forward"].facts, groups[here], divisions)


def _division(groups: Indices, rng: np.random.Generator) -> Indices:
    """The fold of each fact; those of a group are in one."""
    numbers = np.unique(groups)
    of_group = dict(zip(rng.permutation(numbers).tolist(), range(len(numbers)), strict=True))
    return np.array([of_group[int(group)] % FOLDS for group in groups], np.int64)


def _refused(reason: str) -> xr.Dataset:
    return refused(_INSTRUMENT, reason, "forward", ("example", "layer"))


@dataclass(frozen=True)
class _Data:
    """Of all facts: what stands at the asked name [layer, fact, dim], and names [fact, dim]."""

    stored: dict[Direction, Floats]
    names: dict[Direction, Floats]


def _groups(facts: list[Fact]) -> list[int]:
    numbers: dict[object, int] = {}
    asks = [numbers.setdefault(question(fact, "forward"), len(numbers)) for fact in facts]
    return joined_groups(asks, [fact.object for fact in facts])


def _large_enough(facts: list[Fact]) -> npt.NDArray[np.bool_]:
    words = [(fact.relation, fact.inverse) for fact in facts]
    return np.array([words.count(each) >= LEAST_GROUP for each in words], bool)


def _stored(subject: Subject, facts: list[Fact], way: Direction, template: str) -> Floats:
    """The stream at the asked name's last token, after each block."""
    model = subject.model
    batch = tokenise(model, [fact.prompt(template) for fact in facts])
    last = [
        find_span(batch, row, asked(fact, way), "name")[1] - 1 for row, fact in enumerate(facts)
    ]
    layers = list(range(model.n_layers))
    found = read_vectors(
        model, batch, "resid_post", layers, np.arange(len(facts)), np.array(last, np.int64)
    )
    return found.double().cpu().numpy()


def _names(subject: Subject, facts: list[Fact], way: Direction) -> Floats:
    """What each answer is read out by, centred, and of length 1."""
    model = subject.model
    batch = tokenise(model, [fact.prompt(subject.main_template(way)) for fact in facts])
    tokens = continuations(model, batch, [f" {fact.answer(way)}" for fact in facts])
    raw = torch.stack([answer_vector(model, ids) for ids in tokens]).numpy()
    raw = raw - raw.mean(0)
    size = np.linalg.norm(raw, axis=1, keepdims=True)
    out: Floats = raw / np.maximum(size, 1e-12 * max(float(size.max()), 1e-300))
    return out


def _scores(data: _Data, fold: Indices, here: Indices) -> dict[Direction, Floats]:
    """q(answer)ᵀ M x(asked) of tested facts [layer, penalty, asked, answer], M from other folds."""
    n_layers = len(data.stored["forward"])
    shape = (n_layers, len(STRENGTHS), len(here), len(here))
    out = {way: np.zeros(shape) for way in DIRECTIONS}
    for number in range(FOLDS):
        train, test = np.nonzero(fold != number)[0], np.nonzero(fold[here] == number)[0]
        target = data.names["forward"][train]
        for layer in range(n_layers):
            x = data.stored["forward"][layer][train]
            centre = x - x.mean(0)
            gram = centre.T @ centre
            unit = max(float(np.trace(gram)) / len(gram), 1e-300)
            values, basis = np.linalg.eigh(gram)
            toward = basis.T @ (centre.T @ (target - target.mean(0)))
            for which, strength in enumerate(STRENGTHS):
                fitted = basis @ (toward / (np.maximum(values, 0) + strength * unit)[:, None])
                for way in DIRECTIONS:
                    # What all objects share is not what all subjects do. So no name is favoured
                    # whoever is asked about.
                    mean = data.stored[way][layer][train].mean(0)
                    said = (data.stored[way][layer][here[test]] - mean) @ fitted
                    out[way][layer, which, test] = said @ data.names[way][here].T
    return out


@dataclass(frozen=True)
class _Table:
    """Which names are compared for each tested fact [asked, answer]."""

    wrong: npt.NDArray[np.bool_]
    same: npt.NDArray[np.bool_]
    facts: Indices

    @classmethod
    def of(
        cls, subject: Subject, facts: list[Fact], here: Indices, way: Direction, rows: list[int]
    ) -> _Table:
        tested = [facts[i] for i in here]
        right = right_answers(subject.facts, way)
        answers = [fact.answer(way) for fact in tested]
        valid = np.array([[name in right[rows[i]] for name in answers] for i in here])
        words = [(fact.relation, fact.inverse) for fact in tested]
        same = np.array([[one == other for other in words] for one in words])
        return cls(same & ~valid, same, np.array([rows[i] for i in here], np.int64))

    def preferred(self, scores: Floats) -> Floats:
        """To how many of the wrong names the right one is preferred."""
        return _preferred(np.diagonal(scores), scores, self.wrong)

    def shuffled(self, scores: Floats, rng: np.random.Generator) -> Floats:
        """Means with another answer of the same words in the place of the right one [draw]."""
        groups = [np.nonzero(group)[0] for group in np.unique(self.same, axis=0)]
        # Each answer in the right one's place, once: draws only put these together.
        placed = np.full(scores.shape, np.nan)
        for mine in groups:
            inside = scores[np.ix_(mine, mine)]
            for column, answer in enumerate(mine):
                others = np.ones(inside.shape, bool)
                others[:, column] = False
                placed[mine, answer] = _preferred(inside[:, column], inside, others)
        order, means = np.arange(len(scores)), np.empty(SHUFFLES)
        for draw in range(SHUFFLES):
            for mine in groups:
                order[mine] = mine[rng.permutation(len(mine))]
            means[draw] = np.nanmean(placed[np.arange(len(order)), order])
        return means


def _preferred(own: Floats, scores: Floats, others: npt.NDArray[np.bool_]) -> Floats:
    above = np.where(others, (own[:, None] > scores) + 0.5 * (own[:, None] == scores), 0.0).sum(1)
    count = others.sum(1)
    return np.where(count > 0, above / np.maximum(count, 1), np.nan)


def _judged(
    tables: dict[Direction, _Table],
    scores: dict[Direction, Floats],
    fold: Indices,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Of one division: each fold's layer and penalty chosen by the others, and what they give."""
    found = {
        way: np.array([[tables[way].preferred(one) for one in layer] for layer in scores[way]])
        for way in DIRECTIONS
    }
    n_layers, _, n = found["forward"].shape
    layer, which = np.zeros(n, np.int64), np.zeros((n_layers, n), np.int64)
    for number in np.unique(fold):
        mine = fold == number
        means = np.nanmean(found["forward"][:, :, ~mine], axis=2)
        layer[mine] = int(np.argmax(means.max(1)))
        which[:, mine] = means.argmax(1)[:, None]
    every = np.arange(n)
    out: dict[str, Floats] = {"chosen": layer.astype(float)}
    for way in DIRECTIONS:
        chosen = scores[way][layer, which[layer, every], every]
        by_layer = [found[way][one, which[one], every] for one in range(n_layers)]
        out[way] = np.stack(by_layer, axis=1)
        out[f"{way}_at"] = tables[way].preferred(chosen)
        out[f"{way}_null"] = tables[way].shuffled(chosen, rng)
    return out


def _labelled(
    subject: Subject, facts: Indices, groups: Indices, divisions: list[dict[str, Floats]]
) -> xr.Dataset:
    mean = {name: np.mean([one[name] for one in divisions], axis=0) for name in divisions[0]}
    dims: dict[str, str | tuple[str, ...]] = {}
    for way in DIRECTIONS:
        dims |= {way: ("example", "layer"), f"{way}_at": "example", f"{way}_null": "draw"}
    return xr.Dataset(
        {name: (dims[name], mean[name]) for name in dims},
        coords={
            "fact": ("example", facts),
            "question": ("example", groups),
            "layer": np.arange(mean["forward"].shape[1]),
            "chosen": (
                ("division", "example"),
                np.array([one["chosen"] for one in divisions]).astype(np.int64),
            ),
        },
        attrs={
            "instrument": _INSTRUMENT,
            "site": "resid_post",
            "chance": 0.5,
            **subject.model.identity,
        },
    )
