"""Training a tuned lens (Belrose et al. 2023, "Eliciting Latent Predictions from Transformers").

Each layer's affine map is trained to make the model's own readout give the model's own prediction:
KL from the final distribution to the lens's, averaged over the tokens of a corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cache.arguments import Seed, typed
from cache.keys.space import Ids
from cache.store import ActivationStore
from interp.errors import ModelError, PromptError
from interp.forward.capture import capture
from interp.forward.passes import record
from interp.lens.checkpoint import Best, Checkpoint
from interp.lens.translators import Streams, Translators
from interp.lens.tuned import TunedLens
from interp.model.memory import fitting_threads
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.corpus import read_rows
from interp.prompts.tokens import pad
from interp.sites import Site

__all__ = ["train_tuned_lens"]

# Held-out tokens beyond these would cost more time than they make the estimate better.
_HELD_OUT = 1 << 12
_CONTEXT = 256  # as in a harvest, so that its rows are found
_CHECKS = 20  # how often the held-out rows are read in a training that is not stopped


@dataclass(frozen=True)
class _Settings:
    """What decides the result, besides the model and the rows.

    Attributes:
        rows: a hash of the corpus as the model reads it.
        dtype: of the activations in the store; "" where they are computed as needed.
    """

    steps: int
    batch_tokens: int
    learning_rate: float
    held_out: float
    patience: int
    seed: int
    rows: str = ""
    dtype: str = ""

    def check(self) -> None:
        for name in ("steps", "batch_tokens", "patience"):
            if getattr(self, name) < 1:
                raise PromptError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.held_out < 1:
            raise PromptError(
                f"The share of rows held out must lie between 0 and 1, not {self.held_out}."
            )
        if not self.learning_rate > 0:
            raise PromptError(f"The learning rate must be above 0, not {self.learning_rate}.")


@typed
def train_tuned_lens(
    model: Model,
    texts: Path | str | Iterable[str],
    *,
    store: ActivationStore | None = None,
    dtype: str | None = None,
    tokens: int | None = None,
    context: int | None = None,
    steps: int = 1000,
    batch_tokens: int = 1024,
    learning_rate: float = 1.0,
    held_out: float = 0.1,
    patience: int = 4,
    seed: Seed = 0,
    folder: Path | str | None = None,
    progress: Progress | None = None,
) -> TunedLens:
    """Train the affine maps of all layers, each apart, on the same tokens.

    Every twentieth of the steps the held-out rows are read. A layer keeps the map that was best on
    them (at first the identity, which is the logit lens), and is finished after `patience` readings
    without being better; the training ends when all are. On the CPU the same arguments give the
    same lens.

    Args:
        model: the model.
        texts: a file (.txt, .jsonl, .parquet; see `interp.prompts.corpus.read_rows`), or documents.
        store: read activations from here, and keep here what is missing, as `harvest` with the
            sites "resid_pre.0" and "resid_post" does; the store that OBVERSE_CACHE names if left
            out, or the model runs for each batch.
        dtype: of the activations in the store, as given to `harvest`.
        tokens: how many of the texts to use; all if left out.
        context: tokens in a row; 256, or as many as the model takes, if left out.
        steps: of Adam, at most; its rate falls linearly to 0 over them.
        batch_tokens: in one step, about: whole rows are taken.
        learning_rate: of Adam's first step for weights, on standardised streams, times d_model.
        held_out: share of the rows that decides when to stop, of these at most 4,096 tokens.
        patience: see above.
        seed: of the division into rows to train on and held-out ones, and of the order.
        folder: where the lens is saved. The training is saved there at every reading of the
            held-out rows: stopped at any moment, the same call goes on from there, and when it was
            finished, returns what it made.
        progress: called with (steps done, steps in all).

    Raises:
        PromptError: fewer than two rows of text, or a setting out of range.
        ModelError: the model's numbers are not finite, or it cannot be read out layer by layer.
        StorageError: the folder holds another training, or cannot be written.
    """
    settings = _Settings(steps, batch_tokens, learning_rate, held_out, patience, seed)
    settings.check()
    length = min(_CONTEXT, model.n_ctx) if context is None else context
    rows = read_rows(model, texts, context=length, tokens=tokens)
    if len(rows) < 2:
        raise PromptError(
            "The texts make a single row, which cannot be both trained on and held out; give more "
            "text, or a smaller context."
        )
    store = store or ActivationStore.from_environment()
    digest = hashlib.sha256(b"".join(len(ids).to_bytes(8, "big") + ids.tobytes() for ids in rows))
    stored = model.activation_source().space(dtype).dtype if store else ""
    settings = replace(settings, rows=digest.hexdigest()[:32], dtype=stored)
    checkpoint = Checkpoint.of(folder, model, asdict(settings))
    if checkpoint and (finished := checkpoint.finished(model)):
        return finished
    record(model, torch.from_numpy(rows[0]).long()[None], [])  # checks the readout, once
    with fitting_threads(model):
        corpus = _Corpus(model, rows, settings, store, dtype)
        translators = Translators(model, corpus.batch(0), learning_rate)
        best = _train(corpus, translators, settings, checkpoint, progress)
    lens = best.lens(model.identity, asdict(settings))
    if checkpoint:
        checkpoint.finish(lens)
    return lens


class _Corpus:
    """Rows of text, and the streams of any of them.

    Attributes:
        train, held_out: numbers of rows.
    """

    def __init__(
        self,
        model: Model,
        rows: Sequence[Ids],
        settings: _Settings,
        store: ActivationStore | None,
        dtype: str | None,
    ) -> None:
        self._model, self._rows, self._seed = model, rows, settings.seed
        layers = range(model.n_layers)
        self._sites = [str(Site("resid_pre", 0)), *(str(Site("resid_post", i)) for i in layers)]
        self._stored: dict[str, list[Tensor]] | None = None
        if store is not None:
            self._stored = store.rows(model, list(rows), self._sites, dtype=dtype)
        order = self._order(-1, range(len(rows)))
        wanted = max(1, min(len(rows) - 1, round(settings.held_out * len(rows))))
        fits = int((torch.tensor([len(rows[i]) for i in order]).cumsum(0) <= _HELD_OUT).sum())
        self.held_out = order[: min(wanted, max(1, fits))]
        self.train = order[wanted:]
        mean_length = sum(len(rows[i]) for i in self.train) / len(self.train)
        self._at_once = max(1, round(settings.batch_tokens / mean_length))

    def batch(self, step: int) -> Streams:
        """The streams that are trained on in this step."""
        each = -(-len(self.train) // self._at_once)
        epoch, number = divmod(step, each)
        order = self._order(epoch, self.train)
        return self._at(order[number * self._at_once : (number + 1) * self._at_once])

    def held_out_kl(self, translators: Translators) -> Tensor:
        """Each layer's mean over the held-out tokens, in nats [layer]."""
        total = torch.zeros(len(translators), dtype=torch.float64)
        for start in range(0, len(self.held_out), self._at_once):
            total += translators.kl(self._at(self.held_out[start : start + self._at_once]))
        return (total / sum(len(self._rows[i]) for i in self.held_out)).float()

    def _order(self, epoch: int, rows: Sequence[int]) -> list[int]:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch + 1) % 2**64)
        return [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]

    def _at(self, rows: Sequence[int]) -> Streams:
        if self._stored is not None:
            return [torch.cat([self._stored[site][i] for i in rows]) for site in self._sites]
        batch = pad([self._rows[i].tolist() for i in rows], ("",) * len(rows))
        inside = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        found = capture(self._model, batch, self._sites)
        return [found[site][inside.to(found[site].device)] for site in self._sites]


def _train(
    corpus: _Corpus,
    translators: Translators,
    settings: _Settings,
    checkpoint: Checkpoint | None,
    progress: Progress | None,
) -> Best:
    every = max(1, settings.steps // _CHECKS)
    saved = checkpoint.read() if checkpoint else None
    if saved:
        step, best, state = saved
        translators.restore(state)
    else:
        step, best = 0, Best.identity(corpus.held_out_kl(translators), len(translators.bias[0]))
        _check_finite(best)
    while step < settings.steps:
        layers = (best.stale < settings.patience).nonzero().flatten().tolist()
        if not layers:
            break
        translators.step(corpus.batch(step), layers, step / settings.steps)
        step += 1
        if step % every == 0 or step == settings.steps:
            best.update(corpus.held_out_kl(translators), translators.affine)
            if checkpoint:
                checkpoint.write(step, best, translators.state())
        if progress:
            progress(step, settings.steps)
    if progress and step < settings.steps:
        progress(settings.steps, settings.steps)
    return best


def _check_finite(best: Best) -> None:
    if not bool(torch.isfinite(best.logit_kl).all()):
        raise ModelError(
            "The model's predictions on the held-out text are not finite, so no lens can be "
            "trained on them; load it in float32."
        )
