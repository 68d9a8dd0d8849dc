"""Module swaps between two models, beside a whole pass of a model with copied weights for each.

python -m benchmarks._comparison            # a few minutes on a laptop's CPU
python -m benchmarks._comparison --small    # seconds, to see that it runs
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks._common import describe_machine, timed, word_tokenizer
from interp import load_model
from interp.comparison import swap_modules
from interp.model.model import Model

N_WORDS = 500


def rows(device: str, *, small: bool = False) -> list[dict[str, Any]]:
    """Seconds of both, how often ours is faster, and the largest difference of their numbers."""
    found = []
    for layers, width, examples, length in ((4, 64, 2, 8),) if small else ((12, 512, 8, 15),):
        hf = [_build(layers, width, seed) for seed in range(2)]
        tokenizer = word_tokenizer(N_WORDS)
        base, tuned = (
            load_model(copy.deepcopy(one), tokenizer=tokenizer, device=device) for one in hf
        )
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, N_WORDS, (examples, length), generator=generator)
        answers, foils = torch.full((examples,), 3), torch.full((examples,), 4)

        def ours(
            base: Model = base,
            tuned: Model = tuned,
            ids: torch.Tensor = ids,
            answers: torch.Tensor = answers,
            foils: torch.Tensor = foils,
        ) -> Any:
            return swap_modules(base, tuned, ids, answers=answers, foils=foils)

        def theirs(hf: list[Any] = hf, ids: torch.Tensor = ids) -> np.ndarray[Any, Any]:
            return _by_copying([one.to(device) for one in hf], ids.to(device))

        ours()  # what is tried on a model is tried once
        quick, result = timed(ours, 3, device)
        slow, expected = timed(theirs, 3, device)
        swapped = result["swapped"].transpose("into", "order", "part", "example").values
        found.append(
            {
                "model": f"{layers} layers, d_model {width}",
                "hybrids": expected[..., 0].size,
                "examples": examples,
                "ours_s": quick,
                "copying_s": slow,
                "times": slow / quick,
                "off": float(np.abs(swapped - expected).max()),
            }
        )
    return found


def _build(layers: int, width: int, seed: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=N_WORDS,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def _parts(layers: int) -> list[tuple[str, ...]]:
    """The beginnings of the names of each part's weights."""
    blocks: list[tuple[str, ...]] = []
    for i in range(layers):
        block = f"model.layers.{i}."
        blocks.append((f"{block}input_layernorm", f"{block}self_attn"))
        blocks.append((f"{block}post_attention", f"{block}mlp"))
    return [("model.embed_tokens",), *blocks, ("model.norm",), ("lm_head",)]


@torch.no_grad()
def _by_copying(hf: list[Any], ids: torch.Tensor) -> np.ndarray[Any, Any]:
    """[into, order, part, example]: weights are exchanged, and the whole model is run."""
    weights = [dict(one.named_parameters()) for one in hf]
    parts = _parts(hf[0].config.num_hidden_layers)
    kept = [{name: w.detach().clone() for name, w in one.items()} for one in weights]
    out = np.zeros((2, 3, len(parts), len(ids)), np.float32)
    for into in range(2):
        for number in range(len(parts)):
            for order, some in enumerate(
                (parts[number : number + 1], parts[: number + 1], parts[number:])
            ):
                prefixes = tuple(prefix for part in some for prefix in part)
                names = [name for name in kept[into] if name.startswith(prefixes)]
                for name in names:
                    weights[into][name].copy_(kept[1 - into][name])
                logits = hf[into](ids, use_cache=False).logits[:, -1]
                out[into, order, number] = (logits[:, 3] - logits[:, 4]).cpu().numpy()
                for name in names:
                    weights[into][name].copy_(kept[into][name])
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    settings = parser.parse_args(arguments)
    print(describe_machine(settings.device))
    for row in rows(settings.device, small=settings.small):
        print(
            f"{row['model']}, {row['examples']} prompts, {row['hybrids']} hybrids: swap_modules "
            f"{row['ours_s']:.2f} s, weights copied and whole passes {row['copying_s']:.2f} s "
            f"({row['times']:.1f} times), apart by at most {row['off']:.1e}"
        )


if __name__ == "__main__":
    main()
