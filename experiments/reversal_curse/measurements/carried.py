"""The forward fact's activations carried into the reverse question: does the answer come out?

The source is the told sentence, question and answer ("A's mother is B"), read at three places: the
name that is asked about (which holds A itself), the question's end (where B has been recalled, and
A can be attended to) and the answer's end (B, behind A). All of them can hold A's name, which is
the answer to the other question, so that A coming out is no finding by itself. Each vector is
therefore carried four ways:

- own: into the same fact's question;
- other: another fact's vector into this question, which cannot hold this fact;
- elsewhere: this vector into another fact's question. Whatever the vector says of itself, above all
  a name that it carries along, comes out there as well;
- name: the vector of a sentence with the same two names and another relation ("A's son is B").

A fact that is retrieved comes out of its own question more than in each of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from experiments.organisms.facts import Direction, Fact
from experiments.reporter import Progress
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.prompts import answer, asked, questions, right_answers
from interp.errors import ObverseError
from interp.forward.passes import readout, record, recording_memory, resume
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.prompts.pairs import continuations, find_span
from interp.prompts.tokens import TokenBatch, tokenise
from interp.sites import Site
from interp.stats import specificity
from interp.vectors.sources import read_vectors

SOURCES = ("name", "question's end", "answer")
TARGETS = ("name", "question's end")
WAYS = ("own", "other", "elsewhere", "name", "as told")
CELL = ("source_place", "target_place", "source_layer", "target_layer")
LEAST_GROUP = 4
"""Facts asked in the same words; with fewer nothing is left to compare with."""
MOST_FACTS = 200
LEAST_FACTS = 40
"""Of a model whose every pass takes long."""
MOST_LAYERS, LEAST_LAYERS = 6, 3
MOST_WORK = 2e13
"""Multiplications that passes may take; some minutes of a core."""

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def carry(
    subject: Subject,
    told: Direction,
    members: npt.NDArray[np.int64],
    seed: int,
    progress: Progress,
) -> xr.Dataset:
    """Transplants of facts told one way into their questions asked the other way.

    Scores are log-probabilities (nats) of the first token of the answer, without what row and
    column explain (see `specificity`), among facts asked in the same words.

    Args:
        told: how the facts were told.
        members: the facts; at most 200 of them, at random, are used, of a large model fewer (and
            vectors of fewer layers), see `most_facts`.
        seed: of this choice, and of partners.

    Returns:
        For each way a score (example, source_place, target_place, source_layer, target_layer): of
        the answer to the question asked the other way; for "as told" (the vector in another fact's
        question, asked as told) of the answer as told. `rank` and `right` of own: the open rank of
        the answer's first token (0 is the likeliest), and whether no candidate is likelier.
        unpatched, unpatched_rank, unpatched_right (example). Facts without a partner are left out;
        where the model cannot be asked there are none, and the attribute `refused` says why.
    """
    rng = np.random.default_rng(seed)
    most, layers = most_facts(subject, told)
    chosen = np.sort(rng.permutation(members)[:most]).astype(np.int64)
    try:
        parts = []
        for group in _groups(subject.facts, chosen):
            one = _Group.of(subject, told, group, rng)
            if one is not None:
                parts.append((one, _measured(subject.model, one, layers)))
            progress(len(parts), len(parts) + 1)
    except ObverseError as error:
        return _labelled(subject, told, [], layers, str(error))
    reason = "" if parts else _none(subject.facts, chosen)
    return _labelled(subject, told, parts, layers, reason)


def most_facts(subject: Subject, told: Direction) -> tuple[int, list[int]]:
    """How many facts are carried, and after which blocks: counted, so that a study ends.

    Each fact is carried through every cell in each way, and of each cell the blocks above it are
    computed anew. All facts up to 200 and all layers, or six that are evenly spread, if passes take
    few enough multiplications (`MOST_WORK`); else fewer facts, down to 40, and then fewer layers,
    down to three.
    """
    model = subject.model
    template = subject.main_template(told)
    prompts = [fact.prompt(template) + answer(fact, told) for fact in subject.facts[:1]]
    length = int(tokenise(model, prompts).lengths.max())
    blocks = sum(parameter.numel() for parameter in model.bridge.blocks.parameters())
    # On average half of the blocks, for each token, and the unembedding of one.
    one = len(WAYS) * (blocks * length / 2 + model.d_model * model.d_vocab)

    def fit(layers: list[int]) -> int:
        return int(MOST_WORK / (one * len(SOURCES) * len(TARGETS) * len(layers) ** 2))

    n, layers = MOST_LAYERS, _layers(model.n_layers, MOST_LAYERS)
    while n > LEAST_LAYERS and fit(layers) < LEAST_FACTS:
        n -= 1
        layers = _layers(model.n_layers, n)
    return min(MOST_FACTS, max(LEAST_FACTS, fit(layers))), layers


def _layers(n: int, most: int) -> list[int]:
    """After which blocks vectors are read and written: all, or some that are evenly spread."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, most)).round()})


def _none(facts: Sequence[Fact], chosen: Indices) -> str:
    """Why no facts are left."""
    if len(chosen) and all(facts[i].relation == facts[i].inverse for i in chosen):
        return (
            "of a relation that is its own inverse there is no other sentence with the two names "
            "to compare with"
        )
    return f"fewer than {LEAST_GROUP} facts are asked in the same words"


def _groups(facts: Sequence[Fact], members: Indices) -> list[list[int]]:
    groups: dict[tuple[str, str], list[int]] = {}
    for i in members.tolist():
        groups.setdefault((facts[i].relation, facts[i].inverse), []).append(i)
    return [group for group in groups.values() if len(group) >= LEAST_GROUP]


@dataclass(frozen=True)
class _Group:
    """Facts asked in the same words.

    Attributes:
        rows: the facts [row].
        partner: the row of another fact: another question, another right answer [row].
        sentences, names: the told sentences, and those of another relation; the places of
            `SOURCES` in each [row, place].
        questions: the prompts the other way round, and as told; the places of `TARGETS` in each.
        tokens: first tokens of the answers to each kind of question [row].
        right: which rows' answers are right for each question, or not told apart from one that is.
        number: of each row's question.
    """

    rows: list[int]
    partner: Indices
    sentences: tuple[TokenBatch, Indices]
    names: tuple[TokenBatch, Indices]
    questions: dict[bool, tuple[TokenBatch, Indices]]
    tokens: dict[bool, Indices]
    right: dict[bool, npt.NDArray[np.bool_]]
    number: Indices

    @classmethod
    def of(
        cls, subject: Subject, told: Direction, rows: list[int], rng: np.random.Generator
    ) -> _Group | None:
        """The group without facts that have no partner; None where fewer than four are left."""
        other: Direction = "reverse" if told == "forward" else "forward"
        facts, model = subject.facts, subject.model
        # Of a symmetric relation the sentence with the names turned tells the fact itself, and is
        # no control.
        rows = [i for i in rows if facts[i].relation != facts[i].inverse]
        if len(rows) < LEAST_GROUP:
            return None
        valid = {way: right_answers(facts, way) for way in (told, other)}
        batches_ = {
            way: tokenise(model, [facts[i].prompt(subject.main_template(way)) for i in rows])
            for way in (told, other)
        }
        ids = {
            way: continuations(model, batches_[way], [answer(facts[i], way) for i in rows])
            for way in (told, other)
        }
        first = {way: np.array([one[0] for one in ids[way]]) for way in (told, other)}
        right = {}
        for way in (told, other):
            alike = first[way][:, None] == first[way][None, :]
            own = np.array([[facts[j].answer(way) in valid[way][i] for j in rows] for i in rows])
            right[way] = (own.astype(int) @ alike.astype(int)) > 0
        apart = ~right[told] & ~right[told].T & ~right[other] & ~right[other].T
        has = apart.any(1)
        if has.sum() < LEAST_GROUP:
            return None
        if not has.all():
            kept = [row for row, there in zip(rows, has, strict=True) if there]
            return cls.of(subject, told, kept, rng)
        partner = np.array([int(rng.choice(np.nonzero(row)[0])) for row in apart])
        mine = [facts[i] for i in rows]
        turned = [replace(f, subject=f.object, object=f.subject) for f in mine]
        sentences = [f.prompt(subject.main_template(told)) for f in mine]
        unrelated = [f.prompt(subject.main_template(other)) for f in turned]
        answers = [answer(f, told) for f in mine]
        return cls(
            rows,
            partner,
            _source(model, sentences, answers, [asked(f, told) for f in mine]),
            _source(model, unrelated, answers, [asked(f, told) for f in mine]),
            {
                way == told: (batches_[way], _ends(batches_[way], [asked(f, way) for f in mine]))
                for way in (told, other)
            },
            {way == told: first[way] for way in (told, other)},
            {way == told: right[way] for way in (told, other)},
            np.array(questions(facts, other))[rows],
        )


def _ends(batch: TokenBatch, names: Sequence[str]) -> Indices:
    """The last token of the name that is asked about, and of the question [row, place]."""
    last = [find_span(batch, row, name, "name")[1] - 1 for row, name in enumerate(names)]
    return np.stack([np.array(last), batch.lengths.numpy() - 1], axis=1)


def _source(
    model: Model, prompts: Sequence[str], answers: Sequence[str], names: Sequence[str]
) -> tuple[TokenBatch, Indices]:
    """Questions with their answers, and the places of `SOURCES` in them [row, place]."""
    asking = tokenise(model, prompts)
    continuations(model, asking, answers)  # which refuses answers that melt into their question
    whole = tokenise(model, [p + a for p, a in zip(prompts, answers, strict=True)])
    ends = _ends(asking, names)
    return whole, np.concatenate([ends, whole.lengths.numpy()[:, None] - 1], axis=1)


@dataclass(frozen=True)
class _Runs:
    """Which vectors go into which questions.

    Attributes:
        as_told: whether the questions are asked as the facts were told.
        question: the row whose question is asked [run].
        vectors: what is carried [run, source place, source layer, d_model]; None for nothing.
        excluded: answers that are no wrong ones, besides the right one [run, candidate].
    """

    as_told: bool
    question: Indices
    vectors: torch.Tensor | None
    excluded: npt.NDArray[np.bool_]


def _measured(model: Model, group: _Group, layers: list[int]) -> dict[str, Floats]:
    """Scores of every way [row, *cell], ranks and hits."""
    n, every = len(group.rows), np.arange(len(group.rows))
    vectors = _vectors(model, *group.sentences, layers)
    with_names = _vectors(model, *group.names, layers)
    there, partner = group.right, group.partner
    runs = {
        "own": _Runs(False, every, vectors, there[False]),
        # The partner's own answer is what its vector may bring, no wrong answer to compare with.
        "other": _Runs(False, every, vectors[partner], there[False] | there[False][partner]),
        "elsewhere": _Runs(False, partner, vectors, there[False] | there[False][partner]),
        "name": _Runs(False, every, with_names, there[False]),
        "as told": _Runs(True, partner, vectors, there[True] | there[True][partner]),
        "unpatched": _Runs(False, every, None, there[False]),
    }
    out: dict[str, Floats] = {}
    for way, one in runs.items():
        tokens = group.tokens[one.as_told]
        logprob, ranks = _carried(model, group.questions[one.as_told], one, tokens, layers)
        cells = logprob.reshape(n, -1, n).swapaxes(0, 1)
        excluded = one.excluded & ~np.eye(n, dtype=bool)
        out[way] = _centred(cells, excluded).T.reshape(logprob.shape[:-1])
        if way in ("own", "unpatched"):
            name = "" if way == "own" else "unpatched_"
            own = np.take_along_axis(logprob, _diagonal(logprob), axis=-1)[..., 0]
            out[f"{name}rank"] = ranks
            out[f"{name}right"] = (own >= logprob.max(-1)).astype(np.float64)
    return out


def _diagonal(logprob: Floats) -> Indices:
    shape = (len(logprob), *[1] * (logprob.ndim - 1))
    return np.broadcast_to(np.arange(len(logprob)).reshape(shape), (*logprob.shape[:-1], 1))


def _centred(logprob: Floats, excluded: npt.NDArray[np.bool_]) -> Floats:
    kept = logprob.copy()
    kept[:, excluded] = np.nan
    return specificity(kept)


def _vectors(model: Model, batch: TokenBatch, places: Indices, layers: list[int]) -> torch.Tensor:
    """What stands at each place [row, place, layer, d_model]."""
    n, n_places = places.shape
    # A vector is read once, in ascending order of rows; two places may be one token.
    found = torch.stack(
        [
            read_vectors(model, batch, "resid_post", layers, np.arange(n), places[:, place])
            for place in range(n_places)
        ]
    )
    return found.permute(2, 0, 1, 3)


def _carried(
    model: Model,
    asking: tuple[TokenBatch, Indices],
    runs: _Runs,
    tokens: Indices,
    layers: list[int],
) -> tuple[Floats, Floats]:
    """Log-probabilities of tokens [run, *cell, token], and ranks of each run's own [run, *cell]."""
    batch, places = asking
    sites = [Site("resid_post", layer) for layer in layers]
    n = len(runs.question)
    shape = () if runs.vectors is None else (len(SOURCES), len(TARGETS), len(layers), len(layers))
    cells = list(np.ndindex(*shape))
    logprob = np.empty((n, len(cells), len(tokens)))
    ranks = np.empty((n, len(cells)))
    memory = 3 * recording_memory(model, batch.ids.shape[1], len(sites))

    def work(start: int, stop: int) -> None:
        put = runs.question[start:stop]
        recording = record(model, batch.ids[put], sites)
        rows = torch.arange(len(put), device=model.device)
        at = torch.from_numpy(places[put]).to(model.device)
        own = torch.from_numpy(tokens[start:stop])
        for number, cell in enumerate(cells):
            written = cell[3] if cell else len(layers) - 1
            stream = recording[sites[written]]
            if runs.vectors is not None:
                source, target, read_at, _ = cell
                stream = stream.clone()
                stream[rows, at[:, target]] = runs.vectors[start:stop, source, read_at]
            stream = resume(model, recording, stream, rows, start=layers[written] + 1)
            logits = readout(model, stream[rows, at[:, -1]]).cpu()
            logprob[start:stop, number] = logits.double().log_softmax(-1)[:, tokens].numpy()
            ranks[start:stop, number] = (logits > logits.gather(1, own[:, None])).sum(1).numpy()

    for _ in batches(n, rows_that_fit(model, memory), work):
        pass
    return logprob.reshape(n, *shape, len(tokens)), ranks.reshape(n, *shape)


def _labelled(
    subject: Subject,
    told: Direction,
    parts: list[tuple[_Group, dict[str, Floats]]],
    layers: list[int],
    reason: str,
) -> xr.Dataset:
    shape = (0, len(SOURCES), len(TARGETS), len(layers), len(layers))

    def joined(name: str) -> Floats:
        empty = np.zeros(shape[:1] if name.startswith("unpatched") else shape)
        return np.concatenate([empty, *(found[name] for _, found in parts)])

    rows = [row for group, _ in parts for row in group.rows]
    partners = [group.rows[i] for group, _ in parts for i in group.partner]
    variables = {name: (("example", *CELL), joined(name)) for name in (*WAYS, "rank", "right")} | {
        name: ("example", joined(name))
        for name in ("unpatched", "unpatched_rank", "unpatched_right")
    }
    return xr.Dataset(
        variables,
        coords={
            "source_place": list(SOURCES),
            "target_place": list(TARGETS),
            "source_layer": layers,
            "target_layer": layers,
            "fact": ("example", np.array(rows, np.int64)),
            "partner": ("example", np.array(partners, np.int64)),
            "question": (
                "example",
                np.concatenate([np.zeros(0, np.int64), *(group.number for group, _ in parts)]),
            ),
        },
        attrs={
            "instrument": "transplant of facts",
            "told": told,
            "site": "resid_post",
            "unit": "nats",
            "refused": reason.rstrip("."),
            **subject.model.identity,
        },
    )
