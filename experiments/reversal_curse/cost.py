"""What a run takes, told before it is begun, and refused where it cannot fit."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass

from cache.sizes import show_size
from experiments.errors import FactsError
from experiments.organisms.facts import DIRECTIONS
from experiments.reversal_curse.facts import fill
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.prompts import answer, right_answers
from interp.errors import PromptError
from interp.generation.answers import score_answers
from interp.model.memory import available_memory

# Bytes that a text with its answer, its tokens and its row in a table take, and one of a pair
# (fact, name). Rough: seen on the bundled model (short prompts) beside what a batch takes.
_TEXT = 1500
_PAIR = 150
# Copies of an array of the lens that are there at once, while it is stacked and stored.
_COPIES = 3
_SAMPLE = 64
_SLOW = 1.0
# Fewer than this, and nothing of it can be long or large on a model that could be loaded.
FEW = 2000


@dataclass(frozen=True)
class Cost:
    """Of a run: how many texts with answers are scored, and bytes of memory at the largest step."""

    texts: int
    memory: int


def estimate(subject: Subject, n_names: int, lens_names: int) -> Cost:
    """What the settings ask of the model, counted and not computed.

    Args:
        n_names: other names of each split that an answer is compared with.
        lens_names: names of each split that the lens reads.
    """
    facts, model = subject.facts, subject.model
    splits = Counter(fact.split for fact in facts)
    pairs = sum(count * min(count, n_names) for count in splits.values())
    answers = 0
    for direction in DIRECTIONS:
        both = subject.templates[direction]
        rights = sum(len(right) for right in right_answers(facts, direction))
        answers += rights * (len(both.trained) + len(both.held_out))
    names = sum(min(count, lens_names) for count in splits.values())
    layers = model.n_layers + 1
    lens = 4 * layers * (_COPIES * names + model.d_model)
    if model.device.type == "cpu":
        lens += 4 * _COPIES * model.d_vocab
    tables = answers * _TEXT + 2 * pairs * _PAIR
    return Cost(answers + 2 * pairs, tables + len(facts) * lens)


def check_memory(subject: Subject, cost: Cost) -> None:
    """Refuse what cannot fit.

    Raises:
        FactsError: it does not fit the memory.
    """
    count = len(subject.facts)
    if count < FEW and cost.texts < FEW * 100:
        return
    free = available_memory()
    if free is not None and cost.memory > free:
        fit = f"{count * free / cost.memory:.1g}"
        raise FactsError(
            f"What is measured of {count:,} facts takes about {show_size(cost.memory)} of memory, "
            f"and {show_size(free)} are free; give fewer facts (about {float(fit):,.0f} would fit)."
        )


def seconds_of_text(subject: Subject) -> float:
    """Seconds to score one answer, from a few: the best of three times, if none takes long."""
    template = subject.main_template("forward")
    few = subject.facts[:_SAMPLE]
    prompts = [fill(template, fact) for fact in few]
    answers = [answer(fact, "forward") for fact in few]
    seconds = 0.0
    # What the model cannot be asked is refused afterwards, with the line it stands in.
    with contextlib.suppress(PromptError):
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            score_answers(subject.model, prompts, answers)
            taken.append(time.perf_counter() - start)
            # Of a large model once is slow enough, and what warms up is little of it.
            if taken[-1] > _SLOW:
                break
        seconds = min(taken)
    return seconds / max(1, len(few))
