"""Stored tokens as a stream of batches: what PyTorch calls an iterable dataset.

The order is that of `.order`: global, seeded, another one each epoch. Batch i holds the same
tokens whoever reads it; with several workers, worker w reads batches w, w + n, … and of the disk
only what these need (whole MiBs, since a MiB is what a checksum covers).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cache.errors import StorageError
from cache.training.batches import Batches
from cache.training.dataset import Form
from cache.training.loader import TokenLoader
from cache.training.order import Order
from cache.training.plan import Plan
from cache.training.tokens import TokenReader

__all__ = ["Settings", "TokenStream"]

_FORMAT = "obverse-cursor-1"
_NO_CURSOR = "This is no cursor of a stream; give what `state_dict` returned."
_MOST_EPOCHS = 1 << 62
# Bytes that finding a token's place takes, besides its activations.
_OVERHEAD = 64


@dataclass(frozen=True)
class Settings:
    """What decides the order.

    Attributes:
        seed: of the shuffle.
        shuffle: whether tokens are shuffled; else they come in the order of a `TokenDataset`.
        pool: bytes of activations, with what it takes to find them, that are shuffled together.
    """

    seed: int
    shuffle: bool
    pool: int


class TokenStream(IterableDataset[Any]):
    """All tokens once an epoch, in batches [token, *width].

    Iterating goes on where the last iteration ended: after a `break` with the next batch, after
    the last batch with the next epoch. `state_dict` says where that is, and another process whose
    stream was made alike goes on from there after `load_state_dict`.

    In a `torch.utils.data.DataLoader` (give it `batch_size=None`) each of its workers has a copy;
    call `set_epoch` before each epoch then, and use `loader` instead if `state_dict` matters: what
    the workers have read ahead was not received yet.

    How good the shuffle is: each epoch cuts the store into segments of neighbouring tokens, draws
    `SEGMENTS` (128) of them at random, and permutes their tokens, all of them, uniformly; then the
    next 128. A store that fits into one pool is permuted uniformly as a whole. In a larger one two
    tokens of a segment are always in the same pool: if their correlation is ρ, the mean over a
    pool strays from the store's mean by √(ρ/128) standard deviations of an activation. A larger
    pool brings longer segments, not more of them; what it improves is how rarely pools change.
    """

    def __init__(
        self,
        plan: Plan,
        form: Form,
        settings: Settings,
        *,
        batch_size: int,
        drop_last: bool,
        note_use: Callable[[], None] | None = None,
    ) -> None:
        """See `ActivationStore.stream`."""
        least = plan.bytes_per_token + _OVERHEAD
        if settings.pool < least:
            raise StorageError(f"A pool of {settings.pool} bytes holds no token; give it {least}.")
        if batch_size < 1 or (drop_last and batch_size > plan.n_tokens):
            raise StorageError(
                f"Batches of {batch_size:,} cannot be made of {plan.n_tokens:,} tokens; choose "
                "another batch size."
            )
        self.plan, self.form, self.settings = plan, form, settings
        self._note_use = note_use
        # Tokens are numbered alike with and without the shards of which none are used.
        order = Order(
            plan.tokens[plan.used],
            settings.pool // least,
            settings.seed if settings.shuffle else None,
        )
        self._batches = Batches(order, batch_size, drop_last)
        # The epoch and the token to begin at, in memory that workers share: they look there
        # whenever they begin, also those that live through several epochs.
        self._start = _shared(torch.zeros(2, dtype=torch.int64))
        self._reader = TokenReader(plan, info=form.info)

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay in the process that opened them, and so does the store.
        return {**self.__dict__, "_reader": None, "_note_use": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _shared(self._start)
        self._reader = TokenReader(self.plan, info=self.form.info)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-self._batches.end(0) // self._batches.size)

    @property
    def n_tokens(self) -> int:
        """Tokens of an epoch."""
        return self.plan.n_tokens

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0."""
        return int(self._start[0])

    def set_epoch(self, epoch: int) -> None:
        """Go on with the first batch of an epoch."""
        self.move(epoch, 0)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is None:
            return self._in_process()
        return self._read(*self.start, worker.id, worker.num_workers)

    # -- the cursor ---------------------------------------------------------------------------

    @property
    def start(self) -> tuple[int, int]:
        """The epoch to go on in, and how many of its tokens were given."""
        epoch, token = self._start.tolist()
        return epoch, token

    def move(self, epoch: int, token: int) -> None:
        """Go on there."""
        self._start.copy_(torch.tensor([epoch, token]))

    def after(self, epoch: int, token: int, batches: int) -> tuple[int, int]:
        """Where to go on when so many batches were given since `token` of `epoch`."""
        next_token = token + batches * self._batches.size
        return (epoch, next_token) if next_token < self._batches.end(token) else (epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where iterating goes on: small, and fit for JSON."""
        return self.cursor(*self.start)

    def cursor(self, epoch: int, token: int) -> dict[str, Any]:
        """The `state_dict` of another place."""
        return {
            "format": _FORMAT,
            "content": self.plan.digest,
            "settings": asdict(self.settings),
            "epoch": epoch,
            "token": token,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream was; its batches may have had another size.

        Raises:
            StorageError: it was over other tokens (because the store has changed since, or other
                rows, positions or sites were chosen), or had another order; or this is no cursor.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
            raise StorageError(_NO_CURSOR)
        if state.get("content") != self.plan.digest:
            raise StorageError(
                f"The cursor is not of these tokens: '{self.plan.root}' has changed since, or "
                "other rows, positions or sites were chosen; begin a new epoch, or bring back "
                "what there was."
            )
        settings = state.get("settings")
        if not isinstance(settings, Mapping):
            raise StorageError(_NO_CURSOR)
        for name, value in asdict(self.settings).items():
            if (found := settings.get(name)) != value:
                raise StorageError(
                    f"The cursor is of a stream with {name}={found}, this one has {name}={value}; "
                    "make them alike."
                )
        epoch, token = state.get("epoch"), state.get("token")
        if type(epoch) is not int or type(token) is not int:
            raise StorageError(_NO_CURSOR)
        if not 0 <= epoch < _MOST_EPOCHS or not 0 <= token < self.n_tokens:
            raise StorageError(_NO_CURSOR)
        self.move(epoch, token)

    def loader(self, num_workers: int = 0, **options: Any) -> TokenLoader:
        """Read by worker processes, with a cursor that counts what was received.

        Args:
            options: of a `torch.utils.data.DataLoader`, such as `pin_memory=True`,
                `prefetch_factor=4`, `multiprocessing_context="spawn"`.
        """
        return TokenLoader(self, num_workers, **options)

    def _read(self, *place: int) -> Iterator[Any]:
        return (self.form(batch) for batch in self._batches.read(self._reader, *place))

    def _in_process(self) -> Iterator[Any]:
        epoch, start = self.start
        self.note_use()
        for number, batch in enumerate(self._read(epoch, start), 1):
            self.move(*self.after(epoch, start, number))
            yield batch
        self.move(epoch + 1, 0)

    def note_use(self) -> None:
        """Tell the store that its shards are used, so that others are evicted before them."""
        if self._note_use is not None:
            # A full disk is no reason not to read.
            with contextlib.suppress(StorageError):
                self._note_use()


def _shared(values: Tensor) -> Tensor:
    values.share_memory_()  # type: ignore[no-untyped-call]
    return values
