"""Two models that can be compared: of one shape, with one tokenizer, and not the same object."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.model.identity.fingerprint import canonical_weights, configuration, place
from interp.model.model import Model
from interp.model.packed import refuse_packed
from interp.prompts.tokens import Prompts, TokenBatch, check_length, tokenise

__all__ = ["ModelPair", "check_apart", "check_unchanged"]


@dataclass(frozen=True)
class ModelPair:
    """A model and what became of it.

    Attributes:
        base: the model that the differences are counted from.
        tuned: the other one.
        weights: by Hugging Face's name the weights of both. Of names for one tensor (a tied
            unembedding) each is there.
        identity: names and fingerprints of both when they were looked at, and which settings of
            their configurations differ.
    """

    base: Model
    tuned: Model
    weights: Mapping[str, tuple[Tensor, Tensor]]
    identity: Mapping[str, str]

    @classmethod
    def of(cls, base: Model, tuned: Model) -> ModelPair:
        """See that both can be compared.

        Raises:
            ModelError: one object twice; another architecture, shape, vocabulary, tokenizer, dtype
                or device; weights that are not finite; hooks or other changes beside the weights.
        """
        check_apart(base, tuned)
        for model in (base, tuned):
            refuse_packed(model, "Models are compared weight by weight")
        with _locked(base, tuned):
            weights = _paired(base, tuned)
            _check_tokens(base, tuned)
            _check_numbers(base, tuned, weights)
            names = [check_unchanged(model) for model in (base, tuned)]
            about = {
                **base.identity,
                "tuned": tuned.name,
                "tuned_fingerprint": names[1],
                "other_settings": ", ".join(_other_settings(base, tuned)),
            }
            return cls(base, tuned, weights, about)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other thread runs either model."""
        with _locked(self.base, self.tuned):
            yield

    def tokenise(self, prompts: Prompts | str, what: str = "prompts") -> TokenBatch:
        """Prompts as token ids that both models read.

        Raises:
            PromptError: none, empty or unreadable ones, or one that is too long for either model.
        """
        batch = tokenise(self.base, prompts, what=what)
        check_length(self.tuned, int(batch.lengths.max()), what)
        return batch

    def attrs(self, instrument: str) -> dict[str, str]:
        """What a result notes of the models that it is about.

        Raises:
            ModelError: one of them was changed since they were looked at.
        """
        self.check(lambda model: model.once("compared", lambda: model.fingerprint))
        return {"instrument": instrument, **self.identity}

    def check(self, name: Callable[[Model], str]) -> None:
        """Raise a ModelError where a model is not called what it was when it was looked at."""
        for model, noted in ((self.base, "fingerprint"), (self.tuned, "tuned_fingerprint")):
            if name(model) != self.identity[noted]:
                raise ModelError(f"{model.name} was changed while it was compared; compare again.")


def check_apart(one: Model, other: Model) -> None:
    """Raise a ModelError where both are one model in memory."""
    same = one is other or one.bridge is other.bridge
    if same or one.bridge.original_model is other.bridge.original_model:
        raise ModelError(
            f"{one.name} would be compared with itself: both are the same object in memory; load "
            "the other model, or the same one a second time as a control."
        )


@contextlib.contextmanager
def _locked(one: Model, other: Model) -> Iterator[None]:
    # In one order, whichever is called base, so that two threads never wait for each other.
    first, second = sorted((one, other), key=id)
    with first.lock, second.lock:
        yield


def _paired(base: Model, tuned: Model) -> Mapping[str, tuple[Tensor, Tensor]]:
    kinds = [type(model.bridge.original_model).__name__ for model in (base, tuned)]
    if kinds[0] != kinds[1]:
        raise ModelError(
            f"{base.name} is a {kinds[0]} and {tuned.name} a {kinds[1]}; only models of one shape "
            "can be compared part by part."
        )
    with base.unread(), tuned.unread():
        ours, theirs = (canonical_weights(m.bridge.original_model) for m in (base, tuned))
    odd = sorted(ours.keys() ^ theirs.keys())
    if odd:
        without = tuned if odd[0] in ours else base
        raise ModelError(
            f"{without.name} has no weights '{odd[0]}', which the other model has; only models of "
            "one shape can be compared."
        )
    for name, mine in ours.items():
        if mine.shape != theirs[name].shape:
            raise ModelError(
                f"'{name}' has the shape {tuple(mine.shape)} in {base.name} and "
                f"{tuple(theirs[name].shape)} in {tuned.name}; only models of one shape, with one "
                "vocabulary, can be compared."
            )
    if _shared(ours) != _shared(theirs):
        raise ModelError(
            f"Some weights are tied in one of {base.name} and {tuned.name} and not in the other; "
            "load both as they were trained, tied or untied."
        )
    if base.elsewhere is None and tuned.elsewhere is None:
        return {name: (mine, theirs[name]) for name, mine in ours.items()}
    if base.device != tuned.device:
        raise ModelError(
            f"{base.name} computes on {base.device} and {tuned.name} on {tuned.device}; load both "
            "on one device."
        )
    return _Both(base, tuned)


class _Both(Mapping[str, tuple[Tensor, Tensor]]):
    """Weights of both by name, read when they are looked up where they lie elsewhere."""

    def __init__(self, base: Model, tuned: Model) -> None:
        self._ours, self._theirs, self._device = base.weights(), tuned.weights(), base.device

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        return self._ours[name].to(self._device), self._theirs[name].to(self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ours)

    def __len__(self) -> int:
        return len(self._ours)


def _shared(weights: Mapping[str, Tensor]) -> set[frozenset[str]]:
    """Which names stand for one tensor."""
    found: dict[tuple[Hashable, tuple[int, ...]], set[str]] = {}
    for name, tensor in weights.items():
        found.setdefault((place(tensor), tuple(tensor.shape)), set()).add(name)
    return {frozenset(names) for names in found.values()}


def _check_tokens(base: Model, tuned: Model) -> None:
    alike = (
        base.tokenizer_fingerprint == tuned.tokenizer_fingerprint
        and base.prepends_bos == tuned.prepends_bos
        and base.d_vocab == tuned.d_vocab
    )
    if not alike:
        raise ModelError(
            f"{base.name} and {tuned.name} have different tokenizers, so that the same text is "
            "different tokens to them; load the tuned model with the base's tokenizer if it was "
            "trained with that."
        )


def _check_numbers(base: Model, tuned: Model, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    for name, (mine, theirs) in weights.items():
        if mine.device != theirs.device:
            raise ModelError(
                f"{base.name} is on {mine.device} and {tuned.name} on {theirs.device}; load both "
                "on one device."
            )
        if mine.dtype != theirs.dtype:
            raise ModelError(
                f"'{name}' is {_dtype(mine)} in {base.name} and {_dtype(theirs)} in {tuned.name}, "
                "and rounding would count as a difference; load both in one dtype."
            )
        for model, tensor in ((base, mine), (tuned, theirs)):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"{model.name} has non-finite weights in '{name}'; load an intact checkpoint."
                )


def check_unchanged(model: Model) -> str:
    """The model's fingerprint; a ModelError where it is more than its weights."""
    seen = model.look()
    if seen.changes:
        raise ModelError(
            f"{model.name} is more than its weights say ({seen.changes[0].what}), and that would "
            "not be compared; undo it, or load the model again."
        )
    return seen.fingerprint


def _other_settings(base: Model, tuned: Model) -> list[str]:
    """What of the configurations differs: no weight tells of another base of rotations."""
    ours, theirs = (json.loads(configuration(m.bridge.original_model)) for m in (base, tuned))
    missing = object()
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if ours.get(name, missing) != theirs.get(name, missing)
    )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
