"""The loop that writes: what is read, what is drawn from it, and what that adds to each text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError, PromptError
from interp.forward.interventions import Plan
from interp.forward.passes import no_numbers
from interp.generation.logits import predict
from interp.generation.reading import Reader
from interp.generation.sampling import Dice
from interp.model.model import Model
from interp.prompts.tokens import TokenBatch
from interp.sites import Site


@dataclass(frozen=True)
class Step:
    """One token for each prompt that is not finished.

    Attributes:
        index: how many tokens were written before.
        examples: the numbers of these prompts [row].
        ids: the tokens [row].
        texts: what they add to the text [row]; a character of which a part is still to come is
            held back.
        logprobs: of the tokens under the model, in nats, whatever was sampled by [row].
        activations: by site, at the token from which this one was predicted [row, …].
    """

    index: int
    examples: tuple[int, ...]
    ids: Int[Tensor, " row"]
    texts: tuple[str, ...]
    logprobs: Float[Tensor, " row"]
    activations: dict[str, Tensor]


Look = Callable[[int, Tensor, Tensor], None]
"""Gets how many tokens were written, the examples [row], and logits [row, vocabulary]."""


class Writer:
    """Appends tokens to prompts.

    Args:
        limits: how many at most, for each prompt.
        ends: tokens that end a text.
        shared: whether others may change the model between two steps.
    """

    def __init__(
        self,
        model: Model,
        batch: TokenBatch,
        limits: Int[Tensor, " example"],
        *,
        dice: Dice | None,
        changes: Plan,
        sites: tuple[Site, ...] = (),
        ends: frozenset[int] = frozenset(),
        shared: bool = False,
    ) -> None:
        self._dice, self._limits, self._ends = dice, limits, ends
        room = torch.zeros(len(batch), int(limits.max()), dtype=torch.long)
        self._ids = torch.cat([batch.ids, room], dim=1)
        self._lengths = batch.lengths.clone()
        self._model, self._changes = model, changes
        self._texts = [Text(model, batch.row(i)) for i in range(len(batch))]
        reader = functools.partial(
            Reader, model, changes, sites, self._ids, self._lengths, shared=shared
        )
        self._reader: Callable[[], Reader] = reader

    def portions(self) -> list[Tensor]:
        """All examples, as many at a time as keys and values can be kept of."""
        size, n = self._reader().rows_to_keep(), len(self._lengths)
        return [torch.arange(first, min(first + size, n)) for first in range(0, n, size)]

    def steps(self, rows: Int[Tensor, " row"], look: Look | None = None) -> Iterator[Step]:
        """Write these texts to their ends.

        Args:
            look: is shown the logits of each step before its token is drawn.

        Raises:
            ModelError: logits are infinite or NaN, of which no token is the likeliest.
        """
        reader = self._reader()
        index = 0
        while len(rows := rows[self._limits[rows] > index]):
            logits, activations = reader.read(rows)
            best = logits.max(-1)  # NaN, if there is any
            if not bool(best.values.isfinite().all()):
                raise self._no_numbers(int(rows[int((~best.values.isfinite()).cpu().nonzero()[0])]))
            if look is not None:
                look(index, rows, logits)
            examples = tuple(rows.tolist())
            dice = self._dice
            ids = best.indices if dice is None else dice.draw(logits.cpu(), examples)
            chosen = ids.to(logits.device)[:, None]
            logprobs = logits.log_softmax(-1).gather(1, chosen)[:, 0].cpu()
            ids = ids.cpu()
            self._ids[rows, self._lengths[rows]] = ids
            self._lengths[rows] += 1
            index += 1
            ended = torch.tensor([int(i) in self._ends for i in ids])
            done = ended | (index == self._limits[rows])
            texts = tuple(
                self._texts[example].add(int(i), finished=bool(stop))
                for example, i, stop in zip(examples, ids, done, strict=True)
            )
            yield Step(index - 1, examples, ids, texts, logprobs, activations)
            rows = rows[~ended]

    def _no_numbers(self, row: int) -> ModelError:
        model, length = self._model, int(self._lengths[row])
        ids, rows = self._ids[row : row + 1, :length], torch.tensor([row])
        ends = torch.tensor([[length - 1]])
        return no_numbers(
            model,
            model.decode(ids[0].tolist()),
            lambda sites: predict(model, ids, ends, self._changes, rows, sites)[1],
        )


class Text:
    """A text that grows by tokens; characters can take several of them.

    Only the last tokens are decoded again: those of what was shown last, which show how the next
    ones are joined to it.
    """

    def __init__(self, model: Model, prompt: list[int]) -> None:
        self._model, self._ids = model, list(prompt)
        self._first, self._read = 0, len(prompt)
        self._shown = model.decode(prompt)

    def add(self, token: int, *, finished: bool) -> str:
        self._ids.append(token)
        whole = self._model.decode(self._ids[self._first :])
        if not finished and whole.endswith("\ufffd"):
            return ""
        new = whole[len(self._shown) :]
        last = self._model.decode(self._ids[self._read :])
        # Tokens that leave no trace (special ones, half a space) do not show how to go on.
        if last:
            self._first, self._shown = self._read, last
        else:
            self._shown = whole
        self._read = len(self._ids)
        return new


def check_room(model: Model, batch: TokenBatch, max_new_tokens: int) -> None:
    """
    Raises:
        PromptError: nothing is to be written, or there is no room for it.
    """
    if max_new_tokens < 1:
        raise PromptError(f"{max_new_tokens} new tokens are nothing to write; ask for 1 or more.")
    longest = int(batch.lengths.max())
    # The last token is written and not read.
    room = model.n_ctx - longest + 1
    if max_new_tokens > room:
        raise PromptError(
            f"The longest prompt takes {longest} of the {model.n_ctx} tokens that {model.name} "
            f"reads, so there is no room for {max_new_tokens} new ones; ask for at most {room}."
        )
