"""A model taken apart into what writes to the residual stream and what reads from it.

Writers are the embedding, each attention head and each MLP; readers are the query, key and value
inputs of heads, MLPs, and the unembedding. What a writer adds reaches every later reader through
the stream, which is their sum. Whether a model is such a sum is tried on its own numbers.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.components.linear import affine, each_head, position_wise
from interp.components.norms import Norm
from interp.components.parts_run import PartsRun, run_parts
from interp.errors import ModelError
from interp.forward.hooks import passing
from interp.forward.packing import find, runs_as
from interp.forward.passes import TOLERANCE, check_resumable, relative_error
from interp.model.model import Model

Projection = Literal["q", "k", "v"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v")
_NORMS = ("ln1", "ln2", None)
# By reader, the module whose input shows what it reads.
_READS = {"attn": "attn.q", "mlp": "mlp"}


class Components:
    """The parts of a model's blocks, each to be run on its own.

    Attributes:
        model: the model.
        mlp_reads_mid: whether an MLP reads what the heads of its own layer have written; not so
            in parallel blocks.

    Raises:
        ModelError: the model is no sum of heads and MLPs (a norm after attention, say).
    """

    def __init__(self, model: Model, ids: Int[Tensor, "example position"]) -> None:
        self.model = model
        self.mlp_reads_mid = not model.parallel_blocks
        self._norms: dict[str, str | None] = {}
        self._closed: dict[int, Norm | None] = {}
        self._weights: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        for block in model.bridge.blocks:
            if any(find(block, f"attn.{name}") is None for name in (*PROJECTIONS, "o")):
                raise ModelError(
                    f"{model.name} does not expose queries, keys and values apart, so its edges "
                    "cannot be told from each other; use another architecture."
                )
        self._verify(ids[:1])

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
        name = self._norms[reader]
        if name is None:
            return stream
        return self._position_wise(find(self.model.bridge.blocks[layer], name), stream)

    def attention_norm(self, layer: int) -> Norm | None:
        """The norm before attention in closed form; None where there is none."""
        return self._closed[layer]

    def mlp(self, layer: int, stream: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the MLP adds when it reads this stream."""
        module = self.model.bridge.blocks[layer].mlp
        return self._position_wise(module, self.normed(layer, "mlp", stream))

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
        matrix, bias = self._affine(layer, projection, self.model.d_model)
        heads = self.n_readers(projection)
        return matrix.reshape(len(matrix), heads, -1).transpose(0, 1), bias.reshape(heads, -1)

    def folded_weights(
        self, layer: int, projection: Projection
    ) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head"]]:
        """Matrix and bias from the normed stream before gain and shift, which go into them."""
        if (layer, f"folded {projection}") not in self._weights:
            matrix, bias = self.input_weights(layer, projection)
            norm = self._closed[layer]
            if norm is not None:
                bias = bias + (norm.shift.to(matrix.dtype) @ matrix)
                matrix = norm.gain.to(matrix.dtype)[:, None] * matrix
            self._weights[layer, f"folded {projection}"] = matrix, bias
        return self._weights[layer, f"folded {projection}"]

    def output_weights(
        self, layer: int
    ) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, " d_model"]]:
        """Matrix by which each head writes its `z`, and the bias that no head owns."""
        heads = self.model.n_heads
        width = heads * int(self.model.bridge.cfg.d_head)
        matrix, bias = self._affine(layer, "o", width)
        return matrix.reshape(heads, -1, matrix.shape[1]), bias

    def written(
        self, layer: int, z: Float[Tensor, "row position head d_head"]
    ) -> Float[Tensor, "row head position d_model"]:
        """What each head adds to the stream."""
        return each_head(z.transpose(1, 2), self.output_weights(layer)[0])

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
        norm = self._closed[layer]
        if norm is not None:
            mean, inverse_scale = norm.moments(streams)
            if norm.centred:
                made = made - mean.to(made.dtype) * matrix.sum(1)[:, None]
            made = made * inverse_scale.to(made.dtype)
        return made + bias[:, None]

    def attention_out(
        self, layer: int, z: Float[Tensor, "row position head d_head"]
    ) -> Float[Tensor, "row position d_model"]:
        """What all heads of a layer, and their common bias, add to the stream."""
        matrix, bias = self.output_weights(layer)
        return z.flatten(2) @ matrix.flatten(0, 1) + bias

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

    def _affine(self, layer: int, name: str, width: int) -> tuple[Tensor, Tensor]:
        if (layer, name) not in self._weights:
            module = find(self.model.bridge.blocks[layer], f"attn.{name}")
            with self.model.lock:
                self._weights[layer, name] = affine(module, width, self._like)
        return self._weights[layer, name]

    @property
    def _like(self) -> Tensor:
        """Some tensor of the model's device and dtype."""
        parameter: Tensor = next(self.model.bridge.original_model.parameters())
        return parameter

    def _verify(self, ids: Int[Tensor, "1 position"]) -> None:
        model = self.model
        read: dict[tuple[int, str], Tensor] = {}
        check_resumable(model, ids)  # before anything is placed
        with model.lock, contextlib.ExitStack() as stack:
            for layer, block in enumerate(model.bridge.blocks):
                for reader, name in _READS.items():

                    @passing
                    def keep(
                        _module: Any, args: Any, key: tuple[int, str] = (layer, reader)
                    ) -> None:
                        read[key] = args[0].detach().clone()

                    stack.callback(find(block, name).register_forward_pre_hook(keep).remove)
            run = self.run(ids)
        layers = range(model.n_layers)
        for reader in _READS:
            if any((layer, reader) not in read for layer in layers):
                raise self._unreadable(reader)
        with torch.no_grad():
            heads = [self.attention_out(i, run.z(i)) for i in layers]
            for i in layers:
                added = run.pre(i + 1) - run.pre(i)
                if not self._agrees(heads[i] + run.mlp(i), added):
                    raise ModelError(
                        f"What layer {i} of {model.name} adds to the residual stream is not the "
                        "sum of its heads and its MLP (they are normed or scaled afterwards), so "
                        "it has no edges; sweep its sites instead."
                    )
            pre = [run.pre(i) for i in layers]
            mid = [p + h for p, h in zip(pre, heads, strict=True)] if self.mlp_reads_mid else pre
            for reader, streams in (("attn", pre), ("mlp", mid)):
                self._norms[reader] = self._norm_before(
                    reader, streams, [read[i, reader] for i in layers]
                )
            for i in layers:
                self._closed[i] = self._closed_norm(i)
                normed = self._closed[i]
                if normed and not self._agrees(normed(pre[i]), read[i, "attn"]):
                    raise self._unreadable("attn")
                try:
                    found = self.mlp(i, mid[i])
                except TypeError as error:  # it takes more than what it reads from the stream
                    raise self._unreadable("mlp") from error
                if not self._agrees(found, run.mlp(i)):
                    raise self._unreadable("mlp")

    def _closed_norm(self, layer: int) -> Norm | None:
        name = self._norms["attn"]
        if name is None:
            return None
        module = find(self.model.bridge.blocks[layer], name)
        return Norm.found_in(
            lambda streams: self._position_wise(module, streams), self.model.d_model, self._like
        )

    def _norm_before(self, reader: str, streams: list[Tensor], read: list[Tensor]) -> str | None:
        blocks = self.model.bridge.blocks
        for name in _NORMS:
            norms = [find(block, name) if name else None for block in blocks]
            if name and None in norms:
                continue
            found = [
                self._position_wise(norm, stream) if norm else stream
                for norm, stream in zip(norms, streams, strict=True)
            ]
            if all(self._agrees(ours, theirs) for ours, theirs in zip(found, read, strict=True)):
                return name
        raise self._unreadable(reader)

    def _agrees(self, ours: Tensor, theirs: Tensor) -> bool:
        return relative_error(ours, theirs) <= TOLERANCE[self.model.dtype]

    def _unreadable(self, reader: str) -> ModelError:
        return ModelError(
            f"What the {reader} of {self.model.name} reads is not the residual stream behind a "
            "layer norm or RMS norm, so its edges cannot be told; sweep its sites instead."
        )
