"""Edge attribution against TransformerLens' own, and what a faithfulness curve costs.

GPT-2-small shape, random weights, float32. First, equal answers are checked: EAP with one gradient,
by both sides on the same pairs. Then EAP-IG with its steps is timed against TransformerLens' EAP of
one, and a whole faithfulness curve: ten sizes, each with its complement and random circuits.

    python -m benchmarks.circuits [--length 15] [--layers 12] [--pairs 20] [--theirs 4] [--steps 5]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks._common import build, describe_machine, random_pairs, timed
from interp import PromptPairs
from interp.circuits import attribute_edges, faithfulness_curve, prune
from interp.model.model import Model

HEADER = ("edges", "a pair", "against TransformerLens' EAP")


def theirs(
    model: Model, clean: torch.Tensor, corrupt: torch.Tensor
) -> dict[tuple[str, str], float]:
    """TransformerLens' EAP, positions added up, under the names of our edges."""
    from transformer_lens.tools.analysis import attribution_patching

    # It needs a graph, which frozen weights do not make; the embedding's is enough for one.
    embedding = model.bridge.original_model.get_input_embeddings().weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embedding.requires_grad_(True)
        found = attribution_patching.attribution_patch(
            model.bridge,
            clean.to(model.device),
            corrupt.to(model.device),
            lambda logits: logits[0, -1, 5] - logits[0, -1, 6],
            attribution_patching.EdgeAttributionConfig(granularity="edge"),
        )
    embedding.requires_grad_(False)
    scores: dict[tuple[str, str], float] = {}
    for (writer, reader), score in found.edge_scores.items():
        edge = (_name(writer), _name(reader))
        scores[edge] = scores.get(edge, 0.0) + score
    return scores


def _name(node: Any) -> str:
    if node.kind == "embed":
        return "input"
    if node.kind in ("mlp_in", "mlp_out"):
        return f"m{node.layer}"
    if node.kind == "logits":
        return "logits"
    suffix = "" if node.kind == "attn_head_out" else f".{node.kind[0]}"
    return f"a{node.layer}.h{node.head}{suffix}"


def check(model: Model, clean: torch.Tensor, corrupt: torch.Tensor, expected: Any) -> float:
    """Largest difference of the two sides' EAP, relative to the largest score."""
    # Theirs is the gradient in the corrupted run, times what is clean minus what is corrupted.
    answers = (torch.full((len(clean),), token) for token in (5, 6))
    pairs = PromptPairs(model, corrupt, clean, *answers)
    ours = -attribute_edges(model, pairs, method="eap")["score"]
    error = max(
        abs(float(ours.sel(source=s, destination=d)) - value) for (s, d), value in expected.items()
    )
    assert len(expected) == int(np.isfinite(ours).sum())
    return error / float(np.abs(ours).max())


def edges(
    model: Model, pairs: PromptPairs, few: int, steps: int, repeats: int, only_ours: bool = False
) -> Iterator[tuple[list[str], Any]]:
    """The lines of the table, after `HEADER`, each with what was found, if it is ours.

    Args:
        few: pairs that TransformerLens runs.
    """
    device, n = str(model.device), len(pairs)
    their_time = float("nan")
    if not only_ours:
        some = pairs.clean.ids[:few], pairs.corrupt.ids[:few]
        theirs(model, *(ids[:1] for ids in some))  # warm up
        their_time, expected = timed(lambda: theirs(model, *some), 1, device)
        their_time /= few
        error = check(model, *some, expected)
        assert error < 1e-4, error
        agree = f"both agree to {error:.1e} of the largest score"
        yield ["TransformerLens EAP, 1 gradient", f"{their_time:.3f} s", agree], None
    for method in ("eap", "eap-ig", "eap-ig-activations"):

        def work(method: Any = method) -> Any:
            return attribute_edges(model, pairs, method=method, steps=steps)

        seconds, found = timed(work, 1 if method == "eap-ig-activations" else repeats, device)
        seconds /= n
        what = f"{method}, {steps} steps" if "ig" in method else method
        yield [what, f"{seconds:.3f} s", f"**{their_time / seconds:.1f}×**"], found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=15)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--theirs", type=int, default=4, help="pairs that TransformerLens runs")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--random", type=int, default=3, help="random circuits of each size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only-ours", action="store_true")
    arguments = parser.parse_args()
    device = arguments.device
    print(describe_machine(device))
    model = build(arguments.layers, device, torch.float32)
    pairs = random_pairs(model, arguments.pairs, arguments.length)
    few = min(arguments.theirs, arguments.pairs)
    print(f"\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    scores = None
    given = few, arguments.steps, arguments.repeats, arguments.only_ours
    for cells, found in edges(model, pairs, *given):
        scores = found if cells[0].startswith("eap-ig,") else scores
        print(f"| {' | '.join(cells)} |", flush=True)
    seconds, curve = timed(
        lambda: faithfulness_curve(model, pairs, scores, n_random=arguments.random), 1, device
    )
    n = 2 + len(curve["fraction"]) * (2 + arguments.random)
    print(
        f"\nfaithfulness curve, {len(curve['fraction'])} sizes, {n} circuits × {arguments.pairs} "
        f"pairs: {seconds:.1f} s"
    )
    print(f"edges left of 200 chosen: {len(prune(scores, 200))}")


if __name__ == "__main__":
    main()
