"""The mean difference of two models' streams on unrelated text, and what lenses read in it.

Narrow tuning leaves a constant difference in the residual stream, even where nothing in the text
has to do with what was trained (Minder et al. 2025, arXiv 2510.13900): read as a prediction, the
mean over the first tokens of many texts may name the subject of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import Seed, typed
from interp.comparison.pair import ModelPair
from interp.errors import PromptError
from interp.forward.passes import observe, readout
from interp.forward.source import rows_at_once
from interp.lens.jacobian.lens import JacobianLens
from interp.lens.tuned import TunedLens
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import check_vocabulary, pad
from interp.sites import Site

__all__ = ["mean_difference", "means_between"]

Lens = TunedLens | JacobianLens

# Tensors as wide as the vocabulary that one reading takes, in float32.
_WIDE = 4


@typed
def mean_difference(
    base: Model,
    tuned: Model,
    texts: Sequence[str],
    *,
    tokens: int = 5,
    lens: Lens | None = None,
    words: Sequence[str] = (),
    k: int = 10,
    draws: int = 20,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Average tuned − base over the first tokens of texts, and read the mean through lenses.

    A reading is the logits that the mean's direction adds in the base's own final norm and
    unembedding, less their mean over the vocabulary. It is as long there as the base's streams are
    on average, since a norm would amplify nothing to something: how long the difference really is
    stands in `norm`.

    Args:
        base: the model before.
        tuned: the model after, of the same shape.
        texts: many, and about nothing in particular; those that begin with the same tokens count
            once.
        tokens: how many tokens of each text to look at. BOS, which is the same in all, is none.
        lens: a tuned or Jacobian lens of the base, which is read beside the logit lens.
        words: followed by their first token, written as in a text (" Paris").
        k: how many of the tokens that are promoted most to keep.
        draws: of random directions to read as a control.
        seed: of these.
        progress: called with (texts done, in all).

    Returns:
        By (layer, position): difference(…, d_model), the mean; norm, its length; base_norm, the
        mean length of the base's streams; common, which share of the squared difference the texts
        have in common (estimated without bias, so that it may be less than 0 where it is next to
        none; NaN with one text). By (lens, layer, position): top_token and top_logit (…, k);
        control_logit(…, draw), the largest logit of a random direction; word_rank and word_logit
        (…, word), rank 0 for the most promoted. Where there is no difference at all, or a
        Jacobian lens has no matrix, tokens are "", numbers NaN and ranks -1. Layer 0 is the
        embedding, layer n the stream after n blocks; position counts the tokens of the text.
        n(position): texts that are so long.

    Raises:
        ModelError: the models cannot be compared (see `compare_models`), or the lens belongs to
            another model than the base.
        PromptError: no texts, a word without tokens, or nothing to look at.
    """
    pair = ModelPair.of(base, tuned)
    return means_between(
        pair, texts, tokens, lens, words=words, k=k, draws=draws, seed=seed, progress=progress
    )


def means_between(
    pair: ModelPair,
    texts: Sequence[str],
    tokens: int,
    lens: Lens | None,
    *,
    words: Sequence[str],
    k: int,
    draws: int,
    seed: int,
    progress: Progress | None,
) -> xr.Dataset:
    """`mean_difference` of models that were looked at."""
    model = pair.base
    if tokens < 1 or k < 1 or draws < 0:
        raise PromptError("Look at 1 token or more, keep 1 or more, and draw 0 or more directions.")
    if lens is not None:
        lens.check(model)
    wanted = _words(model, words)
    rows = _openings(model, texts, tokens)
    lenses: dict[str, Lens | None] = {"logit lens": None}
    if lens is not None:
        lenses["tuned lens" if isinstance(lens, TunedLens) else "Jacobian lens"] = lens
    with pair.locked():
        means = _Means.of(pair, rows, tokens, progress)
        read = {
            name: _read(model, means, one, wanted, min(k, model.d_vocab), draws, seed)
            for name, one in lenses.items()
        }
        attrs = pair.attrs("mean difference")
    found = xr.concat(
        [one.expand_dims(lens=[name]) for name, one in read.items()], "lens", join="exact"
    )
    at = ("layer", "position")
    return found.assign(
        difference=((*at, "d_model"), means.mean),
        norm=(at, np.linalg.norm(means.mean, axis=-1)),
        base_norm=(at, means.base_norm),
        common=(at, means.common),
        n=("position", means.n),
    ).assign_attrs(attrs, seed=seed, texts=len(rows))


@dataclass(frozen=True)
class _Means:
    """Means over texts [layer, position].

    Attributes:
        mean: of the difference [layer, position, d_model].
        base_norm: of the length of the base's streams.
        common: the share of the squared difference that all texts have in common.
        n: texts that have this position [position].
    """

    mean: npt.NDArray[np.float32]
    base_norm: npt.NDArray[np.float64]
    common: npt.NDArray[np.float64]
    n: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls, pair: ModelPair, rows: list[list[int]], tokens: int, progress: Progress | None
    ) -> _Means:
        base, bos = pair.base, int(pair.base.prepends_bos)
        sites = [Site("resid_pre", 0), *(Site("resid_post", i) for i in range(base.n_layers))]
        total = torch.zeros(len(sites), tokens, base.d_model, dtype=torch.float64)
        squares = torch.zeros(len(sites), tokens, dtype=torch.float64)
        lengths = torch.zeros_like(squares)
        count = torch.zeros(tokens, dtype=torch.long)
        batch = pad(rows, ("",) * len(rows))

        def run(start: int, stop: int) -> list[tuple[Tensor, Tensor, Tensor]]:
            ids = batch.ids[start:stop]
            ours, theirs = observe(base, ids, sites), observe(pair.tuned, ids, sites)
            present = _present(batch.lengths[start:stop], ids.shape[1])[:, bos:]
            found = []
            for site in sites:
                here, there = (run[site][:, bos:].cpu().double() for run in (ours, theirs))
                change = torch.where(present[..., None], there - here, 0.0)
                size = torch.where(present, here.norm(dim=-1), 0.0)
                found.append((change.sum(0), change.square().sum(-1).sum(0), size.sum(0)))
            return found

        size = max(1, rows_at_once(base, batch.ids.shape[1], sites) // 2)
        width = batch.ids.shape[1] - bos
        for start, stop, sums in batches(len(rows), size, run):
            for layer, (change, square, length) in enumerate(sums):
                total[layer, :width] += change
                squares[layer, :width] += square
                lengths[layer, :width] += length
            present = _present(batch.lengths[start:stop], batch.ids.shape[1])[:, bos:]
            count[:width] += present.sum(0)
            if progress:
                progress(stop, len(rows))
        mean, spread = total / count[:, None], squares / count
        # The squared length of a mean holds a share 1/n of what is not in common.
        shared = (count * mean.square().sum(-1) - spread) / (count - 1)
        common = torch.where(spread > 0, shared / spread, torch.nan)
        common = torch.where(count > 1, common, torch.nan)
        return cls(mean.float().numpy(), (lengths / count).numpy(), common.numpy(), count.numpy())


def _read(
    model: Model,
    means: _Means,
    lens: Lens | None,
    words: dict[str, int],
    k: int,
    draws: int,
    seed: int,
) -> xr.Dataset:
    """What one lens reads."""
    shape = means.mean.shape[:2]
    layers = lens.layers(model) if isinstance(lens, JacobianLens) else range(shape[0])
    ids = np.full((*shape, k), -1)
    top = np.full((*shape, k), np.nan, np.float32)
    control = np.full((*shape, draws), np.nan, np.float32)
    ranks = np.full((*shape, len(words)), -1)
    logits_of = np.full((*shape, len(words)), np.nan, np.float32)
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.tensor(list(words.values()), dtype=torch.long)
    for at in np.ndindex(shape):
        vector, size = torch.from_numpy(means.mean[at]), float(means.base_norm[at])
        random = torch.randn(draws, model.d_model, generator=generator)
        if not float(vector.norm()) > 0 or at[0] not in layers:
            continue
        rows = torch.cat([vector[None], random])
        added = _promoted(model, lens, at[0], rows / rows.norm(dim=1, keepdim=True) * size)
        best = added[0].topk(k)
        ids[at], top[at] = best.indices.numpy(), best.values.numpy()
        control[at] = added[1:].amax(1).numpy()
        logits_of[at] = added[0, wanted].numpy()
        ranks[at] = (added[0][None] > added[0, wanted][:, None]).sum(1).numpy()
    names = np.full(ids.shape, "", dtype=object)
    known = ids >= 0
    names[known] = model.token_strings(ids[known].tolist())
    dims = ("layer", "position")
    coords: dict[str, Any] = {
        "layer": np.arange(shape[0]),
        "position": np.arange(shape[1]),
        "word": list(words),
        "word_token": ("word", model.token_strings(list(words.values()))),
    }
    return xr.Dataset(
        {
            "top_token": ((*dims, "k"), names),
            "top_logit": ((*dims, "k"), top),
            "control_logit": ((*dims, "draw"), control),
            "word_rank": ((*dims, "word"), ranks),
            "word_logit": ((*dims, "word"), logits_of),
        },
        coords,
    )


def _promoted(
    model: Model, lens: Lens | None, layer: int, rows: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row vocabulary"]:
    """The logits that directions add, less their mean, on the CPU."""
    rows = rows.to(model.device, model.dtype)
    zero = torch.zeros_like(rows[:1])
    if lens is not None and layer < model.n_layers:
        # Of a difference the lens's own bias is no part.
        rows = lens.translate(layer, rows) - lens.translate(layer, zero)
    nothing = readout(model, zero)

    def work(start: int, stop: int) -> Tensor:
        added = readout(model, rows[start:stop]) - nothing
        return (added - added.mean(-1, keepdim=True)).cpu()

    size = rows_that_fit(model, _WIDE * model.d_vocab * 4)
    return torch.cat([part for _, _, part in batches(len(rows), size, work)])


def _present(lengths: Int[Tensor, " text"], width: int) -> Tensor:
    return torch.arange(width)[None] < lengths[:, None]


def _openings(model: Model, texts: Sequence[str], tokens: int) -> list[list[int]]:
    """The first token ids of each text, each opening once.

    Raises:
        PromptError: there are none.
    """
    if len(texts) == 0:
        raise PromptError("There are no texts; give many, about nothing in particular.")
    wrong = [number for number, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise PromptError(f"Each of the texts must be text; number {wrong[0]} is not.")
    bos = int(model.prepends_bos)
    encoded = [ids[: bos + tokens] for ids, _ in model.encode(texts)]
    rows = list(dict.fromkeys(tuple(ids) for ids in encoded if len(ids) > bos))
    if not rows:
        raise PromptError("All texts are empty; give texts to read.")
    if bos + tokens > model.n_ctx:
        raise PromptError(
            f"{model.name} reads at most {model.n_ctx} tokens; look at fewer than {tokens}."
        )
    check_vocabulary(model, sorted({i for row in rows for i in row}), "texts")
    return [list(row) for row in rows]


def _words(model: Model, words: Sequence[str]) -> dict[str, int]:
    """The first token of each word."""
    found = {}
    bos = int(model.prepends_bos)
    for word in dict.fromkeys(words):
        ids = model.token_ids(word)[bos:]
        if not ids:
            raise PromptError(f"The word '{word}' has no tokens; give visible text.")
        found[word] = ids[0]
    return found
