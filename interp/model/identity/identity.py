"""What identifies a model: what it computes, looked at anew each time somebody asks.

Three things are compared, each of which sees what the others cannot: a digest of all numbers
(`.contents`: one element of one row), how the modules are built and hooked
(`.structure`: a hook that fires on one token only), and the answers to a short input
(`.behaviour`: whatever nobody thought of).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp.model.digests import digest
from interp.model.elsewhere import Elsewhere
from interp.model.identity.behaviour import Answers, Behaviour, answers
from interp.model.identity.change import Change, serial
from interp.model.identity.contents import tensors
from interp.model.identity.fingerprint import (
    built_anew,
    canonical_weights,
    configuration,
    fingerprint,
    hash_tensors,
    plain_name,
)
from interp.model.identity.structure import Structure, Tree
from interp.model.packed import PLAIN_TENSORS, parts
from interp.model.threads import threads_for

__all__ = ["Identity", "Seen"]

_NAMED = 64
_SPLIT = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
# No other process makes the same name for what it cannot name.
_PROCESS = secrets.token_hex(8)


@dataclass(frozen=True)
class Seen:
    """A model at one moment.

    Attributes:
        fingerprint: 32 hexadecimal digits.
        changes: what it is beside its weights and configuration, so that these do not name it;
            none, for most models at most times.
        answers: to the fixed input; None where there are changes.
    """

    fingerprint: str
    changes: tuple[Change, ...]
    answers: Answers | None


class _State(NamedTuple):
    """What a model holds: weights, other numbers, and configuration."""

    weights: bytes
    others: bytes
    settings: str
    compatible: bool
    elsewhere: Hashable


class Identity:
    """Tells what a model is, and remembers what that was made of.

    Args:
        bridge: the model, as it was loaded.
        from_memory: whether somebody had it before, so that it is compared with a model that is
            built anew from the same configuration.
        elsewhere: the weights that do not lie where it computes. These are told by the files that
            they lie in, and a model that has some is asked for its answers once for each state of
            its numbers, not each time: to ask is to read all blocks.
        answered: what it has just answered, if it was asked already.
    """

    def __init__(
        self,
        bridge: Any,
        *,
        from_memory: bool,
        elsewhere: Elsewhere | None = None,
        answered: Answers | None = None,
    ) -> None:
        self._bridge = bridge
        self._elsewhere = elsewhere
        self._given = answered
        self._answered: tuple[object, Answers] | None = None
        model = bridge.original_model
        plain = _built(model) if from_memory else None
        self._compatible = bool(bridge.compatibility_mode)
        with self._unread():
            self._structure = Structure(bridge, plain)
            self._behaviour = Behaviour(steady=elsewhere is None)
            self._names: OrderedDict[object, str] = OrderedDict()
            self._tree = Tree(bridge)
            modules = self._tree.modules()
            held, views = tensors(modules, elsewhere)
            self._numbers = sum(value.numel() for value in held.values())
            found = [
                one
                for name, value in canonical_weights(model).items()
                for _, one in parts(name, value)
            ]
        hashed = {value.data_ptr() for value in found if not value.is_meta}
        self._canonical = {name for name, value in held.items() if value.data_ptr() in hashed}
        self._extra = digest(self._others(held), views)
        if plain is not None and not _has_buffers_of(model, plain):
            self._extra = b""
        self._compare()

    def look(self, bridge: Any) -> Seen:
        """The model as it is now. The caller holds the model's lock.

        Args:
            bridge: what runs, which somebody may have exchanged.

        Raises:
            ModelError: some weights are not in memory.
        """
        state, others, changes, now = self._compare()
        if bridge is not self._bridge:
            changes = [Change("its bridge was exchanged", f"bridge {serial(bridge)}")]
        name = self._names.get(state)
        if name is None:
            name = self._names[state] = self._name(state.others, others)
            while len(self._names) > _NAMED:
                self._names.popitem(last=False)
        if changes:
            process = f"{_PROCESS} {os.getpid()}"  # which a forked one does not share
            told = "\n".join([name, process, *(change.token for change in changes)])
            name = hashlib.sha256(told.encode()).hexdigest()[:32]
        return Seen(name, tuple(changes), now)

    def state(self, bridge: Any) -> Hashable:
        """The same as long as nobody changes the model; cheap, since no number is read.

        Hooks that an instrument has placed for a moment are no change. The caller holds the lock.
        """
        modules = self._tree.modules()
        with self._unread():
            found = (own for m in modules.values() if (own := m._parameters))
            held: list[Tensor] = [
                value for own in found for value in own.values() if value is not None
            ]
            if not set(map(type, held)) <= PLAIN_TENSORS:
                held = [one for value in held for _, one in parts("", value)]
            changes = self._structure.changes(modules)
        return (
            serial(bridge),
            bool(self._bridge.compatibility_mode),
            *_ways(self._bridge),
            tuple(c.token for c in changes if not c.momentary),
            tuple((value.data_ptr(), _version(value)) for value in held),
            self._weights,
            self._elsewhere and self._elsewhere.state(),
        )

    def is_as_built(self, bridge: Any) -> bool:
        """Whether its modules, their settings and their code are those it was loaded with, and no
        hooks are on them; cheap, and says nothing of weights. The caller holds the lock."""
        compatible = bool(self._bridge.compatibility_mode)
        with self._unread():
            changes = self._structure.changes(self._tree.modules())
        return bridge is self._bridge and not compatible and not changes

    def _compare(self) -> tuple[_State, dict[str, Tensor], list[Change], Answers | None]:
        """All but the name, which takes a slow hash where the weights are new."""
        if self._elsewhere is not None:
            device = self._elsewhere.device
        else:
            device = next(self._bridge.original_model.parameters()).device
        with threads_for(self._numbers, device):
            return self._compared()

    def _compared(self) -> tuple[_State, dict[str, Tensor], list[Change], Answers | None]:
        bridge = self._bridge
        if bool(bridge.compatibility_mode) != self._compatible:
            # TransformerLens rebuilt the model; what was folded is in the weights.
            self._compatible = not self._compatible
            self._structure = Structure(bridge)
        modules = self._tree.modules()
        with self._unread():
            changes = self._structure.changes(modules)
        now = None
        if not changes and self._elsewhere is not None and self._answered is not None:
            state, others = self._state(modules)
            known, answered = self._answered
            if known == (state, _settings(bridge)):
                return state, others, [], answered
        # What it answered while it was loaded is of that moment alone.
        given, self._given = self._given, None
        if not changes and given is not None:
            now = given
        elif not changes:
            try:
                # First, since rotations that depend on the length are made for this one again.
                now = answers(bridge)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
                changes = [Change("it fails on a short input", f"fails {type(e).__name__}")]
        state, others = self._state(modules)
        if now is not None and not self._behaviour.is_same(state, _settings(bridge), bridge, now):
            token = hashlib.sha256(b"".join(_bytes(value) for value in now)).hexdigest()
            changes = [Change("it answers otherwise than its weights did before", token)]
            now = None
        if now is not None:
            self._answered = (state, _settings(bridge)), now
        return state, others, changes, now

    def _state(self, modules: Mapping[str, nn.Module]) -> tuple[_State, dict[str, Tensor]]:
        with self._unread():
            held, views = tensors(modules, self._elsewhere)
        weights = {name: value for name, value in held.items() if name in self._canonical}
        others = self._others(held)
        settings = configuration(self._bridge.original_model)
        # Also what PyTorch does not count is seen here.
        self._weights = digest(weights)
        if self._elsewhere is not None:
            self._elsewhere.check_held()
        lies = None if self._elsewhere is None else self._elsewhere.state()
        return _State(
            self._weights, digest(others, views), settings, self._compatible, lies
        ), others

    def _unread(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._elsewhere is None else self._elsewhere.closed()

    def _others(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in held.items() if name not in self._canonical}

    def _name(self, extra: bytes, others: Mapping[str, Tensor]) -> str:
        """The hash of weights and configuration, and of other numbers if they are not as built."""
        name = fingerprint(self._bridge.original_model, self._elsewhere)
        if extra == self._extra and not self._compatible:
            return name
        hashed = hashlib.sha256(f"{name} {self._compatible}".encode())
        hash_tensors(hashed, {plain_name(path): value for path, value in others.items()})
        return hashed.hexdigest()[:32]


def _built(model: nn.Module) -> nn.Module | None:
    """The same model, built anew; None where its class does not say how."""
    try:
        return built_anew(model)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None


def _has_buffers_of(model: nn.Module, plain: nn.Module) -> bool:
    """Whether the buffers that a configuration implies are bit for bit what they are."""
    saved = plain.state_dict().keys()
    now = {plain_name(n): value for n, value in model.named_buffers(remove_duplicate=False)}
    for name, buffer in plain.named_buffers():
        if name in saved or name not in now or buffer.device.type == "meta":
            continue
        if now[name].dtype != buffer.dtype or not torch.equal(now[name].cpu(), buffer):
            return False
    return True


def _settings(bridge: Any) -> tuple[object, ...]:
    """What changes the order in which a process adds."""
    return (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.enabled,
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        torch.backends.cudnn.allow_tf32,
        *_ways(bridge),
    )


def _ways(bridge: Any) -> tuple[object, ...]:
    """In which of several ways the model computes the same: who, and whether head by head."""
    kind = getattr(bridge.original_model.config, "_attn_implementation", None)
    return (kind, *(bool(getattr(bridge.cfg, name, False)) for name in _SPLIT))


def _version(value: Tensor) -> int:
    """Counts changes in place, where PyTorch does: not of tensors made in inference mode."""
    return -1 if value.is_inference() else value._version


def _bytes(value: Tensor) -> bytes:
    return value.contiguous().view(torch.uint8).cpu().numpy().tobytes()
