"""What a model answers, and how well it knows answers that are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from cache.arguments import typed
from interp.errors import ModelError, PromptError
from interp.forward.interventions import Plan
from interp.forward.passes import no_numbers, observe, readout, record, recording_memory
from interp.generation.writing import Writer
from interp.metrics import target_logprob
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.pairs import continuations, forced
from interp.prompts.tokens import TokenBatch, check_length, tokenise
from interp.sites import Site


@typed
def score_answers(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score one answer for each prompt.

    Args:
        model: the model.
        prompts: texts.
        answers: what might follow each, as written (" Mary Lee Pfeiffer", with its space).
        progress: called with (prompts done, prompts in all).

    Returns:
        (example): logprob of the whole answer, first_logprob and last_logprob of its first and its
        last token, in nats; n_tokens of the answer; rank of its first token (0 is the likeliest);
        correct, whether greedy decoding gives the whole answer.

    Raises:
        PromptError: lists of different lengths, an empty prompt or answer, too long together.
        ModelError: logits are infinite or NaN, which neither have ranks nor are right.
    """
    batch = tokenise(model, prompts)
    if len(answers) != len(batch):
        raise PromptError(f"There are {len(answers)} answers for {len(batch)} prompts.")
    ids = continuations(model, batch, answers)
    reading = forced(batch, ids)
    check_length(model, reading.ids.shape[1], "prompts with their answers")
    last = Site("resid_post", model.n_layers - 1)
    out = {
        name: np.zeros(len(batch), dtype)
        for name, dtype in (
            ("logprob", np.float32),
            ("first_logprob", np.float32),
            ("last_logprob", np.float32),
            ("rank", np.int64),
            ("correct", np.bool_),
        )
    }

    def work(start: int, stop: int) -> None:
        hidden = record(model, reading.ids[start:stop], [last])[last]
        positions = reading.positions[start:stop].to(hidden.device)
        targets = reading.targets[start:stop].to(hidden.device)
        logits = readout(
            model, hidden.gather(1, positions[..., None].expand(-1, -1, model.d_model))
        )
        top = logits.max(-1)  # NaN, if there is any
        wrong = ~(top.values.isfinite() | (targets < 0)).all(1)
        if bool(wrong.any()):
            raise _no_numbers(model, batch, start + int(wrong.cpu().nonzero()[0]))
        best = (top.indices == targets) | (targets < 0)
        first = logits[:, 0].gather(1, targets[:, :1])
        out["logprob"][start:stop] = target_logprob(logits, targets).cpu()
        out["first_logprob"][start:stop] = target_logprob(logits[:, :1], targets[:, :1]).cpu()
        last_read = (targets >= 0).sum(1, keepdim=True) - 1
        out["last_logprob"][start:stop] = target_logprob(
            logits.gather(1, last_read[..., None].expand(-1, -1, logits.shape[-1])),
            targets.gather(1, last_read),
        ).cpu()
        out["rank"][start:stop] = (logits[:, 0] > first).sum(1).cpu()
        out["correct"][start:stop] = best.all(1).cpu()

    width = reading.ids.shape[1]
    reads = 3 * 4 * reading.positions.shape[1] * model.d_vocab
    size = rows_that_fit(model, recording_memory(model, width, 1) + reads)
    for _, stop, _ in batches(len(batch), size, work):
        if progress:
            progress(stop, len(batch))
    variables = {name: ("example", values) for name, values in out.items()}
    variables["n_tokens"] = ("example", np.array([len(i) for i in ids]))
    return xr.Dataset(
        variables,
        coords={"prompt": ("example", list(prompts)), "answer": ("example", list(answers))},
        attrs={
            "instrument": "answer scores",
            **model.identity,
        },
    )


def _no_numbers(model: Model, batch: TokenBatch, example: int) -> ModelError:
    ids = torch.tensor([batch.row(example)])
    return no_numbers(model, batch.texts[example], lambda sites: observe(model, ids, sites))


@typed
def complete(model: Model, prompts: Sequence[str], n_tokens: Sequence[int] | int) -> list[str]:
    """Greedy continuations: for each prompt the `n_tokens` likeliest next tokens, as text.

    Raises:
        PromptError: an empty prompt, or one that leaves no room for the continuation, or not one
            number of tokens for each prompt.
        ModelError: logits are infinite or NaN.
    """
    batch = tokenise(model, prompts)
    wanted = [n_tokens] * len(batch) if isinstance(n_tokens, int) else list(n_tokens)
    if len(wanted) != len(batch) or min(wanted) < 0:
        raise PromptError(
            f"There are {len(wanted)} numbers of tokens for {len(batch)} prompts; give one for "
            "each, 0 or more."
        )
    longest = max(wanted)
    check_length(model, int(batch.lengths.max()) + longest - 1, "prompts with their continuations")
    limits = torch.tensor(wanted)
    writer = Writer(model, batch, limits, dice=None, changes=Plan(model, (), {}))
    found: list[list[int]] = [[] for _ in wanted]
    for rows in writer.portions():
        for step in writer.steps(rows):
            for example, token in zip(step.examples, step.ids.tolist(), strict=True):
                found[example].append(token)
    return [model.decode(ids) for ids in found]
