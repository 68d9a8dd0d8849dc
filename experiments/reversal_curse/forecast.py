"""How long a run will take, told before it begins.

One answer is timed on this machine; what everything else takes, in answers, was counted on the
bundled organism. There it holds within a factor of two; on other models it is rough.
"""

from __future__ import annotations

import os
from collections import Counter

from experiments.context import Context
from experiments.numbers import duration
from experiments.reversal_curse import lenses
from experiments.reversal_curse.arms.stages import seconds_of_stages
from experiments.reversal_curse.config import Config
from experiments.reversal_curse.cost import Cost, seconds_of_text
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements import editing
from experiments.reversal_curse.measurements.carried import most_facts
from interp.execute import Executor

__all__ = ["forecast", "tell"]

# In answers: a patched cell, a carried vector, a fact in two circuits, one in all other
# hypotheses, one that is edited at a layer, the circuits of the mechanism.
_CELL, _CARRIED, _ENTRY, _FACT, _EDIT, _CIRCUITS = 0.6, 0.35, 90.0, 140.0, 300.0, 3500.0
# Places read and written of a transplant, and the ways of each.
_PLACES, _WAYS = 6, 5
# Loading, drawing and writing the report.
_SECONDS_AROUND = 8.0
_MOST_WORKERS = 8


def tell(config: Config, context: Context, subject: Subject, cost: Cost) -> None:
    """Say how long the run will take, stage by stage where organisms are trained."""
    workers = _workers(context)
    stages = {
        "this model": forecast(config, subject, cost, seconds_of_text(subject)),
        **seconds_of_stages(config, workers),
    }
    told = duration(_rounded(sum(stages.values())))
    if len(stages) > 1:
        parts = ", ".join(f"{name} {duration(_rounded(part))}" for name, part in stages.items())
        told += f" ({parts}; {workers} at a time)"
    context.note(f"This will take about {told}; it can be stopped, and goes on where it stopped.")


def forecast(config: Config, subject: Subject, cost: Cost, of_text: float) -> float:
    """Seconds that the study of one model takes.

    Args:
        cost: of `cost.estimate`.
        of_text: seconds that one answer takes.
    """
    model, facts = subject.model, subject.facts
    splits = Counter(fact.split for fact in facts)
    asked = {name: count for name, count in splits.items() if name != "held_out"}
    patched = sum(min(count, config.n_pairs) for count in asked.values())
    tokens = len(model.token_ids(subject.prompts("forward")[0]))
    by_token, by_head = model.n_layers * tokens, model.n_layers * model.n_heads
    cells = patched * (2 * (3 * by_token + by_head) + by_token)
    most, layers = most_facts(subject, "forward")
    carried = _PLACES * len(layers) ** 2 * _WAYS * sum(min(count, most) for count in asked.values())
    answers = cost.texts + _CELL * cells + _CARRIED * carried
    edited = min(splits["forward"] + splits["unknown"], editing.MOST_FACTS)
    answers += _EDIT * edited * min(model.n_layers, editing.MOST_LAYERS)
    answers += _ENTRY * splits["both"] + _FACT * len(facts) + _CIRCUITS
    fitted = min(lenses.seconds(subject), config.lens_seconds)
    return of_text * answers + fitted + _SECONDS_AROUND


def _workers(context: Context) -> int:
    executor = context.executor
    settings = executor if isinstance(executor, Executor) else executor.executor
    if settings.kind == "serial":
        return 1
    return settings.workers or min(_MOST_WORKERS, os.cpu_count() or 1)


def _rounded(seconds: float) -> float:
    """To what can be promised: ten seconds, and minutes beyond ten of them."""
    step = 10 if seconds < 600 else 60
    return max(step, round(seconds / step) * step)
