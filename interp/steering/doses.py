"""How an answer changes with the dose of a direction, beside random directions of equal length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import DirectionError, PromptError
from interp.forward.interventions import Intervention, Plan, Sites, Vector, as_direction, plan
from interp.forward.passes import recording_memory
from interp.generation.logits import predict
from interp.metrics import Metric, get_metric, logit_diff
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.masks import Positions
from interp.prompts.pairs import Answers, PromptPairs
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.steering.directions import Activations, random_directions

Reader = Callable[[Float[Tensor, "example vocabulary"]], Float[Tensor, " example"]]


@typed
def dose_response(
    model: Model,
    prompts: PromptPairs | Prompts,
    direction: Vector,
    doses: Sequence[float],
    metric: Metric | str | Reader = logit_diff,
    *,
    sites: Sites,
    kind: Literal["add", "clamp"] = "add",
    positions: Positions = "all",
    answers: Answers | None = None,
    foils: Answers | None = None,
    control: int = 20,
    activations: Activations | None = None,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Measure prompts under growing doses of a direction.

    Args:
        model: the model.
        prompts: prompts with `answers` (and `foils`, where the metric compares), or pairs, of
            which the clean prompts are read.
        direction: of the shape of one token's activation at the sites.
        doses: for "add" multiples of the direction, for "clamp" coordinates along it.
        metric: a metric, or a function of the next token's logits.
        sites: where, and at which `positions`; see `Intervention`.
        kind: what is done with the dose.
        control: how many random directions of the same length, at right angles to it, to measure
            beside it.
        activations: if given, control directions vary as these [example, …] do, without what goes
            with their coordinate along the direction; as many that are equally likely everywhere
            are measured too.
        seed: of the control directions.
        progress: called with (passes over the prompts done, in all).

    Returns:
        value(example, dose); control(example, dose, draw); plain(example), without intervention;
        with `activations` also isotropic(example, dose, draw).

    Raises:
        DirectionError: no doses, or a direction that does not fit.
        PromptError: prompts, answers or positions that do not fit.
        MetricError: an unknown metric.
        SiteError: the model has no such site, or drops edits there.
    """
    levels = _levels(doses)
    vector = as_direction(direction)
    if control < 0:
        raise DirectionError(f"There cannot be {control} control directions; ask for 0 or more.")
    measured = _measure(model, prompts, metric, answers, foils)
    kinds: dict[str, Activations | None] = {"control": activations}
    if activations is not None:
        kinds["isotropic"] = None
    rivals = [
        direction
        for like in (kinds.values() if control else ())
        for direction in random_directions(vector, control, seed=seed, activations=like, apart=True)
    ]
    out = np.zeros((1 + len(rivals), len(levels), measured.n), dtype=np.float32)
    done, total = 0, out.shape[0] * out.shape[1] + 1
    plain = measured(())
    for which, one in enumerate((vector, *rivals)):
        for number, dose in enumerate(levels):
            change = Intervention.add if kind == "add" else Intervention.clamp
            out[which, number] = measured((change(one, sites, dose, positions=positions),))
            done += 1
            if progress:
                progress(done + 1, total)
    coords: dict[str, Any] = {
        "dose": levels,
        "draw": np.arange(control),
        "prompt": ("example", list(measured.texts)),
    }
    attrs = {
        "instrument": "dose response",
        "kind": kind,
        "length": float(vector.norm()),
        "metric": measured.name,
        "unit": measured.unit,
        "seed": seed,
        **model.identity,
    }
    values: dict[str, Any] = {"value": (("example", "dose"), out[0].T)}
    for number, name in enumerate(kinds):
        drawn = out[1 + number * control : 1 + (number + 1) * control]
        values[name] = (("example", "dose", "draw"), drawn.transpose(2, 1, 0))
    values["plain"] = ("example", plain)
    return xr.Dataset(values, coords, attrs)


class _Measure:
    """Prompts with something to read from their logits: a number for each, under any change."""

    def __init__(
        self, model: Model, batch: TokenBatch, name: str, unit: str, passes: Sequence[_Pass]
    ) -> None:
        self._model, self._batch, self._passes = model, batch, passes
        self.name, self.unit, self.texts, self.n = name, unit, batch.texts, len(batch)
        # Answers that are forced after the prompts count as generated.
        self._written = any(ids.shape[1] > batch.ids.shape[1] for ids, _, _ in passes)

    def __call__(self, changes: Sequence[Intervention]) -> npt.NDArray[np.float32]:
        made = plan(self._model, changes, self._batch.lengths, written=self._written)
        total = torch.zeros(self.n)
        for ids, where, score in self._passes:
            self._run(ids, where, score, made, total)
        values: npt.NDArray[np.float32] = total.numpy()
        return values

    def _run(self, ids: Tensor, where: Tensor, score: Any, made: Plan, total: Tensor) -> None:
        def work(start: int, stop: int) -> None:
            rows = torch.arange(start, stop)
            logits, _ = predict(self._model, ids[start:stop], where[start:stop], made, rows)
            total[start:stop] += score(logits, rows).float().cpu()

        reads = 3 * 4 * where.shape[1] * self._model.d_vocab
        size = rows_that_fit(self._model, recording_memory(self._model, ids.shape[1], 0) + reads)
        for _ in batches(self.n, size, work):
            pass


_Pass = tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]
"""Sequences, where their logits are read, and what is made of them for these examples."""


def _measure(
    model: Model,
    prompts: PromptPairs | Prompts,
    metric: Metric | str | Reader,
    answers: Answers | None,
    foils: Answers | None,
) -> _Measure:
    if not isinstance(metric, Metric | str):
        if answers is not None or foils is not None:
            raise PromptError("A function of the logits looks for no answers; leave them out.")
        batch = prompts.clean if isinstance(prompts, PromptPairs) else tokenise(model, prompts)
        name = str(getattr(metric, "__name__", "metric"))
        where = (batch.lengths - 1)[:, None]

        def read(logits: Tensor, rows: Tensor) -> Tensor:
            found = metric(logits[:, 0])
            if found.shape != (len(rows),):
                raise PromptError("A metric must give one number for each example.")
            return found

        return _Measure(model, batch, name, "", [(batch.ids, where, read)])
    chosen = get_metric(metric)
    pairs = _pairs(model, prompts, answers, foils)
    passes: list[_Pass] = []
    for sequences in chosen.reads:
        reading = pairs.reading("clean", sequences)
        for term in chosen.terms_of(sequences):
            targets = chosen.targets(pairs, term)

            def score(
                logits: Tensor, rows: Tensor, term: Any = term, targets: Tensor = targets
            ) -> Tensor:
                found: Tensor = term.score(logits, targets[rows].to(logits.device))
                return found.mul(term.weight)

            where = reading.positions[:, : targets.shape[1]]
            passes.append((reading.ids, where, score))
    return _Measure(model, pairs.clean, chosen.name, chosen.unit, passes)


def _pairs(
    model: Model,
    prompts: PromptPairs | Prompts,
    answers: Answers | None,
    foils: Answers | None,
) -> PromptPairs:
    if isinstance(prompts, PromptPairs):
        if answers is not None or foils is not None:
            raise PromptError("Pairs have their answers; leave answers and foils out.")
        return prompts
    if answers is None:
        raise PromptError("This metric looks for answers; give answers=….")
    return PromptPairs(model, prompts, prompts, answers, foils)


def _levels(doses: Sequence[float]) -> npt.NDArray[np.float64]:
    levels = np.asarray(doses, dtype=np.float64)
    if levels.ndim != 1 or levels.size == 0 or not np.isfinite(levels).all():
        raise DirectionError("Doses must be a list of finite numbers, at least one.")
    return levels
