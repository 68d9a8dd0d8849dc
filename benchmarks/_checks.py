"""Whether a device gives the numbers it should, before anything is timed on it.

Three things are held apart, each with its own tolerance. *Golden*: small models in float32 against
stored answers of reference implementations. *CPU*: GPT-2-small shape in float32, the device against
the CPU. *bfloat16*: the same weights, rounded, in bfloat16 and in float32 on the device.
Differences are relative to the largest number of the expected answers. Where there is a GPU, a
sweep must also come out the same when memory runs out on the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._common import build, gpt2, on_gpu, random_pair, random_pairs
from interp import (
    PromptPairs,
    direct_logit_attribution,
    estimate,
    fit_jacobian_lens,
    load_model,
    logits,
    sweep,
)
from interp.circuits import attribute_edges
from interp.model.model import Model

HEADER = ("numbers", "held against", "differ by at most", "may differ by", "")
# float32: another order of adding, in the same precision. bfloat16 keeps eight bits; a random model
# of twelve blocks loses two of them on the way.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
# Of twelve blocks of random weights, which pass rounding on larger than they got it.
_DEEP = 1e-3

NAMES = ("gpt2", "llama", "neox")
# Stored name: site and axes, in the stored order.
_STORED: dict[str, tuple[str, tuple[str, ...]]] = {
    "resid_pre": ("resid_pre", ("position",)),
    "resid_mid": ("resid_mid", ("position",)),
    "attn_out": ("attn_out", ("position",)),
    "mlp_out": ("mlp_out", ("position",)),
    "head_out": ("z", ("head",)),
    "head_q_by_pos": ("q", ("position", "head")),
    "head_k_by_pos": ("k", ("position", "head")),
    "head_pattern": ("pattern", ("head",)),
}

Line = list[str]


class Wrong(Exception):
    """A device does not give the numbers it should."""


def line(what: str, against: str, found: Any, expected: Any, tolerance: float) -> Line:
    """One line of the table.

    Raises:
        Wrong: the numbers differ by more than the tolerance.
    """
    ours, theirs = (np.asarray(value, dtype=float) for value in (found, expected))
    scale = max(1e-12, float(np.nanmax(np.abs(theirs))))
    apart = float(np.nanmax(np.abs(ours - theirs))) / scale
    same = bool((np.isnan(ours) == np.isnan(theirs)).all())
    if not (same and apart <= tolerance):
        raise Wrong(
            f"{what} differ from {against} by {apart:.1e} of the largest, and {tolerance:.0e} is "
            "what rounding explains; nothing that is timed here would mean anything."
        )
    return [what, against, f"{apart:.1e}", f"{tolerance:.0e}", "✓"]


def golden(folder: Path, device: str, names: Sequence[str] = NAMES) -> Iterator[Line]:
    """Small models in float32 against stored answers."""
    for name in names:
        with np.load(folder / name / "golden.npz", allow_pickle=False) as stored:
            answers = {key: stored[key] for key in stored.files}
        model = load_model(folder / name, device=device, dtype="float32")
        given = (
            torch.from_numpy(answers[k]).long() for k in ("clean", "corrupt", "answer", "wrong")
        )
        pairs = PromptPairs(model, *given)
        found, expected = [], []
        for key, (site, axes) in _STORED.items():
            if f"patch_{key}" in answers:
                result = sweep(model, pairs, site, by=axes)["patched"].mean("example")
                found.append(result.transpose("layer", *axes).values.ravel())
                expected.append(answers[f"patch_{key}"].ravel())
        both = np.concatenate(found), np.concatenate(expected)
        yield line(f"patches of {name}", "TransformerLens, stored", *both, TOLERANCE[model.dtype])
        yield _logits_line(model, answers, name)


def _logits_line(model: Model, answers: dict[str, Any], name: str) -> Line:
    ids = torch.from_numpy(answers["clean"]).long()
    found = logits(model, ids, positions="all").cpu().numpy()
    expected = answers["logits_hf_clean"]
    tolerance = TOLERANCE[model.dtype]
    return line(f"logits of {name}", "Hugging Face, stored", found, expected, tolerance)


def against_cpu(device: str, layers: int, width: int, heads: int, length: int) -> Iterator[Line]:
    """The device against the CPU, float32."""
    found, expected = (
        measured(build(layers, where, torch.float32, width, heads), length)
        for where in (device, "cpu")
    )
    for what, value in found.items():
        yield line(what, "the CPU, float32", value, expected[what], _DEEP)


def measured(model: Model, length: int) -> dict[str, np.ndarray[Any, Any]]:
    """A few instruments of each kind: passes, batches, gradients, closed forms."""
    pairs, few = random_pair(model, length), random_pairs(model, 3, length)
    texts = [" ".join(f"w{i}" for i in row) for row in few.clean.ids[:, 1:].tolist()]
    lens = fit_jacobian_lens(model, texts, skip_first=1, layers=[model.n_layers - 2])
    return {
        "logits": logits(model, few.clean.ids).cpu().numpy(),
        "patches of streams": sweep(model, pairs, "resid_pre")["patched"].values,
        "patches of heads": sweep(model, pairs, "z")["patched"].values,
        "estimates": estimate(model, few, "resid_mid", method="gradient")["patched"].values,
        "edges (EAP-IG)": attribute_edges(model, few, method="eap-ig", steps=2)["score"].values,
        "direct attribution": direct_logit_attribution(model, few)["contribution"].values,
        "Jacobians": np.stack([matrix.cpu().numpy() for matrix in lens.J.values()]),
    }


def against_bfloat16(
    device: str, layers: int, width: int, heads: int, length: int
) -> Iterator[Line]:
    """Equal weights in both precisions on the device."""
    hf_model, tokenizer = gpt2(layers, width, heads, device=device)
    half = hf_model.to(torch.bfloat16)
    model = load_model(half, tokenizer=tokenizer, device=device)
    found = _patched(model, length)
    whole, _ = gpt2(layers, width, heads, device=device)
    exact = load_model(whole.to(torch.bfloat16).float(), tokenizer=tokenizer, device=device)
    expected = _patched(exact, length)
    for what, value in found.items():
        tolerance = TOLERANCE[torch.bfloat16]
        yield line(f"{what}, bfloat16", "float32, same weights", value, expected[what], tolerance)


def _patched(model: Model, length: int) -> dict[str, np.ndarray[Any, Any]]:
    pairs = random_pair(model, length)
    return {
        "logits": logits(model, pairs.clean.ids).float().cpu().numpy(),
        "patches of streams": sweep(model, pairs, "resid_pre")["patched"].values,
    }


def out_of_memory(device: str, layers: int, width: int, heads: int, length: int) -> Iterator[Line]:
    """A sweep whose first batches do not fit, against the same with room enough."""
    model = build(layers, device, torch.float32, width, heads)
    pairs = random_pair(model, length)
    every: dict[str, Any] = {"layers": [0, layers - 1]}
    expected = sweep(model, pairs, "resid_pre", **every)["patched"].values
    with little_memory(model, 6 * model.memory_per_row(length)):
        found = sweep(model, pairs, "resid_pre", batch_size=len(pairs.positions), **every)
    yield line("patches where memory ran out", "with room", found["patched"], expected, _DEEP)


@contextlib.contextmanager
def little_memory(model: Model, left: int) -> Iterator[None]:
    """Inside, PyTorch gets so many bytes more of a GPU, and no more; nothing else is given less."""
    if not on_gpu(str(model.device)):
        yield
        return
    torch.cuda.empty_cache()
    whole = torch.cuda.mem_get_info(model.device)[1]
    used = torch.cuda.memory_allocated(model.device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (used + left) / whole), model.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, model.device)


def found_at(folders: Sequence[Path]) -> Path | None:
    """The first folder with stored answers."""
    return next((folder for folder in folders if (folder / "gpt2" / "golden.npz").is_file()), None)
