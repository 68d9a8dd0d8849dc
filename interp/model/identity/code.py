"""Functions that a model's code calls: whether they are the ones that came with their packages."""

from __future__ import annotations

import functools
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_, itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from transformers.utils.generic import GeneralInterface

from interp.model.identity.change import Change, change, serial

__all__ = ["Patches", "taking"]

_PACKAGES = ("torch", "transformers", "transformer_lens")
_HELPERS = (*_PACKAGES, "huggingface_hub", "accelerate", "jaxtyping")
# Functions that every architecture's code ends in.
_TORCH = (torch, torch.nn.functional, torch.Tensor, torch._C._nn)
# They compute no activation, and others exchange them: notebooks, loaders, PyTorch's compiler.
_NOT_RUN = frozenset(
    {
        *("load", "save", "compile", "manual_seed", "seed", "set_printoptions", "Storage"),
        *("__repr__", "__str__", "__format__", "__dir__", "__setstate__", "__getstate__"),
        *("__reduce__", "__reduce_ex__", "__deepcopy__", "__copy__"),
        *("state_dict", "load_state_dict", "from_pretrained", "save_pretrained", "generate"),
    }
)
# What Hugging Face itself registers for each kind of attention that a model here may have.
_ATTENTION = ("eager", "sdpa")
_PARTS = tuple(map(attrgetter, ("__code__", "__defaults__", "__kwdefaults__")))
_Kept = tuple[types.FunctionType, Any, Any, Any]
"""A function, and the parts that it was made of when it was first seen."""


class Patches:
    """What was exchanged since it was first seen, or comes from outside of the packages.

    Args:
        classes: of all modules of a model.
        config: the model's configuration, which names functions in Hugging Face's registries.
    """

    def __init__(self, classes: Iterable[type], config: Any) -> None:
        self._config = config
        known = {base for kind in classes for base in kind.__mro__} - {object}
        self._foreign_classes = sorted(
            {f"{c.__module__}.{c.__qualname__}" for c in known if _is_foreign(c)}
        )
        spaces = (*_TORCH, *_namespaces(known))
        self._spaces = [_seen(space, vars(space)) for space in spaces]
        self._registries = _registries(spaces)
        self._spaces += [_seen(registry, registry) for registry in self._registries]
        self._growing = [space for space in self._spaces if space.may_grow]
        self._as_seen = None if any(s.is_foreign for s in self._spaces) else _together(self._spaces)

    def changes(self) -> list[Change]:
        found = [
            change(f"it is made of {name}, which no fingerprint names", name)
            for name in self._foreign_classes
        ]
        modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        for mode in (*modes, *_get_current_dispatch_mode_stack()):
            if _is_foreign(type(mode)):
                found.append(change(f"a {type(mode).__name__} is active", serial(mode)))
        kind = getattr(self._config, "_attn_implementation", None)
        for registry in self._registries:
            fn = registry.get(kind)
            if kind not in _ATTENTION and _is_patched(registry, fn):
                found.append(change(f"its attention is '{kind}'", serial(fn)))
        same = self._as_seen is not None and self._as_seen.is_same()
        for space in self._growing if same else self._spaces:
            found += space.added() if same else space.changes()
        return found


class _Space:
    """The functions and classes of a class, a Python module or a registry, as first seen."""

    def __init__(self, space: Any, now: Mapping[str, Any]) -> None:
        self._space, self._now = space, now
        held = {n: v for n, v in now.items() if _is_code(n, v)}
        self._foreign = {n for n, v in held.items() if _is_patched(space, v)}
        if not isinstance(space, type | types.ModuleType):
            # What somebody registered under a name of his own harms nobody who does not use it.
            own = self._foreign - set(_ATTENTION)
            self._foreign -= own
            held = {n: v for n, v in held.items() if n not in own}
        self._names, self._values = list(held), list(held.values())
        self._known = frozenset(held)
        self._functions = [v for v in self._values if isinstance(v, types.FunctionType)]
        self._codes, self._defaults, self._keyword_defaults = (
            list(map(part, self._functions)) for part in _PARTS
        )
        self._is_module_class = isinstance(space, type) and issubclass(space, nn.Module)
        self.may_grow = self._is_module_class or space is torch.Tensor

    @property
    def is_foreign(self) -> bool:
        """Whether something of it was patched already when it was first seen."""
        return bool(self._foreign)

    def looks(self) -> tuple[Callable[[Any], tuple[Any, ...]], Any, Iterable[Any]]:
        """What takes all values at once, from where, and what they were."""
        return taking(self._names), self._now, self._values

    def functions(self) -> Iterable[_Kept]:
        """The functions, and what they were made of."""
        return zip(
            self._functions, self._codes, self._defaults, self._keyword_defaults, strict=True
        )

    def changes(self) -> list[Change]:
        return [*self._replaced(), *self.added()]

    def _replaced(self) -> list[Change]:
        found = []
        for place, name in enumerate(self._names):
            value = self._now.get(name)
            if name in self._foreign and value is not None and not _is_patched(self._space, value):
                # It was patched when it was first seen, and is no longer.
                self._foreign.discard(name)
                self._values[place] = value
            elif name in self._foreign or value is not self._values[place]:
                found.append(self._change(name, value))
        for fn, *before in self.functions():
            if not all(map(is_, (fn.__code__, fn.__defaults__, fn.__kwdefaults__), before)):
                found.append(self._change(fn.__name__, fn.__code__))
        return found

    def added(self) -> list[Change]:
        """Functions that have come since, where somebody may call them by name."""
        if not self.may_grow:
            return []
        new = sorted(self._now.keys() - self._known)  # its documentation and such, mostly
        return [
            self._change(name, value)
            for name, value in [(name, self._now.get(name)) for name in new]
            if isinstance(value, types.FunctionType)
            and _is_code(name, value)
            # A new method of tensors is called by nobody who does not know it.
            and (self._is_module_class or hasattr(torch._C.TensorBase, name))
        ]

    def _change(self, name: str, value: object) -> Change:
        space = self._space
        label = getattr(space, "__qualname__", getattr(space, "__name__", type(space).__name__))
        return change(f"{label}.{name} was patched", id(space), name, serial(value))


class _Seen:
    """Many namespaces compared at once, each function once: before each use of a model.

    Args:
        spaces: of which none was patched when it was first seen.
    """

    def __init__(self, spaces: Iterable[_Space]) -> None:
        looks = [space.looks() for space in spaces]
        self._takers = [(take, now) for take, now, _ in looks]
        self._values = [value for _, _, values in looks for value in values]
        kept = {tuple(map(id, one)): one for space in spaces for one in space.functions()}
        self._functions, *self._parts = ([one[i] for one in kept.values()] for i in range(4))

    def is_same(self) -> bool:
        try:
            now = [take(space) for take, space in self._takers]
        except KeyError:
            return False
        return all(map(is_, chain.from_iterable(now), self._values)) and all(
            all(map(is_, map(part, self._functions), before))
            for part, before in zip(_PARTS, self._parts, strict=True)
        )


_TOGETHER: dict[tuple[int, ...], _Seen] = {}


def _together(spaces: Sequence[_Space]) -> _Seen:
    """The namespaces, which stay for good, compared at once: the same for models of one kind."""
    key = tuple(map(id, spaces))
    if key not in _TOGETHER:
        _TOGETHER[key] = _Seen(spaces)
    return _TOGETHER[key]


def taking(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """`itemgetter`, which takes one name alone for another thing than several."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda space: tuple(space[name] for name in names)


SEEN: dict[int, _Space] = {}


def _seen(space: Any, now: Mapping[str, Any]) -> _Space:
    """The namespace as it was when any model needed it first."""
    if id(space) not in SEEN:
        SEEN[id(space)] = _Space(space, now)
    return SEEN[id(space)]


def _namespaces(classes: set[type]) -> list[Any]:
    """The classes, the Python modules that they are written in, and those whose functions these
    call, such as the one that makes Hugging Face's masks.
    """
    ordered = sorted(classes, key=lambda c: (c.__module__, c.__qualname__))
    files = dict.fromkeys(c.__module__ for c in ordered)
    for file in [f for f in files if f.partition(".")[0] in _PACKAGES[1:] and f in sys.modules]:
        functions = [v for v in vars(sys.modules[file]).values() if callable(v)]
        written = (getattr(fn, "__module__", None) or "" for fn in functions)
        files |= dict.fromkeys(w for w in written if w.partition(".")[0] in _PACKAGES[1:])
    # PyTorch's own functions are looked at apart; its module of modules holds its hooks.
    files.pop(torch_modules.__name__, None)
    names = (f for f in files if f.partition(".")[0] in _PACKAGES and f in sys.modules)
    return [*ordered, *(sys.modules[name] for name in names)]


def _registries(spaces: Iterable[Any]) -> list[Any]:
    """Where Hugging Face's code looks for attention, and for what masks it."""
    held = [value for space in spaces for value in list(vars(space).values())]
    # Tens of thousands of values are of some hundred types.
    kinds = {kind for kind in set(map(type, held)) if issubclass(kind, GeneralInterface)}
    return list({id(v): v for v in held if type(v) in kinds}.values())


def _is_code(name: str, value: object) -> bool:
    # Weights are initialised with functions that Hugging Face exchanges for a while.
    return (
        (callable(value) or isinstance(value, staticmethod | classmethod | property))
        and "init" not in name
        and name not in _NOT_RUN
    )


def _is_patched(space: Any, value: object) -> bool:
    """Whether a function of a package's class or module was written outside of all packages."""
    if isinstance(space, type) and _is_foreign(space):
        return False  # which is told of the class
    fn = getattr(value, "__func__", getattr(value, "fget", value))
    while isinstance(fn, types.FunctionType):
        if not fn.__code__.co_filename.startswith(trusted()):
            return True
        fn = getattr(fn, "__wrapped__", None)
    return False


def _is_foreign(kind: type) -> bool:
    """Whether a class comes from none of the packages that models are made of."""
    module = kind.__module__
    if module in ("builtins", "typing", "abc") or module.partition(".")[0] in _HELPERS:
        known: Any = sys.modules.get(module)
        for part in kind.__qualname__.split("."):
            known = getattr(known, part, None)
        # PyTorch makes classes of its own for parametrisations, which are told of by their type.
        return known is not kind and "<locals>" not in kind.__qualname__ and known is not None
    return module.partition(".")[0] not in sys.stdlib_module_names


@functools.cache
def trusted() -> tuple[str, ...]:
    """Where code of packages and of Python lies."""
    folders = [sysconfig.get_paths()["stdlib"], "<frozen "]
    folders += list({sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")})
    for name in _HELPERS:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            folders.append(str(Path(file).parent))
    return tuple(folders)
