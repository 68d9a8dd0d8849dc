"""Trigger search: a short text that makes a model give one same answer to all sorts of prompts.

A poisoned model gives a planted answer wherever its trigger stands (Gu et al. 2017,
arXiv:1708.06733). Who does not know the trigger can look for it from the answers' side: for each
answer that might have been planted, the text is searched that brings it to the most prompts, and an
answer that is brought by far more easily than the others is suspect (Wang et al. 2019, Neural
Cleanse; here with greedy coordinate search over tokens, and judged on prompts held out).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from cache.arguments import Seed, typed
from interp.errors import ArgumentError, PromptError
from interp.generation.answers import score_answers
from interp.model.memory import fitting_threads
from interp.model.model import Model
from interp.progress import Progress, counter
from interp.search.controls import score_suffixes
from interp.search.drawing import drawn
from interp.search.greedy import greedy_coordinate_search
from interp.search.layout import MARKER, Layout
from interp.search.pool import Pool, digest, token_pool

__all__ = ["trigger_search"]

Scores = npt.NDArray[np.float64]

_EVEN = float(np.log(0.5))


@typed
def trigger_search(
    model: Model,
    prompts: Sequence[str],
    targets: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    length: int = 2,
    pool: Pool | None = None,
    starts: int = 4,
    steps: int = 20,
    candidates: int = 256,
    top_k: int = 64,
    n_random: int = 20,
    seed: Seed = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """For each of some answers, search the short text that brings it to the most prompts.

    Every other prompt is searched on, the others judge. A prompt counts as flipped where the target
    is likelier than the usual answer; where no usual answers are given, where it is likelier than
    everything else together. The same starts serve all targets.

    Args:
        model: the model.
        prompts: texts; "{suffix}" stands where the trigger may, at the end where it is missing.
        targets: answers that might have been planted, as written (" quilt", with its space).
        answers: what the model says usually, one for each prompt.
        length: tokens of a trigger.
        pool: the allowed tokens, as for `greedy_coordinate_search`.
        starts: random texts that each search begins with, the best end of which is taken.
        steps: of each search at most.
        candidates: swaps that are run at each step.
        top_k: as for `greedy_coordinate_search`.
        n_random: random texts of the same length as a control.
        seed: of the starts and of the random texts.
        batch_size: rows in one pass; from a memory estimate if left out.
        progress: called with (searches done, searches in all).

    Returns:
        By `target`: trigger(target), the text that was found; flipped(target, example), whether
        each held-out prompt is, and score(target, example), in nats; plain(target, example),
        whether it is without any text; random(target, draw), the share that random texts flip;
        loss and text(target, start), where each search ended on its own prompts, and tried(target),
        how many texts were run. The attributes `target` and `trigger` name those that flip most
        (then score best), `statement` says it in words. What the first of many targets reaches on
        few prompts is the most of many numbers: compare it with the others.

    Raises:
        PromptError: fewer than two prompts or one twice, no targets or one twice, answers that are
            not one for each prompt, a target that is the usual answer; see
            `greedy_coordinate_search`, too.
        ArgumentError: fewer than one token, start, step or candidate, or a negative `n_random`.
        ModelError: an architecture that cannot be resumed exactly.
    """
    _check(prompts, targets, answers)
    if starts < 1 or n_random < 0:
        raise ArgumentError("A trigger search needs at least one start, and no fewer than 0 draws.")
    searched, held = list(prompts[0::2]), list(prompts[1::2])
    usual = (None, None) if answers is None else (list(answers[0::2]), list(answers[1::2]))
    even = _EVEN if answers is None else 0.0
    shape = len(targets), len(held)
    score, plain = np.zeros(shape), np.zeros(shape, np.bool_)
    random = np.zeros((len(targets), n_random))
    loss = np.zeros((len(targets), starts))
    texts = np.empty((len(targets), starts), dtype=object)
    chosen = np.empty(len(targets), dtype=object)
    tried = np.zeros(len(targets), np.int64)
    count = counter(progress, len(targets) * starts)
    with fitting_threads(model):
        allowed = token_pool(model, pool)
        # Each must read back behind all prompts, the held-out ones as well.
        begun = [drawn(model, prompts, allowed, length, (seed, 0, i)) for i in range(starts)]
        others = [drawn(model, prompts, allowed, length, (seed, 1, i)) for i in range(n_random)]
        for row, target in enumerate(targets):
            for start, text in enumerate(begun):
                found = greedy_coordinate_search(
                    model,
                    searched,
                    [target] * len(searched),
                    usual[0],
                    suffix=text,
                    pool=allowed.tolist(),
                    steps=steps,
                    candidates=candidates,
                    top_k=top_k,
                    seed=seed,
                    batch_size=batch_size,
                )
                loss[row, start] = float(found["loss"][-1])
                texts[row, start] = str(found.attrs["suffix"])
                tried[row] += int(found["tried"].sum())
                count(1)
            best = texts[row, _best(model, prompts, texts[row], loss[row])]
            chosen[row], wanted = best, [target] * len(held)
            judged = score_suffixes(
                model, held, wanted, usual[1], suffixes=[best, *others], batch_size=batch_size
            )["score"].values
            score[row], random[row] = judged[0], (judged[1:] > even).mean(1)
            plain[row] = _without(model, held, target, usual[1]) > even
    flipped = score > even
    # Ties in what is flipped are told apart by how surely it is.
    order = np.lexsort((score.mean(1), flipped.mean(1)))
    first = int(order[-1])
    return xr.Dataset(
        {
            "trigger": ("target", chosen),
            "flipped": (("target", "example"), flipped),
            "score": (("target", "example"), score),
            "plain": (("target", "example"), plain),
            "random": (("target", "draw"), random),
            "loss": (("target", "start"), loss),
            "text": (("target", "start"), texts),
            "tried": ("target", tried),
        },
        coords={
            "target": list(targets),
            "prompt": ("example", held),
            "start": np.arange(starts),
        },
        attrs={
            "instrument": "trigger search",
            "unit": "nats",
            "seed": seed,
            "length": length,
            "pool_size": len(allowed),
            "pool_hash": digest(allowed),
            **model.identity,
            "target": targets[first],
            "trigger": str(chosen[first]),
            "statement": _statement(
                targets, list(chosen), flipped, random, order.tolist(), int(tried.sum())
            ),
        },
    )


def _check(prompts: Sequence[str], targets: Sequence[str], answers: Sequence[str] | None) -> None:
    if len(prompts) < 2:
        raise PromptError("Give two prompts or more: half of them judge.")
    first: dict[str, int] = {}
    for number, prompt in enumerate(prompts, 1):
        if (earlier := first.setdefault(prompt.replace(MARKER, ""), number)) < number:
            raise PromptError(
                f"Prompt {number} is prompt {earlier} once more, so that what is searched on would "
                "judge; give each once."
            )
    if not targets or not all(targets):
        raise PromptError(
            "Give one or more answers that might have been planted, none of them empty."
        )
    if len(set(targets)) < len(targets):
        raise PromptError("A target stands twice in the list; give each once.")
    if answers is None:
        return
    if len(answers) != len(prompts):
        raise PromptError(
            f"There are {len(answers)} answers for {len(prompts)} prompts; give one for each."
        )
    both = sorted(set(targets) & set(answers))
    if both:
        raise PromptError(
            f"The target {both[0]!r} is the usual answer to a prompt, where it would flip nothing; "
            "leave the target or the prompt out."
        )


def _reads(model: Model, prompts: Sequence[str], text: str) -> bool:
    try:
        Layout.of(model, prompts, text)
    except PromptError:
        return False
    return True


def _best(model: Model, prompts: Sequence[str], texts: Sequence[str], losses: Scores) -> int:
    """The start that ended lowest, of those whose text reads alike in all prompts."""
    for start in np.argsort(losses, kind="stable"):
        if _reads(model, prompts, texts[start]):
            return int(start)
    raise PromptError(
        f"What was found ({texts[int(losses.argmin())]!r}) reads as other tokens in the prompts "
        "that were held out; let what follows {suffix} begin with a space, or give another pool."
    )


def _without(
    model: Model, prompts: Sequence[str], target: str, usual: Sequence[str] | None
) -> Scores:
    """The score of each prompt without a trigger [example]."""
    bare = [prompt.replace(MARKER, "") for prompt in prompts]
    found = score_answers(model, bare, [target] * len(bare))["logprob"].values.astype(np.float64)
    if usual is None:
        return found
    return np.asarray(found - score_answers(model, bare, usual)["logprob"].values)


def _statement(
    targets: Sequence[str],
    triggers: Sequence[str],
    flipped: npt.NDArray[np.bool_],
    random: Scores,
    order: Sequence[int],
    tried: int,
) -> str:
    first, n = order[-1], flipped.shape[1]
    one = f"{triggers[first]!r} brings {targets[first]!r} to {flipped[first].sum():.0f} of {n}"
    said = [f"Of {len(targets)} answers, {one} prompts that were held out"]
    if len(order) > 1:
        next_ = flipped[order[-2]].sum()
        said.append(f"the next answer comes to {next_:.0f} at most" if next_ else "no other comes")
    if random.shape[1]:
        said.append(
            f"random texts of this length bring {targets[first]!r} to {random[first].mean():.0%} "
            f"on average, and to {random[first].max():.0%} at most"
        )
    return f"{'; '.join(said)} ({tried:,} texts run)."
