"""The Python that makes figures of lenses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.compute import lenses
from app.compute.engine import ModelSpec
from app.text.code import lines as _lines
from app.text.code import load as _load
from app.text.code import together as _chosen
from app.together import Together


@dataclass(frozen=True)
class Through:
    """The lens that layers are read through; the logit lens if all is left out.

    Attributes:
        kind: "tuned" or "jacobian".
        folder: where it lies.
        texts: what it was fitted on, where it lies nowhere.
    """

    kind: str = "logit"
    folder: str | None = None
    texts: Sequence[str] = ()


LOGIT = Through()


def lens(model: ModelSpec, prompt: str, answer: str | None, through: Through = LOGIT) -> str:
    """A lens heatmap of one prompt."""
    answers = "" if answer is None else f", [{answer!r}]"
    imports, made, given = made_through(through)
    return _lines(
        *imports,
        "from interp.figures import lens_heatmap",
        "",
        _load(model),
        *made,
        f"lens = logit_lens(model, [{prompt!r}]{answers}{given})",
        "lens_heatmap(lens).show()",
    )


def ranks(
    model: ModelSpec, questions: Mapping[str, tuple[str, str]], through: Through = LOGIT
) -> str:
    """Rank lines of one example; `questions` are (prompt, answer) by the name of each line."""
    imports, made, given = made_through(through)
    lines = [
        f"    {name!r}: logit_lens(model, [{prompt!r}], [{answer!r}]{given}),"
        for name, (prompt, answer) in questions.items()
    ]
    return _lines(
        *imports,
        "from interp.figures import rank_lines",
        "",
        _load(model),
        *made,
        "lens = {",
        *lines,
        "}",
        "rank_lines(lens, chance=model.d_vocab).show()",
    )


def ranks_of_many(
    model: ModelSpec,
    questions: Mapping[str, Sequence[tuple[str, str]]],
    through: Through = LOGIT,
) -> str:
    """Rank lines of several examples; `questions` are pairs of prompt and answer, by line."""
    imports, made, given = made_through(through)
    return _lines(
        *imports,
        "from interp.figures import rank_lines",
        "",
        _load(model),
        *made,
        f"questions = {dict(questions)!r}",
        "lens = {}",
        "for name, asked in questions.items():",
        "    prompts, answers = map(list, zip(*asked))",
        f"    lens[name] = logit_lens(model, prompts, answers{given}, k=1, positions='last')",
        "rank_lines(lens, chance=model.d_vocab).show()",
    )


def lead(model: ModelSpec, questions: Mapping[str, tuple[str, str, str]]) -> str:
    """How far answers are ahead of foils; `questions` are (prompt, answer, foil) by line."""
    lines = [
        f"    {name!r}: logit_lens(model, [{prompt!r}], [[{answer!r}, {foil!r}]]),"
        for name, (prompt, answer, foil) in questions.items()
    ]
    return _lines(
        "from interp import load_model, logit_lens",
        "from interp.figures import lead_lines",
        "",
        _load(model),
        "lens = {",
        *lines,
        "}",
        "lead_lines(lens).show()",
    )


def made_through(one: Through) -> tuple[list[str], list[str], str]:
    """Imports, the lines that make a lens, and how it is given to `logit_lens`."""
    if one.kind == "logit":
        return ["from interp import load_model, logit_lens"], [], ""
    if one.folder is not None:
        name = "TunedLens" if one.kind == "tuned" else "JacobianLens"
        imports = [f"from interp import {name}, load_model, logit_lens"]
        return imports, [f"through = {name}.load({one.folder!r}, model)"], ", lens=through"
    texts = f"texts = {lenses.chosen(one.kind, tuple(one.texts))!r}"
    if one.kind == "tuned":
        fit = f"train_tuned_lens(model, texts, steps={lenses.STEPS}, batch_tokens={lenses.BATCH})"
    else:
        fit = f"fit_jacobian_lens(model, texts, skip_first={lenses.SKIPPED})"
    name = fit.partition("(")[0]
    names = ", ".join(sorted([name, "load_model", "logit_lens"]))
    return [f"from interp import {names}"], [texts, f"through = {fit}"], ", lens=through"


def run_ranks(run: Path, results: Mapping[str, str], group: Together) -> str:
    """Rank lines of a run's examples that are taken together.

    Args:
        results: the stored ranks by the name of each line.
        group: the examples that are meant.
    """
    return _lines(
        "from experiments.records import RunRecord",
        "from interp.figures import rank_lines",
        "",
        f"run = RunRecord.open({run.as_posix()!r})",
        "lens = {",
        *(f"    {name!r}: run.dataset({result!r})," for name, result in results.items()),
        "}",
        f"chosen = {{name: {_chosen('one', group)} for name, one in lens.items()}}",
        "rank_lines(chosen).show()",
    )
