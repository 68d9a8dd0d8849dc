"""A fact written into one MLP by a rank-one edit (ROME, Meng et al. 2022), many edits at once.

An MLP's last matrix W turns neurons k into what is written to the stream. With
W + v (C⁻¹k*)ᵀ / (k*ᵀC⁻¹k*) the key k* brings v besides what it brought, and other keys as little as
their covariance C allows. For a token with neurons k that is the same as adding v times one number,
so that each row of a batch can have an edit of its own, and no weight is touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.forward.access import changing, keeping
from interp.forward.passes import observe, readout, record, recording_memory
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.prompts.pairs import continuations, find_span, forced
from interp.prompts.tokens import TokenBatch, check_length, tokenise
from interp.sites import Site
from interp.vectors.sources import read_vectors

__all__ = [
    "Answers",
    "Edits",
    "Keys",
    "answered",
    "edited",
    "improved",
    "name_ends",
    "written",
]

MOST_TOKENS = 2000
_RIDGE = 0.01
"""Of the keys' mean square: what other keys than those seen may be like."""
STEPS = 10


@dataclass(frozen=True)
class Edits:
    """One edit for each row of a batch.

    Attributes:
        layer: whose MLP is edited.
        key: reads 1 from the neurons of its own key [edit, neuron].
        value: what is added to the output where the key reads 1 [edit, d_model].
    """

    layer: int
    key: Float[Tensor, "edit neuron"]
    value: Float[Tensor, "edit d_model"]

    def of(self, rows: npt.NDArray[np.int64]) -> Edits:
        at = torch.from_numpy(rows).to(self.key.device)
        return Edits(self.layer, self.key[at], self.value[at])


@contextlib.contextmanager
def edited(model: Model, edits: Edits) -> Iterator[None]:
    """Inside, row i of every batch is run by a model with edit i; afterwards nothing is left."""
    neurons, out = Site("mlp_act", edits.layer), Site("mlp_out", edits.layer)

    def add(value: Tensor) -> Tensor:
        read = torch.einsum("rpn,rn->rp", kept[neurons].to(edits.key.dtype), edits.key)
        return value + (read[..., None] * edits.value[:, None]).to(value.dtype)

    with keeping(model, [neurons]) as kept, changing(model, [(out, add)]):
        yield


def name_ends(batch: TokenBatch, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The last token of the name that each prompt asks about [row]."""
    last = [find_span(batch, row, name, "name")[1] - 1 for row, name in enumerate(names)]
    return np.array(last, np.int64)


@dataclass(frozen=True)
class Keys:
    """What neurons of one layer do on the study's own sentences, to keep edits apart from them.

    Attributes:
        layer: of the MLP.
        seen: neurons of tokens [token, neuron].
    """

    layer: int
    seen: Float[Tensor, "token neuron"]

    @classmethod
    def of(cls, model: Model, sentences: Sequence[str], layer: int, seed: int) -> Keys:
        batch = tokenise(model, sentences)
        site = Site("mlp_act", layer)
        found = []

        def work(start: int, stop: int) -> None:
            values = observe(model, batch.ids[start:stop], [site])[site]
            real = torch.arange(values.shape[1])[None, :] < batch.lengths[start:stop, None]
            found.append(values[real.to(values.device)].double())

        size = rows_that_fit(model, recording_memory(model, batch.ids.shape[1], 1))
        for _ in batches(len(batch), size, work):
            pass
        seen = torch.cat(found)
        chosen = np.random.default_rng(seed).permutation(len(seen))[:MOST_TOKENS]
        return cls(layer, seen[torch.from_numpy(chosen).to(seen.device)])

    def reader(self, keys: Float[Tensor, "edit neuron"]) -> Float[Tensor, "edit neuron"]:
        """C⁻¹k / (kᵀC⁻¹k) of each key, by Woodbury's identity: there may be many neurons."""
        keys = keys.double()
        count = len(self.seen)
        ridge = _RIDGE * float(self.seen.square().mean()) * count
        if not ridge > 0:
            raise ModelError(f"No neuron of layer {self.layer} is active, so there are no keys.")
        gram = self.seen @ self.seen.T
        gram.diagonal().add_(ridge)
        inside = torch.linalg.solve(gram, self.seen @ keys.T)
        whitened = keys - (self.seen.T @ inside).T
        length = (whitened * keys).sum(1, keepdim=True)
        if not bool((length > 0).all()):
            raise ModelError(f"A name has no active neuron in layer {self.layer}, so no key.")
        reader: Tensor = whitened / length
        return reader


@dataclass(frozen=True)
class Answers:
    """Prompts with their answers as tokens, to be asked again and again."""

    reads: TokenBatch
    ids: Int[Tensor, "row position"]
    positions: Int[Tensor, "row token"]
    targets: Int[Tensor, "row token"]

    @classmethod
    def of(cls, model: Model, prompts: Sequence[str], answers: Sequence[str]) -> Answers:
        batch = tokenise(model, prompts)
        reading = forced(batch, continuations(model, batch, [f" {answer}" for answer in answers]))
        check_length(model, reading.ids.shape[1], "prompts with their answers")
        return cls(batch, reading.ids, reading.positions, reading.targets)

    def __len__(self) -> int:
        return len(self.ids)

    def of_rows(self, rows: npt.NDArray[np.int64]) -> Answers:
        """Some of them, to be asked; `reads` stays as it is."""
        at = torch.from_numpy(rows)
        return Answers(self.reads, self.ids[at], self.positions[at], self.targets[at])


def answered(
    model: Model, asked: Answers, edits: Edits | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Whether greedy decoding gives each whole answer, and its log-probability in nats [row]."""
    n = len(asked)
    correct, logprob = np.zeros(n, bool), np.zeros(n)
    last = Site("resid_post", model.n_layers - 1)

    def work(start: int, stop: int) -> None:
        with contextlib.ExitStack() as stack:
            if edits is not None:
                stack.enter_context(edited(model, edits.of(np.arange(start, stop))))
            hidden = observe(model, asked.ids[start:stop], [last])[last]
        at = asked.positions[start:stop].to(hidden.device)
        targets = asked.targets[start:stop].to(hidden.device)
        logits = readout(model, hidden.gather(1, at[..., None].expand(-1, -1, model.d_model)))
        there = targets >= 0
        right = (logits.argmax(-1) == targets) | ~there
        found = logits.double().log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
        correct[start:stop] = right.all(1).cpu().numpy()
        logprob[start:stop] = (found * there).sum(1).cpu().numpy()

    # The first run of a model is tried, without any edit.
    record(model, asked.ids[:1], [last])
    width = asked.ids.shape[1]
    memory = 2 * recording_memory(model, width, 2) + 12 * asked.positions.shape[1] * model.d_vocab
    for _ in batches(n, rows_that_fit(model, memory), work):
        pass
    return correct, logprob


def improved(
    model: Model,
    asked: Answers,
    edits: Edits,
    number: npt.NDArray[np.int64],
    n: int,
    radius: float,
) -> Float[Tensor, "value d_model"]:
    """Values that make answers likelier where they are written, none longer than `radius`.

    Steps along the gradient of the answers' log-probability, each shorter than the last.

    Args:
        asked: questions, each with the answer that its value is to bring.
        edits: the layer, and whose key each question's value is written at; what they write now is
            what the steps begin with.
        number: which of the n values each question is for.
    """
    at = torch.from_numpy(number).to(edits.value.device)
    value = edits.value.new_zeros(n, model.d_model)
    value[at] = edits.value
    size = rows_that_fit(
        model,
        6 * recording_memory(model, asked.ids.shape[1], model.n_layers)
        + 12 * asked.ids.shape[1] * model.d_vocab,
    )
    for step in range(STEPS):
        total = torch.zeros_like(value)

        def work(start: int, stop: int, value: Tensor = value, total: Tensor = total) -> None:
            mine = at[start:stop]
            leaf = value[mine].clone().requires_grad_(True)
            with (
                torch.enable_grad(),
                edited(model, Edits(edits.layer, edits.key[start:stop], leaf)),
            ):
                ids = asked.ids[start:stop].to(model.device)
                logits = model.bridge(ids, use_cache=False, return_type="logits")
                places = asked.positions[start:stop].to(logits.device)
                targets = asked.targets[start:stop].to(logits.device)
                rows = torch.arange(len(ids), device=logits.device)[:, None]
                read = logits[rows, places].float().log_softmax(-1)
                gained = read.gather(2, targets.clamp(min=0)[..., None])[..., 0]
                (by,) = torch.autograd.grad((gained * (targets >= 0)).sum(), [leaf])
            total.index_add_(0, mine, by)

        for _ in batches(len(asked), size, work):
            pass
        length = total.norm(dim=1, keepdim=True)
        value = value + 0.5 * radius / (1 + step) ** 0.5 * total / length.clamp(min=1e-30)
        value = value * (radius / value.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1.0)
    return value


def written(
    model: Model, batch: TokenBatch, ends: npt.NDArray[np.int64], site: str, layers: Sequence[int]
) -> Float[Tensor, "layer row d"]:
    """What a site has at each prompt's name."""
    return read_vectors(model, batch, site, layers, np.arange(len(ends)), ends)
