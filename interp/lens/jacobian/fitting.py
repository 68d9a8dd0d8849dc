"""Fitting a Jacobian lens (Gurnee et al. 2026, "Verbalizable Representations Form a Global
Workspace in Language Models") on texts, with the estimator of the paper's code.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from cache.arguments import typed
from interp.errors import ModelError, PromptError
from interp.forward.passes import TOLERANCE, record, relative_error
from interp.lens.jacobian.carrying import carrying
from interp.lens.jacobian.gradients import work_for
from interp.lens.jacobian.lens import JacobianLens
from interp.lens.jacobian.partial import Folder, Sums
from interp.model.memory import batches
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.corpus import read_rows
from interp.prompts.tokens import tokenise
from interp.sites import Site

__all__ = ["fit_jacobian_lens"]

_CONTEXT = 128  # as the paper's code and TransformerLens cut their prompts


@typed
def fit_jacobian_lens(
    model: Model,
    prompts: Path | str | Iterable[str] | Int[Tensor, "example position"],
    *,
    layers: Sequence[int] | None = None,
    embedding: bool = True,
    skip_first: int = 16,
    context: int | None = None,
    tokens: int | None = None,
    folder: Path | str | None = None,
    progress: Progress | None = None,
) -> JacobianLens:
    """Take the mean, over prompts, of the Jacobian of the final stream by every layer's.

    Nothing is drawn at random, and each prompt counts the same: the estimator, and on the same
    prompts the matrices, are those of TransformerLens and of the paper's code. A hundred prompts of
    128 tokens are usable, says the paper; `lens.spread()` tells how well each matrix is known.

    Args:
        model: the model.
        prompts: texts or token ids, each a prompt of which the first `context` tokens are read; or
            a file (.txt, .jsonl, .parquet; see `interp.prompts.corpus.read_rows`), cut into
            prompts of `context` tokens.
        layers: after which blocks; after all but the last if left out, which needs no matrix.
        embedding: whether to fit the embedding as well, which TransformerLens leaves out.
        skip_first: positions at the start of each prompt that are left out, because streams there
            are not like others; the last one always is. Shorter prompts are skipped.
        context: tokens of a prompt; 128, or as many as the model takes, if left out.
        tokens: how many of the texts to use, about; all if left out.
        folder: where the lens is saved, as "lens.pt". What is done is saved there every few
            seconds: stopped at any moment, the same call goes on from there, and when it was
            finished, returns what it made.
        progress: called with (rows of the prompts' Jacobians done, in all).

    Raises:
        PromptError: no prompt is long enough, or a setting is out of range.
        ModelError: the model has one block, is not causal, or its gradients are not finite.
        StorageError: the folder holds another fit, or cannot be written.
    """
    blocks = _blocks(model, layers)
    length = min(_CONTEXT, model.n_ctx) if context is None else context
    if skip_first < 0:
        raise PromptError(f"The first {skip_first} positions cannot be left out; give 0 or more.")
    if not skip_first + 2 <= length <= model.n_ctx:
        raise PromptError(
            f"Prompts of {length} tokens have no position to fit on at {model.name}; choose a "
            f"context from {skip_first + 2} to {model.n_ctx}, or a smaller skip_first."
        )
    rows = _rows(model, prompts, length, tokens, skip_first)
    digest = hashlib.sha256(
        b"".join(len(ids).to_bytes(8, "big") + str(list(ids)).encode() for ids in rows)
    )
    settings: dict[str, Any] = {
        "fingerprint": model.fingerprint,
        "rows": digest.hexdigest()[:32],
        "skip_first_positions": skip_first,
        "max_seq_len": length,
        "layers": blocks,
        "embedding": embedding,
    }
    saved = Folder.of(folder, settings)
    if saved and (finished := saved.finished(model)):
        return finished
    if model.dtype in (torch.float16, torch.bfloat16):
        warnings.warn(
            f"Gradients of {model.name} are rounded to {str(model.dtype).removeprefix('torch.')}; "
            "load it in float32 for the lens as it is.",
            stacklevel=2,
        )
    record(model, torch.tensor([rows[0]]), [])  # checks that blocks can be run apart, once
    model.once("causal", lambda: _check_causal(model, rows[0]))
    wanted = [0] * embedding + [block + 1 for block in blocks]
    # Gradients are wanted, wherever this is called.
    with torch.inference_mode(False):
        sums = Sums.none(len(wanted), model.d_model)
        if saved:
            saved.read(sums, len(rows))
        _fit(model, wanted, rows, skip_first, sums, saved, progress)
        lens = _lens(model, wanted, sums, settings)
    if saved:
        saved.finish(lens)
    return lens


def _fit(
    model: Model,
    layers: Sequence[int],
    rows: Sequence[Sequence[int]],
    skip_first: int,
    sums: Sums,
    saved: Folder | None,
    progress: Progress | None,
) -> None:
    """Add the prompts that are not in the sums yet."""
    first, total, width = sums.done, len(rows) * model.d_model, model.d_model
    if first >= len(rows):
        return
    compute = carrying(model, layers, skip_first, rows[first:]) or work_for(
        model, layers, skip_first, len(rows) - first, max(map(len, rows))
    )

    def work(start: int, stop: int) -> None:
        def told(done: int) -> None:
            if progress:
                # The last row is told when it is in the sums.
                progress((first + start) * width + (stop - start) * min(done, width - 1), total)

        found = compute(rows[first + start : first + stop], told)
        if not bool(torch.isfinite(found.total).all()):
            raise ModelError(
                f"The gradients of {model.name} are not finite, so it has no Jacobian lens; load "
                "it in float32."
            )
        sums.total += found.total
        sums.squares += found.squares
        sums.done += stop - start

    try:
        for _ in batches(len(rows) - first, compute.prompts_at_once, work):
            if saved:
                saved.write(sums)
            if progress:
                progress(sums.done * width, total)
    except BaseException:
        if saved and sums.done > first:
            saved.write(sums, now=True)
        raise


def _lens(
    model: Model, layers: Sequence[int], sums: Sums, settings: dict[str, Any]
) -> JacobianLens:
    means = {layer: sums.total[i] / sums.done for i, layer in enumerate(layers)}
    errors = {
        str(layer): error if error == error else None
        for layer, error in zip(layers, sums.standard_error().tolist(), strict=True)
    }
    # What others look for in a lens, by the names that TransformerLens gives it.
    notes: dict[str, Any] = {
        **model.identity,
        **settings,
        "estimator": "jacobian_lens",
        "n_prompts": sums.done,
        "standard_error": errors,
        "target_layer": model.n_layers - 1,
        "hook_convention": "blocks.{layer}.hook_out",
        "processing": {"compatibility_mode": False, "weight_basis": "raw_huggingface"},
        "fit_dtype": str(model.dtype).removeprefix("torch."),
    }
    start = means.pop(0, None)
    return JacobianLens({layer - 1: mean for layer, mean in means.items()}, sums.done, notes, start)


def _blocks(model: Model, layers: Sequence[int] | None) -> list[int]:
    if model.n_layers < 2:
        raise ModelError(
            f"{model.name} has a single block, after which the logit lens is the model itself; "
            "there is nothing to fit."
        )
    most = model.n_layers - 2
    given = list(range(most + 1) if layers is None else layers)
    if not given or any(isinstance(i, bool) or not isinstance(i, Integral) for i in given):
        raise PromptError("Name one block or more by its number, or leave the layers out.")
    found = sorted({int(layer) for layer in given})
    wrong = [layer for layer in found if not 0 <= layer <= most]
    if wrong:
        raise PromptError(
            f"There is no Jacobian to fit after block {wrong[0]} of {model.name}; choose from 0 "
            f"to {most}: the last block needs none."
        )
    return found


def _rows(
    model: Model,
    prompts: Path | str | Iterable[str] | Tensor,
    length: int,
    tokens: int | None,
    skip_first: int,
) -> list[list[int]]:
    """Token ids of prompts that are long enough, the shortest first."""
    if isinstance(prompts, Path | str):
        found = [r.tolist() for r in read_rows(model, prompts, context=length, tokens=tokens)]
    else:
        found = _listed(model, prompts, length)
        if tokens is not None:
            ends = torch.tensor([len(ids) for ids in found]).cumsum(0)
            found = found[: int((ends <= tokens).sum())]
    rows = [ids for ids in found if len(ids) >= skip_first + 2]
    if not rows:
        raise PromptError(
            f"No prompt has the {skip_first + 2} tokens that are needed with "
            f"skip_first={skip_first}; give longer ones, more of them, or a smaller skip_first."
        )
    if len(rows) < len(found):
        warnings.warn(
            f"{len(found) - len(rows):,} of {len(found):,} prompts have fewer than "
            f"{skip_first + 2} tokens and are left out.",
            stacklevel=4,
        )
    # Prompts of one length share a batch without padding; their sum knows no order.
    return sorted(rows, key=len)


def _listed(model: Model, prompts: Iterable[str] | Tensor, length: int) -> list[list[int]]:
    if isinstance(prompts, Tensor):
        batch = tokenise(model, prompts)
        return [batch.row(i)[:length] for i in range(len(batch))]
    texts = list(prompts)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise PromptError("There are no prompts, or one is no text; give texts, at least one.")
    return [ids[:length] for ids, _ in model.encode(texts, what="prompts")]


def _check_causal(model: Model, row: Sequence[int]) -> None:
    """See that a token leaves the streams before it as they are; tried once."""
    last = Site("resid_post", model.n_layers - 1)
    ids = torch.tensor([row, [*row[:-1], (row[-1] + 1) % model.d_vocab]])
    streams = record(model, ids, [last])[last][:, :-1]
    if relative_error(streams[1], streams[0]) > TOLERANCE[model.dtype]:
        raise ModelError(
            f"In {model.name} a token changes what was computed at tokens before it; a Jacobian "
            "lens needs a causal model."
        )
