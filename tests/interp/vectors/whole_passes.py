"""Vectors put in by torch's own hooks on Hugging Face's own modules: a whole pass for each run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp import load_model
from tests.interp import surgery
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import build_tokenizer, words

NAMES = ("GPT-2", "Llama", "GPT-NeoX", "Gemma 2")
"""Learned positions; grouped queries; parallel blocks; scaled embeddings, soft caps, norms after
attention and MLP."""

Write = tuple[int, Any, Tensor]
"""A layer, an index of the activation [position, …] there, and what is written."""


class Built:
    """One architecture, twice: as Hugging Face has it, and through `load_model`."""

    def __init__(self, name: str) -> None:
        self.name = name
        architecture = ARCHITECTURES[name]
        self.hf = architecture.build()
        self.model = load_model(architecture.build(), tokenizer=build_tokenizer())
        self.layout = architecture.layout
        self.n_layers = architecture.n_layers

    def ids(self, text: str) -> list[int]:
        return self.model.token_ids(text)

    def activation(self, site: str, layer: int, text: str) -> Tensor:
        """[position, …] of one unpadded prompt."""
        return surgery.activation(self.hf, self.layout, site, layer, self.ids(text))

    def logits(self, site: str, ids: Sequence[int], writes: Iterable[Write]) -> Tensor:
        """[position, vocabulary] of one unpadded sequence under these changes."""
        with contextlib.ExitStack() as stack:
            for layer, where, value in writes:

                def put(activation: Tensor, where: Any = where, value: Tensor = value) -> None:
                    activation[where] = value

                change = surgery.intervened(self.hf, self.layout, site, layer, put)
                stack.enter_context(change)
            return surgery.logits(self.hf, ids)

    def logprob(self, site: str, text: str, answer: str, writes: Iterable[Write]) -> float:
        """Log-probability of a whole answer after one changed prompt."""
        ids, answer_ids = self.ids(text), words(answer)
        logits = self.logits(site, [*ids, *answer_ids[:-1]], writes)
        rows = logits[len(ids) - 1 :].log_softmax(-1)
        return float(rows[torch.arange(len(answer_ids)), torch.tensor(answer_ids)].sum())
