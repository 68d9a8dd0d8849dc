"""The Python that lays two runs, or two models, side by side as the page does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.compute.engine import ModelSpec
from app.text.code import lines, load, of_group, pairs, settings
from app.text.lens_snippets import LOGIT, Through, made_through
from experiments.explorer import Pair

Runs = tuple[Path, Path]
Asked = tuple[ModelSpec, str, str]
"""A model, a prompt, and an answer."""


def verdicts(runs: Runs) -> str:
    """Two runs' verdicts in one table."""
    return lines(
        "from experiments.records import RunRecord",
        "from experiments.two_runs import compare_verdicts",
        "",
        *_open(runs),
        "print(compare_verdicts(a.verdicts, b.verdicts).to_string())",
    )


def accuracy(
    runs: Runs, table: str, ways: Sequence[str], group: str, about: Mapping[str, str]
) -> str:
    """How often two runs' examples are answered right."""
    return lines(
        "from experiments.records import RunRecord",
        "from experiments.two_runs import compare_accuracy",
        "",
        *_open(runs),
        f"tables = a.table({table!r}), b.table({table!r})",
        f"found = compare_accuracy(*tables, {list(ways)!r}, {group!r}, {dict(about)!r})",
        "print(found.to_string())",
    )


def ranks(runs: Runs, result: str, group: tuple[str, str], chance: int | None) -> str:
    """The stored ranks of two runs' examples of one kind."""
    given = ", ".join(["lens", *settings({"chance": chance})])
    return lines(
        "from experiments.records import RunRecord",
        "from interp.figures import rank_lines",
        "",
        *_open(runs),
        f"a, b = a.dataset({result!r}), b.dataset({result!r})",
        f"lens = {{'A': {of_group('a', group)}, 'B': {of_group('b', group)}}}",
        f"rank_lines({given}).show()",
    )


def stored_map(
    runs: Runs,
    result: str,
    group: tuple[str, str],
    key: Sequence[str] | None,
    side: str,
    given: Mapping[str, Any],
) -> str:
    """The mean of one run's stored map ("a" or "b") over the examples that are compared."""
    return lines(
        *_stored("patching_map", runs, result, group, key),
        f"patching_map({', '.join([side, *settings(given)])}).show()",
    )


def stored_contrast(
    runs: Runs, result: str, group: tuple[str, str], key: Sequence[str] | None
) -> str:
    """One run's stored map minus another's; without a key, of independent examples."""
    paired = "" if key is not None else ", paired=False"
    return lines(
        *_stored("contrast_map", runs, result, group, key),
        f"contrast_map(a, b{paired}).show()",
    )


def asked_ranks(sides: Mapping[str, Asked], through: Mapping[str, Through] | None = None) -> str:
    """The answer's rank by layer, for each of two models or questions.

    Args:
        through: the lens of each side; the logit lens if left out.
    """
    made, imports = [], []
    for name, (spec, prompt, answer) in sides.items():
        needed, lens, given = made_through((through or {}).get(name, LOGIT))
        imports += needed
        made += [
            load(spec),
            *lens,
            f"lens[{name!r}] = logit_lens(model, [{prompt!r}], [{answer!r}]{given})",
        ]
    return lines(
        *dict.fromkeys(imports),
        "from interp.figures import rank_lines",
        "",
        "lens = {}",
        *made,
        "rank_lines(lens).show()",
    )


def asked_contrast(first: tuple[ModelSpec, Pair], second: tuple[ModelSpec, Pair], site: str) -> str:
    """The patching map of one model and pair minus that of another."""
    made = []
    for name, (spec, pair) in (("a", first), ("b", second)):
        made += [
            load(spec),
            *pairs([pair]),
            f"{name} = sweep(model, pairs, site={site!r})",
        ]
    return lines(
        "from interp import PromptPairs, load_model",
        "from interp.figures import contrast_map",
        "from interp.patching import sweep",
        "",
        *made,
        "contrast_map(a, b).show()",
    )


def activations(base: ModelSpec, tuned: ModelSpec, prompt: str, site: str) -> str:
    """How far two models' activations lie apart on one prompt."""
    return lines(
        "from interp import load_model",
        "from interp.comparison import activation_difference",
        "from interp.figures import difference_map",
        "",
        load(base, "a"),
        load(tuned, "b"),
        f"result = activation_difference(a, b, [{prompt!r}])",
        f"difference_map(result, 0, site={site!r}).show()",
    )


def swaps(
    base: ModelSpec, tuned: ModelSpec, asked: tuple[str, str, str | None], metric: str, into: str
) -> str:
    """Parts of one model put into the other.

    Args:
        asked: prompt, answer and foil.
    """
    prompt, answer, foil = asked
    foils = "" if foil is None else f", foils=[{foil!r}]"
    return lines(
        "from interp import load_model",
        "from interp.comparison import swap_modules",
        "from interp.figures import swap_lines",
        "",
        load(base, "a"),
        load(tuned, "b"),
        f"result = swap_modules(a, b, [{prompt!r}], {metric!r}, answers=[{answer!r}]{foils})",
        f"swap_lines(result, into={into!r}, names=('A', 'B')).show()",
    )


def _open(runs: Runs) -> list[str]:
    return [
        f"{name} = RunRecord.open({run.as_posix()!r})" for name, run in zip("ab", runs, strict=True)
    ]


def _stored(
    figure: str, runs: Runs, result: str, group: tuple[str, str], key: Sequence[str] | None
) -> list[str]:
    shared = [] if key is None else ["from interp.figures.contrast import shared_examples"]
    chosen = [] if key is None else [f"a, b = shared_examples(a, b, {list(key)!r})"]
    return [
        "from experiments.records import RunRecord",
        f"from interp.figures import {figure}",
        *shared,
        "",
        *_open(runs),
        f"a, b = a.dataset({result!r}), b.dataset({result!r})",
        f"a, b = {of_group('a', group)}, {of_group('b', group)}",
        *chosen,
    ]
