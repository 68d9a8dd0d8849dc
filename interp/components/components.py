"""A model taken apart into what writes to the residual stream and what reads from it.

Writers are the embedding, each attention head and each MLP; readers are the query, key and value
inputs of heads, MLPs, and the unembedding. What a writer adds reaches every later reader through
the stream, which is their sum. Where a norm stands behind attention, a head's share is what it adds
with the norm's scale held at that of the run that the head is part of: all shares of a run add up
to its stream. Whether a model is such a sum is tried on its own numbers (`structure.py`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.components.linear import affine, each_head, position_wise
from interp.components.norms import Norm
from interp.components.structure import PROJECTIONS, LayerParts, Projection, layer_parts, reads_of
from interp.components.writers import Writer
from interp.errors import ModelError
from interp.forward.blocks import BlockCall, Taken, block_call
from interp.forward.hooks import passing
from interp.forward.packing import find, runs_as
from interp.forward.passes import TOLERANCE, Recording, check_resumable, record, relative_error
from interp.model.model import Model
from interp.sites import Site

__all__ = ["PROJECTIONS", "Components", "PartsRun", "Projection", "run_parts"]

HELD = "with the scale of the norm behind attention held at that of each run"


@dataclass(frozen=True)
class PartsRun:
    """A recorded run with what each writer added.

    Attributes:
        recording: streams into each block, `z` and `mlp_out` of each, and the final stream.
        attention: what each layer's attention was called with.
    """

    recording: Recording
    attention: tuple[BlockCall, ...]

    def pre(self, layer: int) -> Float[Tensor, "example position d_model"]:
        """The stream into block `layer`; the final one after the last block."""
        if layer == len(self.attention):
            return self.recording[Site("resid_post", layer - 1)]
        return self.recording[Site("resid_pre", layer)]

    def z(self, layer: int) -> Float[Tensor, "example position head d_head"]:
        return self.recording[Site("z", layer)]

    def mlp(self, layer: int) -> Float[Tensor, "example position d_model"]:
        return self.recording[Site("mlp_out", layer)]


def run_parts(
    model: Model,
    ids: Int[Tensor, "example position"],
    *,
    for_packing: bool = False,
    more: tuple[str, ...] = (),
) -> PartsRun:
    """Run prompts once, `for_packing` as for `record`, and keep `more` sites of each layer."""
    n = model.n_layers
    names = ("resid_pre", "z", "mlp_out", *more)
    sites = [Site(name, i) for name in names for i in range(n)]
    calls: dict[int, BlockCall] = {}
    taken: Taken = {}

    def remember(layer: int) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Some blocks pass the stream by name; the attention takes it either way.
            named = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            stream = args or (kwargs["hidden_states"],)
            calls[layer] = block_call(model.name, stream, named, len(ids), taken)

        return passing(hook)

    check_resumable(model, ids)  # before anything is placed
    with model.lock, contextlib.ExitStack() as stack:
        for layer, block in enumerate(model.bridge.blocks):
            handle = block.attn.register_forward_pre_hook(remember(layer), with_kwargs=True)
            stack.callback(handle.remove)
        recording = record(model, ids, [*sites, Site("resid_post", n - 1)], for_packing=for_packing)
    return PartsRun(recording, tuple(calls[layer] for layer in range(n)))


class Components:
    """The parts of a model's blocks, each to be run on its own.

    Attributes:
        model: the model.
        mlp_reads_mid: whether an MLP reads what the heads of its own layer have written; not so
            in parallel blocks.
        heads_meet: whether what one head puts out depends on what the others read (queries and
            keys of all heads under one norm, in OLMo 2).

    Raises:
        ModelError: the model is no sum of heads and MLPs.
    """

    def __init__(self, model: Model, ids: Int[Tensor, "example position"]) -> None:
        self.model = model
        self.mlp_reads_mid = not model.parallel_blocks
        self._weights: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        for block in model.bridge.blocks:
            if any(find(block, f"attn.{name}") is None for name in (*PROJECTIONS, "o")):
                raise ModelError(
                    f"{model.name} does not expose queries, keys and values apart, so its edges "
                    "cannot be told from each other; use another architecture."
                )
        check_resumable(model, ids[:1])  # before anything is placed
        with reads_of(model) as read:
            run = run_parts(model, ids[:1], more=("attn_out",))
        self._layers: list[LayerParts] = layer_parts(model, run.recording, read, self.mlp_reads_mid)
        self.heads_meet = any(self._heads_meet(layer, run) for layer in range(model.n_layers))

    def run(self, ids: Int[Tensor, "example position"], *, for_packing: bool = False) -> PartsRun:
        """Run prompts once and keep what each writer adds."""
        return run_parts(self.model, ids, for_packing=for_packing)

    def n_readers(self, projection: Projection) -> int:
        """Heads that read through this projection: fewer for keys and values in grouped ones."""
        return self.model.n_heads if projection == "q" else self.model.n_key_value_heads

    def normed(
        self, layer: int, reader: Literal["attn", "mlp"], stream: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """What attention or MLP makes of the stream before it reads it."""
        parts = self._layers[layer]
        norm = parts.before_attention if reader == "attn" else parts.before_mlp
        return stream if norm is None else self._position_wise(norm, stream)

    def attention_norm(self, layer: int) -> Norm | None:
        """The norm before attention in closed form; None where there is none."""
        return self._layers[layer].attention_norm

    def neurons(self, layer: int, matrix: Tensor) -> Writer:
        """How neurons that write by this matrix [neuron, d_model] add to the stream."""
        parts = self._layers[layer]
        return Writer(matrix, torch.zeros_like(matrix[0]), parts.after_mlp, parts.mlp_factor)

    @property
    def attrs(self) -> dict[str, str]:
        """What a head's share is, to be kept with a result."""
        held = any(parts.heads.norm is not None for parts in self._layers)
        return {"head_shares": HELD if held else "as written"}

    def heads_behind_norm(self, layer: int) -> bool:
        """Whether what one head adds depends on what the others put out."""
        return self._layers[layer].heads.norm is not None

    def mlp(self, layer: int, stream: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the MLP adds when it reads this stream."""
        normed = self.normed(layer, "mlp", stream)
        with self.model.lock:
            return self._layers[layer].mlp(normed)

    def projected(
        self, layer: int, projection: Projection, normed: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... head d_head"]:
        """Queries, keys or values of all heads, all reading the same."""
        module = find(self.model.bridge.blocks[layer], f"attn.{projection}")
        flat = self._position_wise(module, normed)
        return flat.reshape(*flat.shape[:-1], self.n_readers(projection), -1)

    def input_weights(
        self, layer: int, projection: Projection
    ) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head"]]:
        """Matrix and bias by which each head makes its queries, keys or values."""
        if (layer, projection) not in self._weights:
            module = find(self.model.bridge.blocks[layer], f"attn.{projection}")
            like = next(self.model.bridge.original_model.parameters())
            with self.model.lock:
                self._weights[layer, projection] = affine(module, self.model.d_model, like)
        matrix, bias = self._weights[layer, projection]
        heads = self.n_readers(projection)
        return matrix.reshape(len(matrix), heads, -1).transpose(0, 1), bias.reshape(heads, -1)

    def folded_weights(
        self, layer: int, projection: Projection
    ) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head"]]:
        """Matrix and bias from the normed stream before gain and shift, which go into them."""
        if (layer, f"folded {projection}") not in self._weights:
            matrix, bias = self.input_weights(layer, projection)
            norm = self.attention_norm(layer)
            if norm is not None:
                bias = bias + (norm.shift.to(matrix.dtype) @ matrix)
                matrix = norm.gain.to(matrix.dtype)[:, None] * matrix
            self._weights[layer, f"folded {projection}"] = matrix, bias
        return self._weights[layer, f"folded {projection}"]

    def output_weights(self, layer: int) -> Float[Tensor, "head unit d_model"]:
        """Matrix by which each head writes its `units`, all that is linear behind it folded in."""
        heads = self.model.n_heads
        matrix, bias = self._layers[layer].heads.folded
        matrix = matrix.reshape(heads, -1, matrix.shape[1])
        if not self._layers[layer].heads.scales_bias:
            return matrix
        return torch.cat([matrix, bias.expand(heads, 1, -1)], dim=1)

    def units(
        self,
        layer: int,
        z: Float[Tensor, "row position head d_head"],
        of: Float[Tensor, "row position head d_head"] | None = None,
    ) -> Float[Tensor, "row position head unit"]:
        """What heads put out in the units in which they write it: `z`, where no norm is behind.

        Behind a norm `z` over its scale. The norm scales the bias that no head owns too, so of
        that each head has an equal part, as one unit more.

        Args:
            of: what the heads put out in the run whose scale is held; `z` if left out.
        """
        writer = self._layers[layer].heads
        if writer.norm is None:
            return z
        scale = self.inverse_scale(layer, z if of is None else of)[..., None]
        if not writer.scales_bias:
            return z * scale
        part = scale.expand(*z.shape[:-1], 1) / self.model.n_heads
        return torch.cat([z * scale, part], dim=-1)

    def inverse_scale(
        self, layer: int, z: Float[Tensor, "row position head d_head"]
    ) -> Float[Tensor, "row position 1"]:
        """One over what the norm behind attention divides by when heads put this out; 1 if none."""
        return self._layers[layer].heads.inverse_scale(z.flatten(-2))

    def written(
        self, layer: int, units: Float[Tensor, "row position head unit"]
    ) -> Float[Tensor, "row head position d_model"]:
        """What each head adds to the stream, but for what is the same in every run."""
        return each_head(units.transpose(1, 2), self.output_weights(layer))

    def attention_out(
        self, layer: int, z: Float[Tensor, "row position head d_head"]
    ) -> Float[Tensor, "row position d_model"]:
        """What all heads of a layer, and their common bias, add to the stream."""
        return self._layers[layer].heads.added(z.flatten(-2))

    def attention_gradient(
        self,
        layer: int,
        z: Float[Tensor, "row position head d_head"],
        gradient: Float[Tensor, "row position d_model"],
    ) -> Float[Tensor, "row position head d_head"]:
        """The gradient by `z`, from that by what attention adds, its norm moving along."""
        writer = self._layers[layer].heads
        if writer.norm is None:
            return (gradient @ writer.folded[0].T).reshape(z.shape)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.attention_out(layer, leaf), leaf, gradient)
        return found

    def read(
        self,
        layer: int,
        projection: Projection,
        streams: Float[Tensor, "row head position d_model"],
        heads: Int[Tensor, " head"],
    ) -> Float[Tensor, "row head position d_head"]:
        """Queries, keys or values of some heads, each reading a stream of its own."""
        matrix, bias = (weight[heads] for weight in self.folded_weights(layer, projection))
        made = each_head(streams, matrix)
        norm = self.attention_norm(layer)
        if norm is not None:
            mean, inverse_scale = norm.moments(streams)
            if norm.centred:
                made = made - mean.to(made.dtype) * matrix.sum(1)[:, None]
            made = made * inverse_scale.to(made.dtype)
        return made + bias[:, None]

    def attend(
        self,
        layer: int,
        run: PartsRun,
        rows: Int[Tensor, " row"],
        q: Float[Tensor, "row position head d_head"],
        k: Float[Tensor, "row position key_value_head d_head"],
        v: Float[Tensor, "row position key_value_head d_head"],
        *,
        grad: bool = False,
    ) -> Float[Tensor, "row position head d_head"]:
        """`z` of every head from given queries, keys and values, by the model's own attention.

        Args:
            run: a run of the prompts that the rows were made from.
            rows: for each row the recorded example it belongs to.
        """
        attention = self.model.bridge.blocks[layer].attn
        args, kwargs = run.attention[layer].at(rows, run.recording.batch)
        given = {"q": q, "k": k, "v": v}
        kept: list[Tensor] = []
        blank = q.new_zeros(*q.shape[:2], self.model.d_model)

        def keep(z: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
            kept.append(z)
            return blank

        with self.model.lock, contextlib.ExitStack() as stack:
            for name in PROJECTIONS:
                value = given[name].flatten(2)
                stack.enter_context(runs_as(getattr(attention, name), lambda *_a, v=value, **_k: v))
            stack.enter_context(runs_as(attention.o, keep))
            stack.enter_context(torch.set_grad_enabled(grad))
            attention(blank, *args, **kwargs)
        return kept[0].reshape(*q.shape)

    def _position_wise(self, module: Any, values: Tensor) -> Tensor:
        with self.model.lock:
            return position_wise(module, values)

    @torch.no_grad()
    def _heads_meet(self, layer: int, run: PartsRun) -> bool:
        """Whether the first head puts out something else when the others' inputs are zero."""
        normed = self.normed(layer, "attn", run.pre(layer))
        given = []
        for projection in PROJECTIONS:
            whole = self.projected(layer, projection, normed)
            alone = torch.zeros_like(whole)
            alone[:, :, 0] = whole[:, :, 0]
            given.append(alone)
        row = torch.zeros(1, dtype=torch.long, device=self.model.device)
        z = self.attend(layer, run, row, *given)
        error = relative_error(z[:, :, 0], run.z(layer)[:, :, 0])
        return not error <= TOLERANCE[self.model.dtype]
