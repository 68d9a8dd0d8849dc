"""Blocks whose derivatives are known in closed form, from weights and what a run shows.

A block that adds a softmax attention and an MLP, each reading the stream behind a norm, has few
things in its derivative that are not matrices of the model: the slopes of neurons, patterns and
what they compare, and the scales of norms. These are of tokens alone, so that they are found once
for all cotangents. What a block is made of is told by `Components`, from its own numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.components.components import PROJECTIONS, Components
from interp.components.linear import affine
from interp.components.norms import Norm, closed_norm
from interp.forward.attending import Compared, attending
from interp.forward.hooks import passing
from interp.forward.packing import find, runs_as
from interp.forward.passes import Recording, resume
from interp.model.model import Model

__all__ = ["ClosedBlock", "Normed"]

# Of scores that are compared to products of queries and keys.
_MASKED = -1e4
_SAME = 1e-4


@dataclass(frozen=True)
class Normed:
    """Streams behind a norm, but for its gain and shift.

    Attributes:
        values: [... d_model].
        inverse_scale: one over what was divided by [... 1].
    """

    values: Float[Tensor, "... d_model"]
    inverse_scale: Float[Tensor, "... 1"]

    @classmethod
    def of(cls, norm: Norm, stream: Float[Tensor, "... d_model"]) -> Normed:
        mean, inverse_scale = norm.moments(stream)
        return cls((stream - mean) * inverse_scale, inverse_scale)


@dataclass(frozen=True)
class ClosedBlock:
    """One block.

    Norms' gains are in the matrices that read behind them, and their centring.

    Attributes:
        parallel: whether the MLP reads what the attention reads.
        attention_norm, mlp_norm: what they read through.
        reads: of queries, keys and values [head and d_head, d_model].
        writes: of heads [head and d_head, d_model].
        mlp_reads: of neurons; of gated ones twice [read, d_model].
        mlp_writes: for each of these what its neuron writes [read, d_model].
        turn_q, turn_k: how a position turns queries and keys [position, d_head, d_head].
        scale: of scores.
    """

    components: Components
    layer: int
    parallel: bool
    attention_norm: Norm
    mlp_norm: Norm
    reads: Float[Tensor, "read d_model"]
    writes: Float[Tensor, "write d_model"]
    mlp_reads: Float[Tensor, "neuron d_model"]
    mlp_writes: Float[Tensor, "neuron d_model"]
    turn_q: Float[Tensor, "position d_head d_head"]
    turn_k: Float[Tensor, "position d_head d_head"]
    scale: float

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        components: Components,
        layer: int,
        recording: Recording,
        compared: Compared,
        stream: Float[Tensor, "example position d_model"],
    ) -> ClosedBlock | None:
        """None where the block is built in another way.

        Args:
            recording, compared: of a run of the longest prompt.
            stream: into the block.
        """
        model, d_model = components.model, components.model.d_model
        block = model.bridge.blocks[layer]
        attention_norm = components.attention_norm(layer)
        if attention_norm is None or components.heads_behind_norm(layer):
            return None
        writes = components.output_weights(layer).flatten(0, 1)
        z = (compared.scores.softmax(-1) @ compared.v).transpose(1, 2)
        mid = stream
        if components.mlp_reads_mid:
            mid = stream + components.attention_out(layer, z)
        mlp_norm = closed_norm(model, lambda read: components.normed(layer, "mlp", read), mid)
        readers = [find(block, f"mlp.{name}") for name in ("gate", "in")]
        out = find(block, "mlp.out")
        scale = _scale(compared)
        if mlp_norm is None or readers[1] is None or out is None or scale is None:
            return None
        with model.lock:
            into = [affine(reader, d_model, stream)[0].T for reader in readers if reader]
            neurons = len(into[0])
            matrix = affine(out, neurons, stream)[0]
        if any(len(one) != neurons for one in into):
            return None
        writer = components.neurons(layer, matrix)
        if writer.norm is not None:
            return None
        heads = [components.input_weights(layer, name)[0] for name in PROJECTIONS]
        reads = torch.cat([matrix.transpose(1, 2).flatten(0, 1) for matrix in heads])
        turn_q, turn_k = _turns(model, layer, recording, stream)
        return cls(
            components,
            layer,
            not components.mlp_reads_mid,
            attention_norm,
            mlp_norm,
            _folded(attention_norm, reads),
            writes.contiguous(),
            _folded(mlp_norm, torch.cat(into)),
            torch.cat([writer.folded[0]] * len(into)).contiguous(),
            turn_q,
            turn_k,
            scale,
        )

    def slopes(self, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token read"]:
        """How each neuron's output changes with what it reads by each of its matrices.

        Args:
            stream: what the MLP reads, before its norm.
        """
        block = self.components.model.bridge.blocks[self.layer]
        readers = filter(None, (find(block, f"mlp.{name}") for name in ("gate", "in")))
        made: list[Tensor] = []
        neurons: list[Tensor] = []

        @passing
        def keep(_module: object, _args: object, output: Tensor) -> None:
            made.append(output)

        @passing
        def put_out(_module: object, args: tuple[Tensor, ...]) -> None:
            neurons.append(args[0])

        with contextlib.ExitStack() as stack, torch.enable_grad():
            stack.enter_context(self.components.model.lock)
            for module in readers:
                stack.callback(module.register_forward_hook(keep).remove)
            stack.callback(find(block, "mlp.out").register_forward_pre_hook(put_out).remove)
            leaf = stream.detach().requires_grad_()
            self.components.mlp(self.layer, leaf)
            # Each neuron reads numbers of its own, so that the sum has the slope of each.
            found = torch.autograd.grad(neurons[0].sum(), made)
        return torch.cat([slope.reshape(len(stream), -1) for slope in found], 1)


def _folded(norm: Norm, reads: Float[Tensor, "read d_model"]) -> Float[Tensor, "read d_model"]:
    gained = reads * norm.gain
    return gained - gained.mean(1, keepdim=True) if norm.centred else gained.contiguous()


def _scale(compared: Compared) -> float | None:
    """What products of queries and keys are multiplied with; None if scores are more than that."""
    products = (compared.q @ compared.k.transpose(2, 3)).double()
    scores = compared.scores.double()
    seen = scores > _MASKED
    products, scores = products[seen], scores[seen]
    square = float(products.square().sum())
    scale = float((products * scores).sum()) / square if square else 1.0
    error = float((products * scale - scores).norm()) / max(float(scores.norm()), 1e-12)
    return scale if error <= _SAME else None


@torch.no_grad()
def _turns(
    model: Model, layer: int, recording: Recording, stream: Float[Tensor, "1 position d_model"]
) -> tuple[Tensor, Tensor]:
    """What the block's attention makes of queries and keys that are unit vectors."""
    block, d_head = model.bridge.blocks[layer], int(model.bridge.cfg.d_head)
    length = stream.shape[1]
    unit = torch.eye(d_head, dtype=stream.dtype)[:, None, None]

    def heads(n: int) -> Tensor:
        return unit.expand(d_head, length, n, d_head).reshape(d_head, length, n * d_head)

    rows = torch.zeros(d_head, dtype=torch.long)
    hidden = stream.expand(d_head, -1, -1)
    units = {"q": heads(model.n_heads), "k": heads(model.n_key_value_heads)}
    with model.lock, _instead(block, units), attending(model, layer) as found:
        resume(model, recording, hidden, rows, start=layer, stop=layer + 1)
    (compared,) = found
    q, k = (value[:, 0].transpose(0, 1).contiguous() for value in (compared.q, compared.k))
    return q, k


@contextlib.contextmanager
def _instead(block: object, made: dict[str, Tensor]) -> Iterator[None]:
    """Inside, queries and keys are these, whatever is read."""
    with contextlib.ExitStack() as stack:
        for name, value in made.items():
            module = find(block, f"attn.{name}")
            # Its hook point tells the attention's queries and keys where nothing turns them.
            shown = module.hook_out
            stack.enter_context(runs_as(module, lambda *_a, v=value, s=shown, **_k: s(v)))
        yield
