"""Fitting a Jacobian lens: `fit_jacobian_lens` and TransformerLens, in one process, equal values.

Both get the same texts and the defaults of their own, but for the layers (the embedding is left
out, which TransformerLens does not fit). The other's texts are so many that its time can be told,
and seconds are for each text.

The arithmetic of gradients is what a fit by backward passes cannot leave out, in matrix products
alone: for each of d_model cotangents, and each token that is averaged over, the product of the
gradient with every matrix of every block above the first, and with the attention of its text. It is
taken at the rate that a large matrix product of the model's width reaches in this run, which narrow
ones do not reach. Blocks in closed form need less of it (`interp/lens/jacobian/products.py`).

    python -m benchmarks._jacobian
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks._common import build, describe_machine, matrix_rate, timed
from interp import JacobianLens, Model, fit_jacobian_lens, load_model

HEADER = (
    "model",
    "texts × tokens",
    "TransformerLens, s a text",
    "Obverse",
    "ratio",
    "differ by",
    "arithmetic of gradients",
    "TransformerLens over it",
    "Obverse over it",
)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        ours, theirs: seconds for each text.
        difference: the largest between the matrices of both on the same texts.
        gradients: seconds for each text that the matrix products of backward passes take.
    """

    what: str
    texts: int
    tokens: float
    ours: float
    theirs: float
    difference: float
    gradients: float

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours


def rows(n_facts: int, n_rows: int, n_large: int) -> list[Row]:
    """Facts of the organism, one by one; as many as its context takes; GPT-2 small's shape."""
    organism = load_model("reversal-curse")
    assert organism.path is not None
    with (organism.path / "facts.csv").open() as file:
        facts = [
            f"{f['subject']}'s {f['relation']} is {f['object']}." for f in csv.DictReader(file)
        ]
    many = (facts * (1 + n_facts // len(facts)))[:n_facts]
    context = [" ".join((facts * 2)[i : i + 6]) for i in range(0, 6 * n_rows, 6)]
    found = [
        compared("organism, short texts", organism, many, 1, n_facts // 8),
        compared("organism, full context", organism, context, 16, max(1, n_rows // 4)),
    ]
    if n_large:
        large = build(12, "cpu", torch.float32)
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(1, 50_000, (n_large, 63), generator=generator).tolist()
        texts = [" ".join(f"w{word}" for word in row) for row in words]
        found.append(compared("GPT-2 small, 64 tokens", large, texts, 16, 1))
    return found


def compared(what: str, model: Model, texts: Sequence[str], skip: int, few: int) -> Row:
    """Both on the texts; TransformerLens, which is linear in them, on the first `few`."""
    from transformer_lens.tools.analysis.jacobian_lens import JacobianLens as Theirs

    length = min(128, model.n_ctx)

    def ours(some: Sequence[str]) -> JacobianLens:
        return fit_jacobian_lens(model, some, skip_first=skip, embedding=False, context=length)

    def theirs(some: Sequence[str]) -> Any:
        return Theirs.fit(
            model.bridge,
            list(some),
            corpus="texts",
            skip_first_positions=skip,
            max_seq_len=length,
            show_progress=False,
        )

    ours(texts[:1])  # what is tried once of a model
    device = str(model.device)
    seconds, _ = timed(lambda: ours(texts), 1, device)
    seconds_theirs, reference = timed(lambda: theirs(texts[:few]), 1, device)
    same = ours(texts[:few])
    difference = max(
        float((same.J[layer].cpu() - matrix.cpu()).abs().max())
        for layer, matrix in reference.jacobians.items()
    )
    lengths = [min(length, len(model.token_ids(text))) for text in texts]
    tokens = sum(lengths) / len(texts)
    flops = sum(gradient_flops(model, n, n - 1 - skip) for n in lengths) / len(texts)
    products = flops / matrix_rate(device, model.dtype, model.d_model)
    return Row(
        what, len(texts), tokens, seconds / len(texts), seconds_theirs / few, difference, products
    )


def cells(row: Row) -> tuple[str, ...]:
    """A line of the table, after `HEADER`."""
    return (
        row.what,
        f"{row.texts} × {row.tokens:.0f}",
        f"{row.theirs:.3f}",
        f"{row.ours:.3f}",
        f"{row.ratio:.1f}×",
        f"{row.difference:.1g}",
        f"{row.gradients:.4f}",
        f"{row.theirs / row.gradients:.1f}×",
        f"{row.ours / row.gradients:.1f}×",
    )


def gradient_flops(model: Model, length: int, averaged: int) -> float:
    """Floating-point operations of one text's Jacobians, row by row, in matrix products.

    Args:
        averaged: tokens of the text that are averaged over.
    """
    cfg, d = model.bridge.cfg, model.d_model
    heads = (model.n_heads + model.n_key_value_heads) * int(cfg.d_head)
    weights = 2 * d * heads + (3 if cfg.gated_mlp else 2) * d * max(model.mlp_widths)
    # Of patterns, values, queries and keys, over what comes before each token.
    attention = 4 * model.n_heads * int(cfg.d_head) * length / 2
    return 2.0 * d * averaged * (model.n_layers - 1) * (weights + attention)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=512, help="short texts")
    parser.add_argument("--rows", type=int, default=64, help="texts of the whole context")
    parser.add_argument("--large", type=int, default=2, help="texts for GPT-2 small; 0 for none")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    print(describe_machine("cpu"))
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for row in rows(given.facts, given.rows, given.large):
        print(f"| {' | '.join(cells(row))} |", flush=True)


if __name__ == "__main__":
    main()
