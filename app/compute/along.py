"""Models along a training, each asked the same: what they answer, and how sure that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from app.compute.turns import ModelSpec
from experiments.errors import StudyError
from experiments.explorer import Examples, Measure
from experiments.reporter import Progress

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.model.model import Model

Floats = npt.NDArray[np.float64]

K = 5
"""How many of the likeliest next tokens are kept."""
LEAST = 3
"""Answers of one kind; of fewer no preference can be told."""
OFTEN = 0.4  # s, between two results while it goes on

MEASURES = (
    Measure(
        "asked-right",
        "Right answers",
        "right answers (share)",
        "correct",
        "How often greedy decoding gives the whole right answer.",
        "the same examples asked the other way round",
        scale="share",
    ),
    Measure(
        "asked-preference",
        "Preference for the right first token",
        "preference for the right first token (nats)",
        "preference",
        "The log-probability of the right answer’s first token beyond what the question and the "
        "token explain by themselves, among answers that are asked for in the same words.",
        "0: nothing is known of the pair beyond its question and its answer",
        chance=0.0,
    ),
    Measure(
        "asked-rank",
        "Rank of the right first token",
        "median rank of the right first token (1: first)",
        "rank",
        "Where the right answer’s first token stands among all tokens.",
        "the same examples asked the other way round",
        scale="rank",
    ),
)
"""What can be told of every model that was kept; the columns are those of `curves`."""


class Kept:
    """What was found of a training so far; filled by `asking`, for all sessions.

    Attributes:
        by_step: what `ask` returns, by step.
        table: the examples that are asked.
    """

    def __init__(self) -> None:
        self.by_step: dict[int, xr.Dataset] = {}
        self.table: pd.DataFrame | None = None


def ask(model: Model, examples: Examples, table: pd.DataFrame, progress: Progress) -> xr.Dataset:
    """One model asked for all examples, in all ways.

    Args:
        table: with the prompts and answers of a row in each way.

    Returns:
        By (way, example): rank (…, layer) of the answer's first token at the prompt's end under
        the logit lens, from 0; top_token, top_prob (…, k) that come next; correct, whether greedy
        decoding gives the whole answer; and preference (nats), see `interp.stats.specificity`, of
        first tokens among answers of one kind that are asked for in the same words, NaN where these
        are fewer than 3. The coordinates prompt and answer are what was asked, wording how (with
        the kind), `group` the kind of an example.
    """
    import xarray as xr

    from interp.generation.answers import score_answers
    from interp.lens.logit import logit_lens

    parts = []
    for way in examples.ways:
        prompts = [str(text) for text in table[f"{way.name}_prompt"]]
        answers = [str(text) for text in table[f"{way.name}_answer"]]
        lens = logit_lens(model, prompts, answers, k=K, positions="last", progress=progress)
        lens = lens.isel(position=0, drop=True)
        scores = score_answers(model, prompts, answers, progress=progress)
        last = lens.isel(layer=-1)
        words = wording(table, way.name, way.about)
        kinds = [f"{a}\n{b}" for a, b in zip(table[examples.group], words, strict=True)]
        parts.append(
            xr.Dataset(
                {
                    "rank": (("example", "layer"), lens["answer_rank"].values),
                    "top_token": (("example", "k"), last["top_token"].values.astype(str)),
                    "top_prob": (("example", "k"), last["top_prob"].values),
                    "correct": ("example", scores["correct"].values),
                    "preference": ("example", preferences(model, prompts, answers, kinds)),
                },
                coords={
                    "layer": lens["layer"].values,
                    "prompt": ("example", prompts),
                    "answer": ("example", answers),
                    "first_token": ("example", lens["answer_token"].values.astype(str)),
                    "wording": ("example", kinds),
                },
            )
        )
    found = xr.concat(parts, "way", coords="all", compat="override", join="override")
    return found.assign_coords(
        way=[way.name for way in examples.ways],
        example=table[examples.key].to_numpy(),
        group=("example", table[examples.group].astype(str).to_numpy()),
    ).assign_attrs(d_vocab=model.d_vocab)


def wording(table: pd.DataFrame, way: str, about: str) -> list[str]:
    """How each example is asked in a way, without the words that it is asked about."""
    if not about:
        return [""] * len(table)
    prompts, words = table[f"{way}_prompt"].astype(str), table[about].astype(str)
    return [p.replace(w, "…", 1) for p, w in zip(prompts, words, strict=True)]


def preferences(
    model: Model, prompts: Sequence[str], answers: Sequence[str], kinds: Sequence[str]
) -> Floats:
    """How much the first token of each answer is preferred, among those of the same kind, nats."""
    from interp.generation.logits import logits
    from interp.prompts.pairs import continuations
    from interp.prompts.tokens import tokenise
    from interp.stats import specificity

    ids = continuations(model, tokenise(model, prompts), answers)
    first = np.array([one[0] for one in ids])
    logprobs = logits(model, prompts).log_softmax(-1).cpu().numpy().astype(np.float64)
    found, names = np.full(len(prompts), np.nan), np.array(kinds, dtype=object)
    for kind in dict.fromkeys(kinds):
        rows = np.flatnonzero(names == kind)
        if len(rows) < LEAST:
            continue
        # Another answer with the same first token is no other answer, as far as that goes.
        alike = (first[rows][:, None] == first[rows]) & ~np.eye(len(rows), dtype=bool)
        found[rows] = specificity(np.where(alike, np.nan, logprobs[np.ix_(rows, first[rows])]))
    return found


def asking(
    load: Callable[[ModelSpec], Model],
    checkpoints: Sequence[tuple[int, ModelSpec]],
    examples: Examples,
    kept: Kept,
    tell: Progress,
) -> Iterator[xr.Dataset]:
    """Ask every model that was kept, one after the other; yields the results so far, with the axis
    `step`.

    Args:
        load: gives a model for a spec; it is let go when it was asked.
        checkpoints: the models, by step.
        kept: what was found before; what is found is put there. Where it has no table, the models
            are asked what they bring along.
        tell: told after each part of a model's questions, too.

    Raises:
        StudyError: a model brings nothing along to be asked, or they are asked other questions.
    """
    told, total = time.monotonic(), len(checkpoints)
    for done, (step, spec) in enumerate(checkpoints):

        def go_on(*_: int, done: int = done) -> None:
            tell(done, total)  # stops here where that is wanted

        go_on()
        if step not in kept.by_step:
            model = load(spec)
            if kept.table is None:
                kept.table = brought(model, examples, step, go_on)
            kept.by_step[step] = ask(model, examples, kept.table, go_on)
            del model
        if done + 1 == total or time.monotonic() - told > OFTEN:
            told = time.monotonic()
            yield joined(kept.by_step)
    tell(total, total)


def brought(model: Model, examples: Examples, step: int, progress: Progress) -> pd.DataFrame:
    """The table of what the model of a step brings along to be asked.

    Raises:
        StudyError: that is nothing.
    """
    table = examples.measure(model, progress)
    if table is None:
        raise StudyError(
            f"The model of step {step} brings nothing along to be asked; put a table of "
            f"{examples.many} beside its weights."
        )
    return table


def joined(by_step: Mapping[int, xr.Dataset]) -> xr.Dataset:
    """Results of several models on an axis `step`.

    Raises:
        StudyError: they are not of the same questions, or not of models of the same depth.
    """
    import xarray as xr

    steps = sorted(by_step)
    first = by_step[steps[0]]
    for step in steps:
        one = by_step[step]
        same = one.sizes == first.sizes and all(
            (one[name].values == first[name].values).all() for name in ("prompt", "answer", "layer")
        )
        if not same:
            raise StudyError(
                f"The models of the steps {steps[0]} and {step} are asked other questions, or have "
                "other numbers of layers; keep those of one training in a folder of their own."
            )
    found = xr.concat(
        [by_step[step].reset_coords(drop=True) for step in steps],
        "step",
        coords="minimal",
        compat="override",
        join="override",
    )
    return found.assign_coords(first.coords).assign_coords(step=steps).assign_attrs(first.attrs)


def of_group(along: xr.Dataset, group: str) -> xr.Dataset:
    """The examples of one kind."""
    return along.isel(example=np.flatnonzero(along["group"].values == group))


def curves(along: xr.Dataset, value: str) -> pd.DataFrame:
    """A measure over the examples at every step, with its 95% interval.

    Returns:
        step, way, value, low, high, n: of `correct` the share, of `preference` the mean, of `rank`
        the median. Examples with the same prompt are not independent. NaN where there is none.
    """
    import pandas as pd

    rows = []
    for step in along["step"].values:
        for way in along["way"].values:
            one = along.sel(step=step, way=way)
            values, prompts = _values(one, value), one["prompt"].values
            there = np.isfinite(values)
            found = _average(values[there], prompts[there], value)
            rows.append((int(step), str(way), *found, int(there.sum())))
    return pd.DataFrame(rows, columns=["step", "way", "value", "low", "high", "n"])


def _average(values: Floats, prompts: npt.NDArray[Any], value: str) -> tuple[float, float, float]:
    from interp.stats import mean_interval, median_interval, proportion_interval

    if not values.size:
        return np.nan, np.nan, np.nan
    if value == "rank":
        return float(np.median(values)), *median_interval(values, prompts)
    if value == "correct":
        return float(values.mean()), *proportion_interval(values, prompts)
    return float(values.mean()), *mean_interval(values, prompts)


def _values(one: xr.Dataset, value: str) -> Floats:
    if value == "rank":
        ranks = one["rank"].isel(layer=-1).values.astype(np.float64)
        return np.where(ranks >= 0, ranks, np.nan)
    return one[value].values.astype(np.float64)


@dataclass(frozen=True)
class Difference:
    """The first way minus the second, example by example, at one step.

    Attributes:
        mean, low, high: with its 95% interval over examples; of ranks, of their log2.
        n: examples.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval is there and excludes 0."""
        return self.n > 1 and (self.low > 0 or self.high < 0)


def difference(along: xr.Dataset, step: int, value: str) -> Difference:
    """How far apart both ways are at a step, pair by pair."""
    from interp.stats import connected, mean_interval

    one, other = (along.sel(step=step, way=way) for way in along["way"].values[:2])
    values = [_values(side, value) for side in (one, other)]
    if value == "rank":
        values = [np.log2(1 + side) for side in values]
    apart = values[0] - values[1]
    there = np.isfinite(apart)
    if not there.any():
        return Difference(np.nan, np.nan, np.nan, 0)
    clusters = connected(one["prompt"].values[there], other["prompt"].values[there])
    bounds = (-1.0, 1.0) if value == "correct" else None
    low, high = mean_interval(apart[there], clusters, bounds=bounds)
    return Difference(float(apart[there].mean()), low, high, int(there.sum()))
