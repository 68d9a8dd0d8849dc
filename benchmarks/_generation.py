"""Writing, against Hugging Face's own `generate`: greedy, plain and under a change of the stream.

GPT-2-small shape with random weights, float32. Both sides write the same tokens, which is checked,
and take turns, so that a machine that slows down slows both.

    python -m benchmarks._generation [--rows 8] [--prompt 16] [--new 64] [--rounds 3] [--layers 12]
        [--width 768] [--device cpu] [--threads N]
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks._common import describe_machine, gpt2, timed
from interp import Intervention, generate, load_model


def rows(
    n: int, length: int, new: int, rounds: int, layers: int, width: int, device: str
) -> list[dict[str, Any]]:
    """Seconds of both sides (best of `rounds`), and their ratio: plain, and under one change."""
    heads = max(1, width // 64)
    hf, _ = gpt2(layers, width, heads, device=device)
    wrapped, tokenizer = gpt2(layers, width, heads, device=device)
    model = load_model(wrapped, tokenizer=tokenizer, device=device)
    generator = torch.Generator().manual_seed(0)
    even = torch.randint(10, 50_000, (n, length), generator=generator)
    words = [
        " ".join(f"w{int(i)}" for i in row[: length - 1 - k % (length // 2)])
        for k, row in enumerate(even)
    ]
    direction = 3 * torch.randn(width, generator=generator)
    layer = layers // 2
    change = Intervention.add(direction, f"resid_post.{layer}")

    def theirs(prompts: Any) -> Tensor:
        ids, mask = prompts
        written = hf.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
        tokens: Tensor = written[:, ids.shape[1] :]
        return tokens.cpu()

    def ours(prompts: Any, **options: Any) -> Tensor:
        found = generate(model, prompts, max_new_tokens=new, stop_at_eos=False, **options)
        return torch.from_numpy(found.tokens["id"].values)

    left = _padded_on_the_left([model.token_ids(text) for text in words], device)
    equal = (even.to(device), torch.ones_like(even, device=device))
    cases: list[tuple[str, Any, Any, Callable[[], Any], dict[str, Any]]] = [
        ("plain", equal, even, contextlib.nullcontext, {}),
        ("unequal prompts", left, words, contextlib.nullcontext, {}),
        (
            "a direction added",
            equal,
            even,
            lambda: _adding(hf.transformer.h[layer], direction.to(device)),
            {"interventions": change},
        ),
    ]
    found = []
    plain = float("nan")
    for name, their_prompts, our_prompts, hooked, options in cases:
        best = [float("inf"), float("inf")]
        for _ in range(rounds):
            with hooked():
                seconds, expected = timed(lambda p=their_prompts: theirs(p), 1, device)
            best[0] = min(best[0], seconds)
            seconds, tokens = timed(lambda p=our_prompts, o=options: ours(p, **o), 1, device)
            best[1] = min(best[1], seconds)
        if name == "plain":
            plain = best[0]
        found.append(
            {
                "case": name,
                "Hugging Face": best[0],
                "Obverse": best[1],
                "ratio": best[1] / best[0],
                "to plain": best[1] / plain,
                "equal": bool(torch.equal(expected, tokens)),
            }
        )
    return found


def _padded_on_the_left(rows: list[list[int]], device: str) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


@contextlib.contextmanager
def _adding(block: Any, direction: Tensor) -> Iterator[None]:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + direction, *output[1:])
        return output + direction

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(describe_machine(options.device))
    print(f"{options.rows} prompts of {options.prompt} tokens, {options.new} new ones")
    for row in rows(
        options.rows,
        options.prompt,
        options.new,
        options.rounds,
        options.layers,
        options.width,
        options.device,
    ):
        same = "equal tokens" if row["equal"] else "TOKENS DIFFER"
        print(
            f"{row['case']:20} Hugging Face {row['Hugging Face']:6.2f} s   Obverse "
            f"{row['Obverse']:6.2f} s   {row['ratio']:.2f}×   to plain {row['to plain']:.2f}×   "
            f"{same}"
        )


if __name__ == "__main__":
    main()
