"""What is read of the model: the right answer against a foil, by first tokens and whole names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pandas as pd
import streamlit as st
import xarray as xr

from app import resources
from app.compute import answer_metric as compute
from app.compute.answer_metric import Reading
from app.compute.engine import ModelSpec
from app.screen import parts
from app.screen.asked import Asked, collide
from app.screen.told import ONE_PROMPT, Told
from app.text import lens_snippets, markup, sentences, snippets
from cache.errors import ObverseError
from experiments.numbers import probability
from interp.figures import lead_lines
from interp.figures.drawing import numbers


def show(spec: ModelSpec, asked: Sequence[Asked]) -> None:
    """A table for each question."""
    parts.html(
        markup.heading(
            "The answer and its foil",
            "Patching, attribution and circuits read first tokens: the answer’s logit minus the "
            "foil’s. Whole names are read token by token.",
        )
    )
    for one, column in zip(asked, st.columns(len(asked), gap="large"), strict=True):
        with column:
            parts.html(markup.way(one.way.title, one.way.colour))
            if one.answer is None:
                parts.html(markup.hint("Give an answer, and a foil to compare it with."))
                continue
            try:
                _one(spec, one)
            except ObverseError as error:
                parts.html(markup.hint(str(error)))
    _lead(spec, asked)


def _lead(spec: ModelSpec, asked: Sequence[Asked]) -> None:
    """How far each answer is ahead at each layer, where answer and foil can be told apart."""
    found, questions = {}, {}
    for one in asked:
        if one.answer is None or one.foil is None or collide(spec, one):
            continue
        question = (one.prompt, one.answer, one.foil)
        questions[one.name] = question
        found[one.name] = _followed(spec, question)
    if not found:
        return
    parts.figure(
        lead_lines(found),
        "lead",
        data=lambda: pd.concat(
            [lens["answer_logprob"].to_dataframe().assign(asked=n) for n, lens in found.items()]
        ).reset_index(),
        code=lens_snippets.lead(spec, questions),
        alt="How far the answer is ahead of its foil at each layer",
        told=Told(
            "The answer’s first token’s logit minus the foil’s, read after each block by the "
            "logit lens; above 0 the answer is ahead.",
            "1 prompt a line",
            ONE_PROMPT,
            "the foil",
        ),
    )


def _followed(spec: ModelSpec, question: tuple[str, str, str]) -> xr.Dataset:
    from interp.lens.logit import logit_lens

    prompt, answer, foil = question
    return resources.engine().compute(
        spec, ("lead", *question), lambda m: logit_lens(m, [prompt], [[answer, foil]], k=1)
    )


def _one(spec: ModelSpec, one: Asked) -> None:
    texts = tuple(text for text in (one.answer, one.foil) if text is not None)
    found = resources.engine().compute(
        spec, ("readings", one.prompt, texts), lambda m: compute.readings(m, one.prompt, texts)
    )
    parts.html(markup.readings(list(zip(("answer", "foil"), map(_row, found), strict=False))))
    if len(found) < 2:
        parts.html(markup.hint("Without a foil only the answer’s own numbers can be told."))
    else:
        parts.html(markup.sentence(difference(*found)))
    parts.export(
        f"answers-{one.name}",
        lambda: pd.DataFrame([dataclasses.asdict(reading) for reading in found]),
        snippets.answers(spec, one.prompt, texts),
    )


def difference(answer: Reading, foil: Reading) -> str:
    """How far the answer is ahead, by first tokens and as a whole."""
    whole = answer.whole - foil.whole
    if answer.first == foil.first:
        return (
            f"Answer and foil begin with the same token, {sentences.token(answer.first)}: first "
            f"tokens do not tell them apart. As whole names the answer is "
            f"{sentences.number(abs(whole))} nats {'likelier' if whole >= 0 else 'less likely'}."
        )
    first = answer.logit - foil.logit
    return (
        f"By first tokens the answer is {sentences.number(abs(first))} logits "
        f"{'ahead' if first >= 0 else 'behind'}, as a whole name {sentences.number(abs(whole))} "
        f"nats {'likelier' if whole >= 0 else 'less likely'} than the foil."
    )


def _row(reading: Reading) -> tuple[str, str, str, str]:
    """As people read it: the first token, its rank and probability, and the whole."""
    p = probability(math.exp(min(0.0, reading.logprob)))
    n = f"{reading.n_tokens} token{'s' if reading.n_tokens > 1 else ''}"
    return (
        reading.first,
        f"rank {numbers.rank(reading.rank)}, {p}",
        reading.text,
        f"{sentences.number(reading.whole)} nats, {n}",
    )


def warn(spec: ModelSpec, one: Asked) -> None:
    """Say so where answer and foil begin with the same token."""
    try:
        same = collide(spec, one)
    except ObverseError:  # what is wrong with an answer stands where it is read
        return
    if same and one.answer is not None and one.foil is not None:
        parts.warning(
            f"{one.way.title}: the answer “{one.answer.strip()}” and the foil “{one.foil.strip()}” "
            "begin with the same token, so that first tokens do not tell them apart; attribution "
            "reads the answer alone, and nothing can be patched. Choose another foil."
        )
