"""The Python that makes a figure of the screen, to go on with in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from app.compute.circuits import halves
from app.compute.engine import ModelSpec
from app.text.code import lines as _lines
from app.text.code import load as _load
from app.text.code import pairs as _pairs
from app.text.code import settings as _settings
from app.text.code import together as _chosen
from app.together import Together
from experiments.explorer import Pair
from experiments.labelled import Labelled

Listed: TypeAlias = tuple[str, Sequence[int] | None]
"""The column that numbers examples, and the numbers of those that are listed, in their order; None
for all as they are stored."""


def patching(model: ModelSpec, pair: Pair, site: str, settings: Mapping[str, Any]) -> str:
    """A patching map of one pair; `settings` are the keyword arguments of `patching_map`."""
    return _lines(
        "from interp import PromptPairs, load_model, logit_diff",
        "from interp.figures import patching_map",
        "from interp.patching import sweep",
        "",
        _load(model),
        *_pairs([pair]),
        f"result = sweep(model, pairs, site={site!r}, metric=logit_diff)",
        f"patching_map({', '.join(['result', *_settings(settings)])}).show()",
    )


def contrast(model: ModelSpec, pairs: Sequence[Pair], site: str) -> str:
    """The difference of two patching maps, each of one pair."""
    lines = []
    for name, pair in zip(("first", "second"), pairs, strict=True):
        lines += [*_pairs([pair]), f"{name} = sweep(model, pairs, site={site!r})"]
    return _lines(
        "from interp import PromptPairs, load_model",
        "from interp.figures import contrast_map",
        "from interp.patching import sweep",
        "",
        _load(model),
        *lines,
        "contrast_map(first, second).show()",
    )


def run_contrast(run: Path, results: tuple[str, str], group: Together, key: str) -> str:
    """The difference of two stored maps, over some examples."""
    return _lines(
        "from experiments.records import RunRecord",
        "from interp.figures import contrast_map",
        "",
        f"run = RunRecord.open({run.as_posix()!r})",
        f"first, second = run.dataset({results[0]!r}), run.dataset({results[1]!r})",
        f"first = {_chosen('first', group)}",
        f"second = {_chosen('second', group)}",
        f"contrast_map(first, second, key={key!r}).show()",
    )


def circuit(model: ModelSpec, pairs: Sequence[Pair], n_edges: int) -> str:
    """A circuit map of some pairs, and what the circuit does when it is run."""
    scored, run = halves(tuple(pairs))
    others = [] if run == scored else ["", *_pairs(run, "others")]
    return _lines(
        "from interp import PromptPairs, load_model",
        "from interp.circuits import attribute_edges, measure, prune",
        "from interp.figures import circuit_map",
        "",
        _load(model),
        *_pairs(scored),
        *others,
        "",
        'scores = attribute_edges(model, pairs, method="eap-ig", by="position")',
        f'circuit = prune(scores, {n_edges}, choice="greedy")',
        f"print(measure(model, {'others' if others else 'pairs'}, circuit).mean())",
        "circuit_map(circuit).show()",
    )


def faithfulness(model: ModelSpec, pairs: Sequence[Pair], fractions: Sequence[float]) -> str:
    """Faithfulness of circuits of every size, on pairs that their edges were not scored on."""
    scored, run = halves(tuple(pairs))
    return _lines(
        "from interp import PromptPairs, load_model",
        "from interp.circuits import attribute_edges, faithfulness_curve",
        "from interp.figures import faithfulness_lines",
        "",
        _load(model),
        *_pairs(scored),
        "",
        *_pairs(run, "others"),
        "",
        'scores = attribute_edges(model, pairs, method="eap-ig", by="position")',
        f"fractions = {list(fractions)!r}",
        "curve = faithfulness_curve(",
        "    model, others, scores, fractions=fractions,",
        '    choice="greedy", n_random=2, n_resampled=0,',
        ")",
        "faithfulness_lines(curve).show()",
    )


def attribution(
    model: ModelSpec,
    prompt: str,
    answer: str,
    foil: str | None,
    by: str,
    *,
    bars: bool = False,
    limit: float | None = None,
) -> str:
    """Direct logit attribution of one prompt, as bars or as a map."""
    foils = "" if foil is None else f", [{foil!r}]"
    draw = "attribution_bars" if bars else "attribution_map"
    end = "" if limit is None else f", limit={float(f'{limit:.4g}')!r}"
    return _lines(
        "from interp import direct_logit_attribution, load_model",
        f"from interp.figures import {draw}",
        "",
        _load(model),
        f"shares = direct_logit_attribution(model, [{prompt!r}], [{answer!r}]{foils}, by={by!r})",
        f"{draw}(shares, 0{end}).show()",
    )


def head_grid(
    model: ModelSpec,
    prompt: str,
    score: str,
    *,
    answer: str | None = None,
    foil: str | None = None,
    words: str | None = None,
) -> str:
    """A score of every head on one prompt: its direct attribution to an answer, or what it looks
    at, `words` of the prompt for one."""
    if answer is None:
        spans = "" if words is None else f", spans={{'words': [{words!r}]}}"
        chosen = "" if words is None else ".isel(span=0)"
        return _lines(
            "from interp import head_scores, load_model",
            "from interp.figures import head_score_grid",
            "",
            _load(model),
            f"scores = head_scores(model, [{prompt!r}]{spans}){chosen}",
            f"head_score_grid(scores, {score!r}).show()",
        )
    foils = "" if foil is None else f", [{foil!r}]"
    return _lines(
        "from interp import direct_logit_attribution, load_model",
        "from interp.figures import head_score_grid",
        "",
        _load(model),
        f"shares = direct_logit_attribution(model, [{prompt!r}], [{answer!r}]{foils}, by='head')",
        'heads = shares["contribution"].isel(component=shares["head"].values >= 0)',
        'grid = heads.set_index(component=["layer", "head"]).unstack("component")',
        f"head_score_grid(grid.to_dataset(name={score!r}), {score!r}, signed=True).show()",
    )


def answers(model: ModelSpec, prompt: str, texts: Sequence[str]) -> str:
    """Log-probabilities of whole answers after one prompt, and of their first tokens."""
    return _lines(
        "from interp import load_model, score_answers",
        "",
        _load(model),
        f"texts = {list(texts)!r}",
        f"scores = score_answers(model, [{prompt!r}] * len(texts), texts)",
        'print(scores[["logprob", "first_logprob", "rank"]].to_dataframe().to_string())',
    )


def attention(model: ModelSpec, prompt: str, layer: int, head: int | None, value: str) -> str:
    """One head's pattern on one prompt, or those of all heads of a layer."""
    draw = "pattern_grid" if head is None else "pattern_map"
    which = f"{layer}" if head is None else f"{layer}, {head}"
    return _lines(
        "from interp import attention_patterns, load_model",
        f"from interp.figures import {draw}",
        "",
        _load(model),
        f"patterns = attention_patterns(model, [{prompt!r}], layers=[{layer}], weighted=True)",
        f"{draw}(patterns, {which}, value={value!r}).show()",
    )


def probes_of_table(
    model: ModelSpec,
    study: str,
    table: tuple[Path, str] | None,
    label: str,
    way: str,
    subject: bool,
    sites: list[str],
    axis: tuple[list[str], str],
) -> str:
    """A sweep on a study's examples.

    Args:
        study: its name.
        table: the run and its table of examples; None for those that the model brings along.
        axis: what the figure calls the sites, and all of them.
    """
    rows = (
        "table = examples.measure(model, lambda done, total: None)"
        if table is None
        else f"table = RunRecord.open({table[0].as_posix()!r}).table({table[1]!r})"
    )
    return _lines(
        "from experiments.labelled import labelled",
        *([] if table is None else ["from experiments.records import RunRecord"]),
        "from experiments.registry import find_study",
        *_probe_imports(),
        _load(model),
        f"examples = find_study({study!r}).explorer().examples",
        rows,
        f"asked = labelled(examples, table, {label!r}, {way!r}, subject={subject})",
        *_probe_fit(sites, axis),
    )


def probes_of_lists(
    model: ModelSpec, asked: Labelled, sites: list[str], axis: tuple[list[str], str]
) -> str:
    """A sweep on two lists of prompts."""
    return _lines(
        "from experiments.labelled import Labelled",
        *_probe_imports(),
        _load(model),
        "asked = Labelled(",
        "    prompts=(",
        *(f"        {prompt!r}," for prompt in asked.prompts),
        "    ),",
        f"    labels={asked.labels!r},",
        f"    groups={asked.groups!r},",
        "    names=(),",
        ")",
        *_probe_fit(sites, axis),
    )


def run_patching(run: Path, name: str, group: Together | None, settings: Mapping[str, Any]) -> str:
    """A patching map of a run: of one pair, or the mean over some pairs."""
    chosen = "result" if group is None else _chosen("result", group)
    return _lines(
        "from experiments.records import RunRecord",
        "from interp.figures import patching_map",
        "",
        f"run = RunRecord.open({run.as_posix()!r})",
        f"result = run.dataset({name!r})",
        f"patching_map({', '.join([chosen, *_settings(settings)])}).show()",
    )


def run_table(run: Path, name: str) -> str:
    """A stored table of a run."""
    return _lines(
        "from experiments.records import RunRecord",
        "",
        f"run = RunRecord.open({run.as_posix()!r})",
        f"print(run.table({name!r}).to_string())",
    )


def run_examples(run: Path, name: str, listed: Listed) -> str:
    """The examples of a run as its table of that name is listed."""
    return _lines(
        "from experiments.records import RunRecord",
        "",
        f"run = RunRecord.open({run.as_posix()!r})",
        f"table = run.table({name!r})",
        *_listed(listed),
    )


def model_examples(model: ModelSpec, study: str, listed: Listed) -> str:
    """The examples that a model brings along for a study, asked and listed."""
    return _lines(
        "from experiments.registry import find_study",
        "from interp import load_model",
        "",
        _load(model),
        f"examples = find_study({study!r}).explorer().examples",
        "table = examples.measure(model, lambda done, total: None)",
        *_listed(listed),
    )


def _listed(listed: Listed) -> list[str]:
    key, numbers = listed
    chosen = [] if numbers is None else [f"table = table.set_index({key!r}, drop=False)"]
    if numbers is not None:
        chosen.append(f"table = table.loc[{list(numbers)!r}]")
    return [*chosen, "print(table.to_string(index=False))"]


def _probe_imports() -> list[str]:
    return [
        "from interp import load_model",
        "from probes import collect, probe_report, token_counts",
        "from probes.figures import probe_lines",
        "",
    ]


def _probe_fit(sites: list[str], axis: tuple[list[str], str]) -> list[str]:
    names, title = axis
    return [
        f"sites = {sites!r}",
        'read = {"here": asked.places(model)}',
        "features = collect(model, asked.prompts, sites, positions=read)",
        "report = probe_report(",
        "    features, asked.labels, groups=asked.groups, types=asked.groups",
        ")",
        "words = probe_report(",
        "    token_counts(model, asked.prompts, read['here']),",
        "    asked.labels, groups=asked.groups, types=asked.groups,",
        ")",
        f"names = {names!r}",
        f"probe_lines(report, words=words, names=names, axis={title!r}).show()",
    ]
