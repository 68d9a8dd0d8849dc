"""Is the answer told by the activations at the name that is asked about?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from experiments.organisms.facts import PLACEHOLDER, Direction, Fact, Templates
from experiments.reporter import Progress
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.prompts import asked, question
from experiments.sheets import sameness
from interp.errors import ProbeError, PromptError
from interp.model.model import Model
from interp.prompts.pairs import continuations, find_span
from interp.prompts.tokens import tokenise
from probes import Features, collect, retrieve
from probes.retrieval import STRENGTHS

LEAST_FACTS = 20
"""Fewer cannot be learned from and tested on."""
SHUFFLES = 30


def probe_name(
    subject: Subject,
    direction: Direction,
    members: npt.NDArray[np.int64],
    seed: int,
    progress: Progress,
) -> xr.Dataset:
    """A linear map from the stream at the asked name's last token to the answer's unembedding.

    It is fitted on some questions and tested on others (see `probes.retrieve`): how often is the
    right answer nearer to what it says than another one? Asked in the first wording that begins
    with the name, so that nothing before it tells a son from a daughter. Pairs whose names share a
    word are left out: a name tells itself.

    Returns:
        What `probes.retrieve` returns for resid_post of every block, with `fact` by example and the
        attribute `questions`; without variables, and with the attribute `refused`, where it cannot
        be done.
    """
    template = wording(subject.templates[direction], direction)
    if template is None:
        return _refused("no template begins with the name that it asks about")
    kept = [int(i) for i in members if not names_share_a_word(subject.facts[int(i)])]
    if len(kept) < LEAST_FACTS:
        return _refused(f"{len(kept)} facts, and a probe needs {LEAST_FACTS}")
    try:
        return _probed(subject, direction, template, kept, seed, progress)
    except (PromptError, ProbeError, AttributeError) as error:
        return _refused(str(error).rstrip("."))


def _refused(reason: str) -> xr.Dataset:
    return xr.Dataset(attrs={"instrument": "retrieve", "refused": reason})


def wording(templates: Templates, direction: Direction) -> str | None:
    """The first template that begins with the name that it asks about."""
    name = "subject" if direction == "forward" else "object"
    wordings = (*templates.trained, *templates.held_out)
    return next((each for each in wordings if PLACEHOLDER.findall(each)[0] == name), None)


def names_share_a_word(fact: Fact) -> bool:
    return bool(set(sameness(fact.subject).split()) & set(sameness(fact.object).split()))


def _probed(
    subject: Subject,
    direction: Direction,
    template: str,
    rows: list[int],
    seed: int,
    progress: Progress,
) -> xr.Dataset:
    model, facts = subject.model, [subject.facts[i] for i in rows]
    batch = tokenise(model, [fact.prompt(template) for fact in facts])
    last = [
        find_span(batch, number, asked(fact, direction), "name")[1] - 1
        for number, fact in enumerate(facts)
    ]
    sites = [f"resid_post.{layer}" for layer in range(model.n_layers)]
    features = collect(model, batch, sites, positions={"name": last}, progress=progress)
    answers = [fact.answer(direction) for fact in facts]
    tokens = continuations(model, batch, [f" {answer}" for answer in answers])
    vectors = {name: answer_vector(model, ids) for name, ids in zip(answers, tokens, strict=True)}
    # No rotation changes a ridge, and n examples span n dimensions: the rest need no eigenvectors.
    values = features.values.double()
    narrow = _rotated(values)
    scale = narrow.shape[2] / values.shape[2]
    numbers: dict[object, int] = {}
    asks = [numbers.setdefault(question(fact, direction), len(numbers)) for fact in facts]
    found = retrieve(
        Features(narrow, features.sites, identity=features.identity),
        answers,
        vectors,
        groups=joined_groups(asks, answers),
        strengths=[scale * strength for strength in STRENGTHS],
        nulls=SHUFFLES,
        seed=seed % 2**32,
    )
    return found.assign_coords(fact=("example", rows)).assign_attrs(questions=len(numbers))


def answer_vector(model: Model, ids: tuple[int, ...]) -> torch.Tensor:
    """The mean of what the answer's tokens are read out by [d_model]."""
    unembedding: torch.Tensor = model.bridge.W_U
    return unembedding.detach()[:, list(ids)].double().cpu().mean(1)


def _rotated(values: torch.Tensor) -> torch.Tensor:
    """The same examples in coordinates of what they span [site, example, dim]."""
    if values.shape[1] >= values.shape[2]:
        return values
    left, lengths, _ = torch.linalg.svd(values, full_matrices=False)
    rotated: torch.Tensor = left * lengths[:, None, :]
    return rotated


def joined_groups(questions: list[int], answers: list[str]) -> list[int]:
    """Facts that share a question or an answer, directly or by others, must not be told apart."""
    code = {answer: i for i, answer in enumerate(dict.fromkeys(answers))}
    n = max(questions, default=-1) + 1
    links = coo_array(
        (np.ones(len(answers)), (questions, [n + code[answer] for answer in answers])),
        shape=(n + len(code), n + len(code)),
    )
    part = connected_components(links, directed=False)[1]
    return [int(part[number]) for number in questions]
