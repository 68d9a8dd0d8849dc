"""Candidates of a search for tokens: Obverse beside whole passes, one candidate at a time.

Prompts of unequal length with a suffix of free tokens near their end, and candidates that differ in
one token, as a step of greedy coordinate search (Zou et al. 2023) has them. The other side runs
each candidate as published code does where memory allows one: one pass of Hugging Face's model over
all prompts, padded, of which the answer's positions alone are unembedded. Of these only some are
run, their scores compared with ours, and their time scaled up.

    python -m benchmarks._search
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks._common import build, describe_machine, gpt2, timed
from interp.model.model import Model
from interp.search.goal import Asked
from interp.search.rows import scores

HEADER = ("search", "runs", "one by one", "Obverse", "ratio")
SUFFIX, BEHIND = 8, 4


def words(n: int, generator: torch.Generator) -> str:
    return "".join(f" w{int(i)}" for i in torch.randint(10, 50_000, (n,), generator=generator))


def prompts(n: int, length: int) -> tuple[list[str], list[str]]:
    """Prompts of about `length` tokens with a mark near the end, and answers of one token."""
    generator = torch.Generator().manual_seed(0)
    texts = []
    for i in range(n):
        before = length - SUFFIX - BEHIND - i % 4
        texts.append(words(before, generator).strip() + "{suffix}" + words(BEHIND, generator))
    return texts, [words(1, generator) for _ in range(n)]


def one_by_one(
    hf: torch.nn.Module, asked: Asked, candidates: np.ndarray, device: str
) -> np.ndarray:
    """Log-probability of the answers [candidate, example], a pass for each candidate."""
    (part,) = asked.parts
    row = torch.arange(len(asked.layout))
    last = part.reads[:, 0]
    targets = torch.tensor([ids[0] for ids in asked.layout.following[0]]).to(device)
    out = np.empty((len(candidates), len(row)))
    with torch.no_grad():
        for i, tokens in enumerate(candidates):
            ids = asked.with_tokens(part, tokens.tolist()).to(device)
            hidden = hf.transformer(ids, use_cache=False).last_hidden_state[row, last]
            logits = hf.lm_head(hidden).float().log_softmax(-1)
            out[i] = logits.gather(1, targets[:, None])[:, 0].double().cpu()
    return out


def rows(
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    n_prompts: int = 8,
    length: int = 64,
    n_candidates: int = 64,
    peer_candidates: int = 6,
    repeats: int = 2,
    device: str = "cpu",
) -> list[tuple[str, ...]]:
    """The lines of the table, after `HEADER`."""
    model: Model = build(layers, device, torch.float32, width, heads)
    hf, _ = gpt2(layers, width, heads, device=device)
    texts, answers = prompts(n_prompts, length)
    suffix = words(SUFFIX, torch.Generator().manual_seed(1))
    asked, tokens = Asked.of(model, texts, suffix, answers, None, None)
    rng = np.random.default_rng(0)
    candidates = np.tile(tokens, (n_candidates, 1))
    slots = rng.integers(SUFFIX, size=n_candidates)
    candidates[np.arange(n_candidates), slots] = rng.integers(10, 50_000, n_candidates)
    scores(model, asked, tokens, candidates[:2])  # warm up, and what is tried of the model once
    one_by_one(hf, asked, candidates[:1], device)
    ours, found = timed(lambda: scores(model, asked, tokens, candidates), repeats, device)
    some = candidates[:: max(1, n_candidates // peer_candidates)]
    seconds, expected = timed(lambda: one_by_one(hf, asked, some, device), repeats, device)
    mine = found[:: max(1, n_candidates // peer_candidates)]
    error = float(np.abs(mine - expected).max())
    assert error <= 1e-5 * float(np.abs(expected).max()), error
    theirs = seconds * n_candidates / len(some)
    return [
        (
            f"{n_candidates} candidates × {n_prompts} prompts of {length} tokens, {layers} layers, "
            f"{width} wide",
            f"{n_candidates * n_prompts:,}",
            f"{theirs:.2f} s ({len(some)} candidates run)",
            f"{ours:.2f} s",
            f"**{theirs / ours:.1f}×**",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--small-only", action="store_true", help="leave GPT-2 small's shape out")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    print(describe_machine(given.device))
    print(f"\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    shapes = [(6, 384, 6)] if given.small_only else [(6, 384, 6), (12, 768, 12)]
    for layers, width, heads in shapes:
        for row in rows(
            layers,
            width,
            heads,
            given.prompts,
            given.length,
            given.candidates,
            repeats=given.repeats,
            device=given.device,
        ):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
