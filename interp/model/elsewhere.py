"""Weights that do not lie where the model computes, and are brought there when somebody asks.

A module asks for its weights through the dictionary that PyTorch keeps them in. For weights that
lie on disk, in the computer's memory or on another GPU this dictionary is exchanged for one that
brings the whole block when the first of them is looked up, whoever looks: the module while it runs,
an instrument that reads matrices, a user in a notebook. So there is no moment at which a module has
weights without numbers, and nothing is placed on modules that a hook could come before or after.

The blocks used last stay; those used before are let go, and live on only while something holds
them. A gradient does not: what autograd keeps of a weight is its name, and the block is brought
again when the gradient comes back to it.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from interp.errors import ModelError
from interp.model.along import Along
from interp.model.brought import CHANGED, Brought, Read, Slot
from interp.model.lent import Lent

__all__ = ["Elsewhere", "Reader", "Slot"]

Make = Callable[[], Mapping[str, Tensor]]
"""Makes weights that TransformerLens cuts out of others, by their names."""


class Reader(Protocol):
    """Where the weights lie."""

    def group(self, name: str) -> Mapping[str, Tensor]:
        """All weights of one group by name, in the dtype of the model, where it computes.

        Raises:
            ModelError: they cannot be read, or are not those that were there before.
        """

    def one(self, name: str) -> Tensor:
        """One weight by name, in the dtype of the model; nothing else is read."""

    @property
    def to_take(self) -> int:
        """Bytes that it will take when the model runs, and has not taken yet."""

    def is_stored(self, name: str) -> bool:
        """Whether a weight is read from a file, and so is the same as long as `state` tells."""

    def state(self) -> Hashable:
        """The same as long as the weights are.

        Raises:
            ModelError: it is not what it was when the model was loaded.
        """


@dataclass(frozen=True, eq=False)
class _Saved:
    """What autograd keeps of a weight: where it is found, and which part of it."""

    slot: Slot
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Elsewhere:
    """The weights of a model that lie elsewhere.

    Args:
        reader: brings them.
        device: where the model computes.
        kept: how many groups stay when others are brought.

    Attributes:
        examine: is given the name and numbers of each weight that is read when its group is brought
            for the first time, and may raise an error; what it returns is kept in `hashes`.
        hashes: by name what `examine` made of weights that stand in files.
        along: a pass that is made while another one is; it is asked before weights are brought.
    """

    def __init__(self, reader: Reader, device: torch.device, kept: int = 1) -> None:
        self.reader, self.device, self.kept = reader, device, kept
        self.slots: dict[Slot, nn.Parameter] = {}
        self.examine: Callable[[str, Tensor], bytes] | None = None
        self.hashes: dict[str, bytes] = {}
        self.along: Along[Any] | None = None
        self._examined: set[str] = set()
        self._empty: dict[int, Slot] = {}
        self._nans: dict[Slot, nn.Parameter] = {}
        self._made: dict[Slot, Make] = {}
        self._here: OrderedDict[str, dict[str, nn.Parameter]] = OrderedDict()
        self._versions: dict[str, dict[str, int]] = {}
        self._at: dict[int, Slot] = {}
        self._alive: weakref.WeakValueDictionary[Slot, nn.Parameter] = weakref.WeakValueDictionary()
        self._lent = Lent()
        self._lock = threading.RLock()
        self._local = threading.local()

    def take(self, module: nn.Module, slots: Mapping[str, Slot], make: Make | None = None) -> None:
        """Bring these weights of a module from now on; what it holds of them is let go.

        Args:
            slots: by the name in the module.
            make: for weights that are cut out of others of their group.
        """
        if not slots:
            return
        held = module._parameters
        inside = held if isinstance(held, Brought) else Brought(self.seen, held)
        for name, slot in slots.items():
            tensor = held[name]
            assert tensor is not None
            empty = self.slots.get(slot)
            if empty is None:
                empty = nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
                self.slots[slot] = empty
                self._empty[id(empty)] = slot
            inside.put(name, slot, empty)
            if make is not None:
                self._made[slot] = make
        module.__dict__["_parameters"] = inside

    @contextlib.contextmanager
    def closed(self, *, nan: bool = False) -> Iterator[None]:
        """Inside, this thread sees weights that lie elsewhere by their shapes alone.

        Args:
            nan: whether for code that asks for numbers all of them are NaN, which takes no memory.
        """
        before = getattr(self._local, "closed", None)
        self._local.closed = "nan" if nan else "empty"
        try:
            yield
        finally:
            self._local.closed = before

    def seen(self, slot: Slot) -> nn.Parameter:
        """What a module is given of a weight: the weight, or inside `closed` its shape."""
        closed = getattr(self._local, "closed", None)
        if closed is None:
            return self.lend(slot)
        empty = self.slots[slot]
        if closed == "empty":
            return empty
        if slot not in self._nans:
            nan = torch.full((1,) * empty.ndim, torch.nan, dtype=empty.dtype, device=self.device)
            self._nans[slot] = nn.Parameter(nan.expand(empty.shape), requires_grad=False)
            self._empty[id(self._nans[slot])] = slot
        return self._nans[slot]

    def stands_for(self, value: Tensor | None) -> Slot | None:
        """Which weight it was seen instead of inside `closed`."""
        return self._empty.get(id(value))

    def weight(self, slot: Slot) -> nn.Parameter:
        """A weight, brought if it is not here."""
        if self.along is not None and slot.group not in self._here:
            self.along.before_bringing()
        with self._lock:
            here = self._here.get(slot.group) or self._bring(slot.group)
            self._here.move_to_end(slot.group)
            if slot.name not in here:
                self._cut(slot, here)
            return here[slot.name]

    def lend(self, slot: Slot) -> nn.Parameter:
        """A weight for somebody who may change it, which is noticed."""
        found = self.weight(slot)
        with self._lock:
            self._lent.give(slot, found)
        return found

    def owns(self, value: Tensor) -> bool:
        """Whether this stands for a weight that was not brought."""
        return id(value) in self._empty

    def full(self, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights by name, read where they are without numbers when they are asked for."""
        return Read(named, self.reader.one)

    def state(self) -> Hashable:
        """The same as long as the weights are.

        Raises:
            ModelError: what lies elsewhere is not what it was, or what was brought was changed.
        """
        with self._lock:
            for group in self._here:
                self._check_unchanged(group)
        return self.reader.state()

    def check_held(self) -> None:
        """See that weights which somebody holds are those that lie elsewhere; keeps none itself.

        Raises:
            ModelError: somebody has changed one.
        """
        self.let_go()
        with self._lock:
            self._lent.check()
        for slot, value in list(self._alive.items()):
            made = self._made.get(slot)
            with torch.no_grad():
                whole = self.reader.one(slot.name) if made is None else made()[slot.name]
            whole = whole.detach().to(value.device)
            if not torch.equal(_raw(value), _raw(whole)):
                raise ModelError(CHANGED.format(name=slot.name))
        self.let_go()

    def was_examined(self, name: str) -> bool:
        """Whether a weight was looked at when it was brought (see `examine`)."""
        return name in self._examined

    def alive(self) -> list[str]:
        """Names of the weights that something holds here."""
        return [slot.name for slot in list(self._alive)]

    def let_go(self) -> None:
        """Keep no group any longer."""
        with self._lock:
            while self._here:
                self._drop(next(iter(self._here)))

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, autograd keeps the names of weights that lie elsewhere, and not their numbers."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield

    # -- bringing and letting go -------------------------------------------------------------------

    def _bring(self, group: str) -> dict[str, nn.Parameter]:
        # Under inference mode they could never take part in a gradient.
        with torch.inference_mode(False), torch.no_grad():
            while len(self._here) >= max(1, self.kept):
                self._drop(next(iter(self._here)))
            found = self.reader.group(group)
            if self.examine is not None and not self._examined.issuperset(found):
                for name, value in found.items():
                    told = self.examine(name, value)
                    if self.reader.is_stored(name):
                        self.hashes[name] = told
                self._examined.update(found)
            here = {n: self._same(Slot(group, n), v) for n, v in found.items()}
        self._here[group] = here
        self._note(group, here)
        return here

    def _cut(self, slot: Slot, here: dict[str, nn.Parameter]) -> None:
        if slot not in self._made:
            raise ModelError(
                f"'{slot.name}' was not found among the weights of '{slot.group}'; load the model "
                "again."
            )
        with torch.inference_mode(False), torch.no_grad():
            made = self._made[slot]()
            here |= {name: self._same(Slot(slot.group, name), v) for name, v in made.items()}
        self._note(slot.group, here)

    def _same(self, slot: Slot, value: Tensor) -> nn.Parameter:
        """The parameter that somebody still holds, or a new one of the same numbers."""
        found = self._alive.get(slot)
        if found is None:
            found = nn.Parameter(value.detach(), requires_grad=False)
            self._alive[slot] = found
        else:
            self._lent.brought_again(slot, found)
        return found

    def _note(self, group: str, here: Mapping[str, nn.Parameter]) -> None:
        versions = self._versions.setdefault(group, {})
        for name, value in here.items():
            versions.setdefault(name, value._version)
            if value.numel():
                self._at.setdefault(value.data_ptr(), Slot(group, name))

    def _drop(self, group: str) -> None:
        here = self._here.pop(group)
        try:
            self._check_versions(group, here)
        finally:
            del self._versions[group]
            for name, value in here.items():
                if self._at.get(value.data_ptr()) == Slot(group, name):
                    del self._at[value.data_ptr()]
            self._lent.let_go({Slot(group, name): value for name, value in here.items()})

    def _check_unchanged(self, group: str) -> None:
        self._check_versions(group, self._here[group])

    def _check_versions(self, group: str, here: Mapping[str, nn.Parameter]) -> None:
        for name, value in here.items():
            if value._version != self._versions[group][name]:
                raise ModelError(CHANGED.format(name=name))

    # -- autograd ----------------------------------------------------------------------------------

    def _pack(self, value: Tensor) -> Tensor | _Saved:
        slot = None if value.requires_grad else self._at.get(value.data_ptr())
        if slot is None:
            return value
        whole = self._here.get(slot.group, {}).get(slot.name)
        if whole is None or whole.dtype != value.dtype or whole.device != value.device:
            return value
        if whole.untyped_storage().data_ptr() != value.untyped_storage().data_ptr():
            return value
        offset = int(value.storage_offset()) - int(whole.storage_offset())
        return _Saved(slot, tuple(value.shape), tuple(value.stride()), offset)

    def _unpack(self, kept: Tensor | _Saved) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        whole = self.weight(kept.slot).detach()
        return whole.as_strided(kept.shape, kept.stride, whole.storage_offset() + kept.offset)

    # -- blocks ------------------------------------------------------------------------------------

    def watch(self, blocks: Iterable[nn.Module]) -> None:
        """Have gradients through these modules keep no weights (see `saving`)."""
        for block in blocks:
            block.register_forward_pre_hook(self._enter)
            block.register_forward_hook(self._exit, always_call=True)

    def _enter(self, *_: object) -> None:
        self._exit()  # of a block that was interrupted from the keyboard
        if torch.is_grad_enabled():
            stack = self._local.stack = contextlib.ExitStack()
            stack.enter_context(self.saving())

    def _exit(self, *_: object) -> None:
        stack = getattr(self._local, "stack", None)
        if stack is not None:
            self._local.stack = None
            stack.close()


def _raw(value: Tensor) -> Tensor:
    return value.detach().contiguous().view(torch.uint8)
