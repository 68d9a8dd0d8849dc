"""The same patches by other libraries, as their own documentation has them done."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp import PromptPairs
from interp.model.model import Model

HAS_NNSIGHT = importlib.util.find_spec("nnsight") is not None


def transformer_lens(
    model: Model, pairs: PromptPairs, site: str, cells: list[tuple[int, int]]
) -> np.ndarray:
    """The logit difference after each patch at (layer, position), or (layer, head) at "z" [cell].

    TransformerLens runs the whole prompt once for each cell.
    """
    from transformer_lens import patching

    bridge = model.bridge
    clean, corrupt = (tokens.ids.to(model.device) for tokens in (pairs.clean, pairs.corrupt))
    answer, foil = pairs.first_tokens("answer"), pairs.first_tokens("foil")

    def metric(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1].float()
        return (last[:, answer[0]] - last[:, foil[0]]).mean()

    setter, axis = {
        "resid_pre": (patching.layer_pos_patch_setter, "pos"),
        "z": (patching.layer_head_vector_patch_setter, "head_index"),
    }[site]
    # Its progress bar cannot be turned off.
    quiet = contextlib.redirect_stderr(io.StringIO())
    with torch.no_grad(), warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        name = f"hook_{site}" if site == "resid_pre" else f"attn.hook_{site}"
        _, cache = bridge.run_with_cache(clean, names_filter=lambda hook: hook.endswith(name))
        found = patching.generic_activation_patch(
            bridge,
            corrupt,
            cache,
            metric,
            setter,
            activation_name=site,
            index_df=pd.DataFrame(cells, columns=["layer", axis]),
        )
    return np.asarray(found.float().cpu())


def nnsight(hf_model: Any, tokenizer: Any) -> Any:
    """nnsight's wrapper around a GPT-2 of Hugging Face."""
    from nnsight import TransformersModel

    tokenizer.pad_token = tokenizer.bos_token
    return TransformersModel(hf_model, tokenizer=tokenizer, task="text-generation")


def nnsight_residual(
    wrapped: Any, pairs: PromptPairs, cells: list[tuple[int, int]], invokes: int
) -> np.ndarray:
    """The logit difference after each patch of the stream at (layer, position) [cell].

    Up to `invokes` cells of one layer go into one trace, which runs them as one batch.
    """
    device = next(wrapped._module.parameters()).device
    clean, corrupt = (tokens.ids.to(device) for tokens in (pairs.clean, pairs.corrupt))
    answer, foil = int(pairs.first_tokens("answer")[0]), int(pairs.first_tokens("foil")[0])
    scores: dict[tuple[int, int], torch.Tensor] = {}
    with torch.no_grad():
        with wrapped.trace(clean):
            streams = list().save()  # noqa: C408 (a plain [] cannot be saved)
            for block in wrapped.transformer.h:
                streams.append(block.input)
        for layer in sorted({layer for layer, _ in cells}):
            mine = [position for other, position in cells if other == layer]
            for start in range(0, len(mine), invokes):
                part = mine[start : start + invokes]
                with wrapped.trace() as tracer:
                    last = list().save()  # noqa: C408
                    for position in part:
                        with tracer.invoke(corrupt):
                            stream = wrapped.transformer.h[layer].input
                            stream[:, position] = streams[layer][:, position]
                            last.append(wrapped.lm_head.output[0, -1])
                for position, logits in zip(part, last, strict=True):
                    scores[layer, position] = logits[answer] - logits[foil]
    return np.array([float(scores[cell]) for cell in cells])
