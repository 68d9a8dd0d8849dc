"""The report of a study: one page, from the answer to how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.context import Context
from experiments.numbers import count
from experiments.phenomena.config import PhenomenonConfig
from experiments.phenomena.phenomenon import Phenomenon
from experiments.reports.html import interval
from experiments.reports.paper import Card, Cards, Hypothesis, Paper, Section, Table, Text
from experiments.study import Verdict

__all__ = ["paper"]


def paper(
    phenomenon: Phenomenon[Any],
    config: PhenomenonConfig,
    context: Context,
    verdicts: Mapping[str, Verdict],
    sentences: Sequence[str],
    cards: Sequence[Card],
) -> Paper:
    """The report of a run.

    Args:
        verdicts: by id.
        sentences: the answer, to be quoted.
        cards: examples that can be read.
    """
    own = config.model is None
    name = "organisms of its own" if own else context.model().name
    sections = [
        Section(
            "Findings",
            [Hypothesis([verdicts[one.id]], one.figures) for one in phenomenon.hypotheses],
        )
    ]
    if cards:
        sections.insert(0, Section("For example", [Cards(cards)]))
    if phenomenon.published:
        sections.append(_published(phenomenon, verdicts))
    sections.append(Section("Methods", [Text(_methods(phenomenon, config, context), bullets=True)]))
    sections.append(Section("Limits", [Text(phenomenon.limits, bullets=True)]))
    provenance = context.provenance
    details = {
        "Started": provenance.started,
        "Versions": ", ".join(f"{name} {n}" for name, n in provenance.versions.items()),
        "Reference": phenomenon.reference,
    }
    if not own:
        noted = provenance.model or {"source": ""}
        details = {
            "Model": f"{noted['source']} (fingerprint {context.model().fingerprint})",
            **details,
        }
    many = "one organism of each arm" if config.seeds == 1 else f"{config.seeds} organisms an arm"
    over = (
        "over examples, and about these models alone"
        if config.seeds == 1 or not own
        else "over organisms"
    )
    return Paper(
        title=phenomenon.title,
        subject=f"{many}" if own else name,
        question=phenomenon.question.format(model="a small model" if own else name),
        answer=sentences,
        note=f"Brackets hold 95% intervals {over}, unless another confidence is named.",
        sections=sections,
        details=details,
    )


def _published(phenomenon: Phenomenon[Any], verdicts: Mapping[str, Verdict]) -> Section:
    rows = [
        [
            one.what,
            one.number,
            one.source,
            _here(verdicts[one.verdict]) if one.verdict else "–",
        ]
        for one in phenomenon.published
    ]
    return Section(
        "Published, and here",
        [Table(["What", "Published", "Of", "Here"], rows)],
        "Numbers of papers on large models beside those of this run. They are not of the same "
        "thing: what differs stands under limits.",
    )


def _here(verdict: Verdict) -> str:
    """A verdict, and its estimate where it has one."""
    said = f"{verdict.id} {verdict.outcome}"
    if verdict.estimate is None:
        return said
    return f"{said}: {interval(verdict)} {verdict.unit}"


def _methods(phenomenon: Phenomenon[Any], config: PhenomenonConfig, context: Context) -> list[str]:
    said = []
    if config.model is None:
        recipe = phenomenon.recipe(phenomenon.arms[0].trained_by, 0)
        network = recipe.network
        stages = ", ".join(
            f"{one.name} ({one.steps} steps of {one.batch_size})" for one in recipe.stages
        )
        said.append(
            f"Organisms: {network.n_layers} layers, {network.n_heads} heads, width "
            f"{network.d_model}; {stages}. They stand in work/organisms beside this page, each "
            "with its data, plain Hugging Face folders."
        )
        said += [f"Arm “{arm.name}”: {arm.about}." for arm in phenomenon.arms]
        planted = [recipe.planted, *(one.planted for one in phenomenon.hypotheses)]
        said += [f"Planted: {sentence}" for sentence in dict.fromkeys(planted) if sentence]
    else:
        model = context.model()
        said.append(
            f"{model.name}: {model.n_layers} layers, {model.n_heads} heads, "
            f"{count(model.n_parameters)} parameters, {str(model.dtype).removeprefix('torch.')}. "
            "There are no other arms of a model that was not trained here; controls are those "
            "that need none."
        )
    said += [f"{one.id}: {one.method}" for one in phenomenon.hypotheses if one.method]
    return said
