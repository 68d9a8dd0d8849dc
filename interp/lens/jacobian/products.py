"""The Jacobians of all of a prompt's tokens at once, carried down through closed blocks.

For each token t of V the matrix G(t) = Σ over t' of V of ∂ h_final(t') / ∂ h(t) is carried, all
d_model rows together. A block's MLP is then one matrix for each token, which is made once instead
of being passed through by every row: with W_in and W_out it takes d² · d_mlp, for what rows alone
take twice (three times, where neurons are gated). In the last block it is G itself. Queries act
through one small matrix for each token and head; keys and values through the pattern.

Only V is computed: what comes before it never depends on what is read of V.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward.attending import Compared
from interp.lens.jacobian.closed import ClosedBlock, Normed

__all__ = ["Attended", "Mixed", "carried"]

# Bytes of weights times slopes that are multiplied at once.
WEIGHT_BYTES = 8 << 20


@dataclass(frozen=True)
class Mixed:
    """The derivatives of one block's MLP, as 1 + Σ of products, at the tokens of some prompts.

    Attributes:
        slopes: of what neurons write, by what is read [token, read].
        read: the stream behind the norm [token, d_model].
        along: what the slopes write of what is read of `read` itself [token, d_model].
    """

    block: ClosedBlock
    slopes: Float[Tensor, "token read"]
    read: Float[Tensor, "token d_model"]
    along: Float[Tensor, "token d_model"]

    @classmethod
    def at(
        cls, block: ClosedBlock, slopes: Tensor, stream: Float[Tensor, "token d_model"]
    ) -> Mixed:
        normed = Normed.of(block.mlp_norm, stream)
        slopes = slopes * normed.inverse_scale
        along = (slopes * (normed.values @ block.mlp_reads.T)) @ block.mlp_writes
        return cls(block, slopes, normed.values, along / stream.shape[1])

    def fill(self, out: Float[Tensor, "token d_model d_model"], piece: int, pieces: int) -> None:
        """One of the pieces into which the matrices of all tokens are divided."""
        n, width = out.shape[:2]
        reads, writes = self.block.mlp_reads, self.block.mlp_writes
        tokens, rows = slice(0, n), slice(0, width)
        if n >= width:
            # Products of weights, which serve all tokens.
            rows = slice(piece * width // pieces, (piece + 1) * width // pieces)
            both = (writes[:, rows, None] * reads[:, None]).flatten(1)
            flat = out.view(n, width * width)[:, rows.start * width : rows.stop * width]
            torch.mm(self.slopes, both, out=flat)
        else:
            tokens = slice(piece * n // pieces, (piece + 1) * n // pieces)
            most = max(1, WEIGHT_BYTES // (writes.numel() * writes.element_size()))
            for start in range(tokens.start, tokens.stop, most):
                some = slice(start, min(start + most, tokens.stop))
                sloped = (writes.T * self.slopes[some, None]).flatten(0, 1)
                torch.mm(sloped, reads, out=out[some].view(-1, width))
        part = out[tokens, rows]
        part.addcmul_(self.along[tokens, rows, None], self.read[tokens, None], value=-1)
        part.diagonal(rows.start, 1, 2).add_(1)


@dataclass(frozen=True)
class Attended:
    """What the attention of one block does with some prompts of one length, whatever the rows.

    `head` runs over heads and prompts; scales of the norm that is read through are in all of it.

    Attributes:
        pattern: [head, source, destination].
        values: [head, source, d_head].
        weighted: the pattern over the scale of the source [head, source, destination].
        put_out: [head and destination, d_head, 1].
        queries: how what is put out changes with the query [head and destination, d_head, d_head].
        keys: what is asked of each source [head and source, destination, d_head].
        read: the stream behind the norm [prompt and token, d_model].
        made: what is made of `read` [head and prompt and token, d_head, 1], all queries first.
    """

    block: ClosedBlock
    prompts: int
    pattern: Float[Tensor, "head source destination"]
    values: Float[Tensor, "head source d_head"]
    weighted: Float[Tensor, "head source destination"]
    put_out: Tensor
    queries: Tensor
    keys: Tensor
    read: Float[Tensor, "token d_model"]
    made: Tensor

    @classmethod
    def at(
        cls,
        block: ClosedBlock,
        stream: Float[Tensor, "example position d_model"],
        compared: Compared,
        skip: int,
    ) -> Attended:
        """
        Args:
            stream: into the block, without padding.
            compared: of the same tokens.
            skip: positions that V leaves out.
        """
        n, length, width = stream.shape
        q, k, v = compared.q, compared.k, compared.v
        inside, d_head = length - skip, q.shape[3]

        def heads_first(value: Tensor) -> Tensor:
            return value.transpose(0, 1).flatten(0, 1)  # [head and prompt, ...]

        q, k, v = heads_first(q[:, :, skip:]), heads_first(k), heads_first(v)
        pattern = heads_first(compared.scores[:, :, skip:].softmax(-1))
        normed = Normed.of(block.attention_norm, stream[:, skip:])
        heads = len(q) // n
        inverse = normed.inverse_scale.expand(n, inside, 1).repeat(heads, 1, 1)
        put_out = pattern @ v
        # What a query's head puts out changes by, through all of its keys: Σ P (v − o) k.
        by_key = (pattern[..., None] * v[:, None]).transpose(2, 3) @ k[:, None]
        by_key -= put_out[..., None] * (pattern @ k)[:, :, None]
        turned = by_key @ block.turn_q[skip:length].transpose(1, 2)
        asked = (q[:, None] @ block.turn_k[skip:length].transpose(1, 2)) * block.scale
        among = pattern[:, :, skip:].transpose(1, 2)
        made = (normed.values.flatten(0, 1) @ block.reads.T).reshape(n * inside, -1, d_head)
        return cls(
            block,
            n,
            among.contiguous(),
            v[:, skip:].contiguous(),
            among * inverse,
            put_out.reshape(-1, d_head, 1),
            (turned * (inverse[..., None] * block.scale)).flatten(0, 1),
            (asked * inverse[..., None]).flatten(0, 1),
            normed.values.reshape(-1, width),
            made.transpose(0, 1).reshape(-1, d_head, 1),
        )

    def backward(
        self, written: Float[Tensor, "token row d_model"]
    ) -> Float[Tensor, "head prompt token row d_head"]:
        """From the rows by what heads write, those by what queries, keys and values read."""
        n, rows, width = written.shape
        heads, inside, d_head = self.values.shape
        n_heads = heads // self.prompts
        by_head = (written.reshape(n * rows, width) @ self.block.writes.T).view(
            self.prompts, inside, rows, n_heads, d_head
        )
        out = by_head.permute(3, 0, 1, 2, 4).contiguous()
        each = out.view(-1, rows, d_head)
        flat = out.view(heads, inside * rows, d_head)
        total = len(self.made) // n
        found = out.new_empty(total, self.prompts, inside, rows, d_head)
        torch.bmm(each, self.queries, out=found[:n_heads].view(-1, rows, d_head))
        compared = torch.bmm(self.values, flat.transpose(1, 2)).view(heads, inside, inside, rows)
        compared -= torch.bmm(each, self.put_out).view(heads, 1, inside, rows)
        compared *= self.pattern[..., None]
        asked = compared.view(-1, inside, rows).transpose(1, 2)
        together = out.view(heads, inside, rows * d_head)
        n_keys = (total - n_heads) // 2
        keys, values = found[n_heads : n_heads + n_keys], found[n_heads + n_keys :]
        if n_keys == n_heads:
            torch.bmm(asked, self.keys, out=keys.view(-1, rows, d_head))
            torch.bmm(self.weighted, together, out=values.view(heads, inside, rows * d_head))
        else:
            shared = (n_keys, n_heads // n_keys, self.prompts, inside, rows, d_head)
            torch.sum(torch.bmm(asked, self.keys).view(shared), 1, out=keys)
            torch.sum(torch.bmm(self.weighted, together).view(shared), 1, out=values)
        return found

    def along(self, found: Tensor) -> Float[Tensor, "prompt token row"]:
        """What the norm's scale takes away, for each row, in units of what is read."""
        heads, prompts, inside, rows, d_head = found.shape
        products = torch.bmm(found.view(-1, rows, d_head), self.made)
        return products.view(heads, prompts, inside, rows).sum(0) / -self.read.shape[1]


def carried(
    attended: Attended,
    mlp: Float[Tensor, "token d_model d_model"],
    rows: slice,
    above: Float[Tensor, "token row d_model"] | None,
    *,
    on: bool,
) -> tuple[Tensor | None, Float[Tensor, "prompt row d_model"]]:
    """Some rows of G through one block.

    Args:
        mlp: each token's matrix, from `Mixed`.
        above: G above the block; None where that is the final stream.
        on: whether blocks below go on with it.

    Returns:
        G below the block, if it is needed, and its mean over each prompt's tokens.
    """
    block, prompts = attended.block, attended.prompts
    n, width = len(mlp), mlp.shape[2]
    inside = n // prompts
    below = mlp[:, rows].clone() if above is None else torch.bmm(above, mlp)
    heard = below
    if block.parallel:
        unit = torch.eye(width, dtype=mlp.dtype)[rows]
        heard = unit.expand(n, *unit.shape) if above is None else above
    found = attended.backward(heard)
    along, read = attended.along(found), attended.read
    count = below.shape[1]
    if on:
        flat = found.permute(1, 2, 3, 0, 4).reshape(n * count, -1)
        below.view(n * count, width).addmm_(flat, block.reads)
        below.baddbmm_(along.reshape(n, count, 1), read[:, None])
        return below, below.view(prompts, inside, count, width).mean(1)
    # Nothing but the mean is read below, and to read is linear.
    flat = found.sum(2).permute(1, 2, 0, 3).reshape(prompts * count, -1)
    total = below.view(prompts, inside, count, width).sum(1)
    total.view(prompts * count, width).addmm_(flat, block.reads)
    total.baddbmm_(along.transpose(1, 2), read.view(prompts, inside, width))
    return None, total / inside
