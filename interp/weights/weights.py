"""A model's weights as maps from the residual stream to itself, and from tokens to tokens.

Norms are folded: a norm's gain, and the taking away of the mean, go into the matrix that reads
through it, those of a norm behind attention or MLP, and what it is multiplied with, into the matrix
that writes. A norm's division by a size, which no weight knows, is left out, and so are biases, and
a soft cap of the logits. What a head reads and writes (Elhage et al. 2021) comes as a product of
two thin matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp.components.components import Components, Projection
from interp.components.frozen import logit_transform
from interp.components.linear import affine, position_wise
from interp.components.norms import Norm, closed_norm
from interp.components.writers import factor_between
from interp.errors import ModelError, SiteError
from interp.forward.passes import TOLERANCE, observe, relative_error
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.sites import Site, check
from interp.weights.trials import Scores, attention_scores

if TYPE_CHECKING:
    from transformer_lens.FactoredMatrix import FactoredMatrix


@typed
class Weights:
    """The folded weights of a model; making one tries on the model's own numbers what it assumes.

    Attributes:
        model: the model.
        parts: the model's heads and MLPs.

    Raises:
        ModelError: the model is no sum of heads and MLPs, or its embedding or unembedding is no
            table of vectors.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        ids = torch.arange(min(8, model.d_vocab, model.n_ctx), device=model.device)
        try:
            self.parts = Components(model, ids[None])
        except ModelError as error:
            raise ModelError(
                f"{model.name} is no sum of heads and MLPs that read the stream behind a norm, so "
                "its weights cannot be read on their own; look at its activations instead."
            ) from error
        self._scores: dict[int, Scores | None] = {}
        self._behind_table = self._found_embedding(ids)
        self._final, self._unembedding = self._final_norm(ids)

    @torch.no_grad()
    def embed(self, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
        """What each token puts into the stream, without its position."""
        return self._behind_table(self._looked_up(ids[None]))[0].clone()

    @torch.no_grad()
    def unembed(self, vectors: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocabulary"]:
        """The logits that directions in the final stream add, in float32, with a mean of 0.

        Softmax does not see a number that is added to all logits.
        """
        folded = self.through_final_norm(vectors.to(self.model.device).float())
        folded = folded.to(self._unembedding.dtype)
        logits = (folded @ self._unembedding).float()
        return logits - logits.mean(-1, keepdim=True)

    def through_final_norm(
        self, vectors: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """What the final norm makes of them, but for its division."""
        if self._final.centred:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return vectors * self._final.gain

    def reading(self, layer: int, projection: Projection) -> Float[Tensor, "head d_model d_head"]:
        """By which matrix each head makes queries, keys or values, the norm before it folded."""
        matrix = self.parts.folded_weights(layer, projection)[0].float()
        norm = self.parts.attention_norm(layer)
        if norm is not None and norm.centred:
            matrix = matrix - matrix.mean(1, keepdim=True)
        return matrix.repeat_interleave(self.model.n_heads // len(matrix), dim=0)

    @torch.no_grad()
    def behind_mlp_norm(
        self, layer: int, matrix: Float[Tensor, "d_model neuron"]
    ) -> Float[Tensor, "d_model neuron"]:
        """A matrix of an MLP that reads the stream, with the norm before it folded."""
        stream = self.embed(torch.zeros(1, dtype=torch.long))
        if self.parts.normed(layer, "mlp", stream) is stream:
            return matrix  # nothing is normed
        norm = Norm.found_in(
            lambda streams: self.parts.normed(layer, "mlp", streams), self.model.d_model, stream
        )
        folded = norm.gain[:, None] * matrix
        return folded - folded.mean(0, keepdim=True) if norm.centred else folded

    def writing(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """By which matrix each head writes to the stream, a norm behind it folded."""
        return self.parts.output_weights(layer)[:, : int(self.model.bridge.cfg.d_head)].float()

    def ov(self, layer: int, head: int) -> FactoredMatrix:
        """What a head writes for what it reads where it attends: W_V W_O [d_model, d_model]."""
        from transformer_lens.FactoredMatrix import FactoredMatrix

        check(self.model, Site("z", layer, head))
        return FactoredMatrix(self.reading(layer, "v")[head], self.writing(layer)[head])

    def qk(self, layer: int, head: int, *, content: bool = False) -> FactoredMatrix:
        """How strongly a stream attends to another: W_Q W_Kᵀ [d_model, d_model], before softmax.

        Scaled as the model scales its attention scores, and before their soft cap, if there is
        one. Where queries and keys are normed (Qwen 3, Gemma 3, OLMo 2), without the division by
        their sizes.

        Args:
            content: where queries and keys are rotated by their positions, the score depends on
                the distance, and this alone, the score at distance 0, can be had.

        Raises:
            SiteError: the model has no such head, or rotates and `content` is not asked for.
            ModelError: its scores are no products of queries and keys.
        """
        from transformer_lens.FactoredMatrix import FactoredMatrix

        check(self.model, Site("z", layer, head))
        scores = self.scores(layer)
        if scores.by_distance and not content:
            raise SiteError(
                f"{self.model.name} rotates queries and keys by their positions, so no one matrix "
                "gives its attention scores; ask for content=True, the scores at distance 0."
            )
        query, key = self.compared(layer)
        return FactoredMatrix(scores.scale * query[head], key[head].T)

    def compared(self, layer: int) -> tuple[Float[Tensor, "head d_model d_head"], ...]:
        """By which matrices each head makes what is compared, of queries and of keys.

        The gains of norms of queries and keys are folded; their sizes are left out.
        """
        scores, made = self.scores(layer), []
        for name in ("q", "k"):
            matrix, gain = self.reading(layer, name), scores.gain(name, self.model.n_heads)
            made.append(matrix if gain is None else matrix * gain[:, None])
        return made[0], made[1]

    def scores(self, layer: int) -> Scores:
        """How a layer makes its attention scores, found by trying it.

        Raises:
            ModelError: not as products of queries and keys.
        """
        if layer not in self._scores:
            self._scores[layer] = attention_scores(self.model, layer)
        found = self._scores[layer]
        if found is None:
            raise ModelError(
                f"The attention scores of {self.model.name} are no products of its queries and "
                "keys, so it has no QK circuit; look at its patterns."
            )
        return found

    def token_ov(self, layer: int, head: int) -> FactoredMatrix:
        """The OV circuit from tokens to tokens, W_E W_V W_O W_U [vocabulary, vocabulary].

        As factors [vocabulary, d_head] and [d_head, vocabulary]: the product itself would not fit.
        """
        from transformer_lens.FactoredMatrix import FactoredMatrix

        middle = self.ov(layer, head)
        embedded = [rows.float() @ middle.A for _, rows in self.embeddings()]
        return FactoredMatrix(torch.cat(embedded), self.unembed(middle.B))

    def embeddings(self) -> Iterator[tuple[int, Float[Tensor, "token d_model"]]]:
        """The whole embedding, some tokens at a time, each piece with the number of its first."""
        size = rows_that_fit(self.model, 8 * self.model.d_model)
        pieces = batches(
            self.model.d_vocab, size, lambda start, stop: self.embed(torch.arange(start, stop))
        )
        for start, _, rows in pieces:
            yield start, rows

    @torch.no_grad()
    def round_trip(self) -> Float[Tensor, "d_model d_model"]:
        """W_U W_E: from the final stream to logits, and back by the tokens' embeddings."""
        width = self.model.d_model
        out = torch.zeros(width, width, device=self.model.device)
        mean = self._unembedding.float().mean(1, keepdim=True)
        for start, rows in self.embeddings():
            columns = self._unembedding[:, start : start + len(rows)].float() - mean
            out += columns @ rows.float()
        out = self._final.gain[:, None] * out
        return out - out.mean(0, keepdim=True) if self._final.centred else out

    @torch.no_grad()
    def mlp_writing(
        self, layer: int, matrix: Float[Tensor, "neuron d_model"]
    ) -> Float[Tensor, "neuron d_model"]:
        """A matrix by which an MLP's neurons write, with the norm and factor behind it folded."""
        return self.parts.neurons(layer, matrix).folded[0]

    def _looked_up(self, ids: Int[Tensor, "row token"]) -> Float[Tensor, "row token d_model"]:
        with self.model.lock:
            found: Tensor = self.model.bridge.embed(ids.to(self.model.device))
        return found

    @torch.no_grad()
    def _found_embedding(self, ids: Int[Tensor, " token"]) -> Callable[[Tensor], Tensor]:
        """What is done to rows of the embedding before positions are added.

        The stream differs from prompt to prompt by what is embedded, and nothing else.
        """
        entry = Site("resid_pre", 0)
        both = torch.stack([ids, ids.flip(0)])
        stream = observe(self.model, both, [entry])[entry]
        expected = stream[0] - stream[1]
        norm = getattr(self.model.bridge, "embed_ln", None)
        ways: list[Callable[[Tensor], Tensor]] = [lambda rows: rows]
        if norm is not None:
            ways.append(lambda rows: position_wise(norm, rows))
        for way in ways:
            with self.model.lock:
                one, other = way(self._looked_up(both))
            factor = factor_between(one - other, expected)
            if relative_error(factor * (one - other), expected) <= TOLERANCE[self.model.dtype]:
                return way if factor == 1.0 else functools.partial(_scaled, way, factor)
        raise ModelError(
            f"{self.model.name} does more to its embeddings than to norm or scale them and to add "
            "positions, so what a token puts into the stream is no row of a matrix; choose another "
            "model."
        )

    @torch.no_grad()
    def _final_norm(self, ids: Int[Tensor, " token"]) -> tuple[Norm, Tensor]:
        model = self.model
        last = Site("resid_post", model.n_layers - 1)
        stream = observe(model, ids[None], [last])[last]
        norm = closed_norm(model, model.bridge.ln_final, stream)
        with model.lock:
            matrix, bias = affine(model.bridge.unembed, model.d_model, stream)
            theirs = model.bridge.unembed(model.bridge.ln_final(stream))
        ours = theirs * torch.nan if norm is None else norm(stream).to(matrix.dtype) @ matrix + bias
        if norm is None or not relative_error(ours, theirs) <= TOLERANCE[model.dtype]:
            raise ModelError(
                f"The logits of {model.name} are no linear map of a normed stream, so directions "
                "cannot be read in tokens; choose another model."
            )
        return norm, matrix * logit_transform(model)[0]


def _scaled(way: Callable[[Tensor], Tensor], factor: float, rows: Tensor) -> Tensor:
    return way(rows) * factor
