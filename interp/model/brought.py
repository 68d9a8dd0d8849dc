"""The weights of a module as it looks them up, some of which lie elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from interp.errors import ModelError

__all__ = ["CHANGED", "Brought", "Read", "Slot"]

CHANGED = (
    "'{name}' was changed in memory, but lies elsewhere, so the change would be lost; load the "
    "model with its block where it computes (device_map) to change weights."
)


class Slot(NamedTuple):
    """A weight and what it is brought with.

    Attributes:
        group: the block, or another module, whose weights come together.
        name: of the weight, as a checkpoint has it.
    """

    group: str
    name: str


class Brought(dict[str, Any]):
    """The weights of a module, some of which are brought when they are asked for.

    What the dictionary itself holds of these are parameters without numbers: whoever gets round the
    methods below gets an error from PyTorch, and no number.
    """

    def __init__(self, seen: Callable[[Slot], nn.Parameter], held: Mapping[str, Any]) -> None:
        super().__init__(held)
        self._seen = seen
        self._slots: dict[str, Slot] = {}

    def put(self, name: str, slot: Slot, empty: nn.Parameter) -> None:
        self._slots[name] = slot
        super().__setitem__(name, empty)

    def __getitem__(self, name: str) -> Any:
        slot = self._slots.get(name)
        return super().__getitem__(name) if slot is None else self._seen(slot)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def __deepcopy__(self, _memo: object) -> Brought:
        """For a module of the same weights; nothing is brought."""
        made = Brought(self._seen, {name: super(Brought, self).__getitem__(name) for name in self})
        made._slots = dict(self._slots)
        return made

    # Defined so that `dict(…)` and `{**…}` come by `__getitem__` as well.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def values(self) -> Any:
        return _Values(self)

    def items(self) -> Any:
        return _Items(self)

    def copy(self) -> dict[str, Any]:
        return dict(self.items())

    def __setitem__(self, name: str, value: Any) -> None:
        self._refuse(name)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._refuse(name)
        super().__delitem__(name)

    def pop(self, name: str, *default: Any) -> Any:
        self._refuse(name)
        return super().pop(name, *default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *others: Any, **named: Any) -> None:
        for name, value in dict(*others, **named).items():
            self[name] = value

    def __ior__(self, other: Any) -> Brought:  # type: ignore[override,misc]
        self.update(other)
        return self

    def popitem(self) -> tuple[str, Any]:
        self._refuse(next(reversed(self), ""))
        return super().popitem()

    def clear(self) -> None:
        for name in self:
            self._refuse(name)
        super().clear()

    def _refuse(self, name: str) -> None:
        if name in self._slots:
            raise ModelError(CHANGED.format(name=self._slots[name].name))


class _Values:
    """What a module holds, each looked up when it is its turn."""

    def __init__(self, held: Brought) -> None:
        self._held = held

    def __iter__(self) -> Iterator[Any]:
        return (self._held[name] for name in list(self._held))

    def __len__(self) -> int:
        return len(self._held)


class _Items(_Values):
    def __iter__(self) -> Iterator[Any]:
        return ((name, self._held[name]) for name in list(self._held))


class Read(Mapping[str, Tensor]):
    def __init__(self, named: Mapping[str, Tensor], one: Callable[[str], Tensor]) -> None:
        self._named, self._one = named, one

    def __getitem__(self, name: str) -> Tensor:
        value = self._named[name]
        return self._one(name) if value.device.type == "meta" else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)
