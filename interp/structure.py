"""What a model does with its weights: the modules, their settings, their code, and hooks.

Weights are hashed; code cannot be. So it is noted how a model was built, and each use compares:
whether the same modules stand in the same places with the same settings, whether their classes and
the functions that these call are the ones that came with their packages, and whether anybody has
placed a hook.
"""

from __future__ import annotations

import functools
import itertools
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules

from interp.fingerprint import plain_name

__all__ = ["Change", "Structure", "hooks", "serial", "walk"]

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__) - {"training"}
# Where something was found and what it is called there; what TransformerLens counts while it runs.
_NO_SETTINGS = frozenset({"name", "name_or_path", "context_level", "gradient_checkpointing"})
_PLAIN = (bool, int, float, str, type(None))
_MISSING: Any = object()
_PACKAGES = ("torch", "transformers", "transformer_lens")
_HELPERS = (*_PACKAGES, "huggingface_hub", "accelerate", "jaxtyping")
# Functions that every architecture's code ends in.
_TORCH = (torch, torch.nn.functional, torch.Tensor, torch._C._nn)


@dataclass(frozen=True)
class Change:
    """Something about a model that its weights do not tell.

    Attributes:
        what: for people, as in "… because WHAT".
        token: the same in this process as long as the change stays, and no other's.
        hook: whether it is a hook, which can be taken away.
    """

    what: str
    token: str
    hook: bool = False


def walk(bridge: Any) -> dict[str, nn.Module]:
    """Every module that takes part, by path: the bridge's, and Hugging Face's below them."""
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    # TransformerLens' tree holds wrappers only by attribute, Hugging Face's holds the wrappers.
    left: list[tuple[str, nn.Module]] = [("bridge", bridge), ("model", bridge.original_model)]
    while left:
        path, module = left.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found[path] = module
        left += [(f"{path}.{n}", m) for n, m in module._modules.items() if m is not None]
    return found


def hooks(modules: Mapping[str, nn.Module]) -> list[Change]:
    """Hooks that somebody has placed: TransformerLens', PyTorch's on any module, and global ones.

    Those that TransformerLens and this package need for themselves do not count.
    """
    found = []
    for name in _GLOBAL_HOOKS:
        for fn in getattr(torch_modules, name).values():
            found.append(_hook(fn, "every module of PyTorch"))
    for path, module in modules.items():
        for name in _HOOKS:
            placed = module.__dict__.get(name)
            if placed:
                found += [_hook(fn, _place(path)) for fn in placed.values() if not _is_ours(fn)]
        # What is placed on its points TransformerLens wraps in functions of its own.
        for name in ("fwd_hooks", "bwd_hooks"):
            for handle in module.__dict__.get(name, ()):
                if not _is_ours(handle.user_hook):
                    found.append(_hook(handle.user_hook, _place(path)))
    return found


class Structure:
    """How a model was built.

    Args:
        bridge: the model as it is now.
        plain: a model of the same class and configuration, freshly built, whose weights do not
            matter: what it says of a module counts, where somebody may have had the model before.
    """

    def __init__(self, bridge: Any, plain: nn.Module | None = None) -> None:
        self._bridge = bridge
        modules = walk(bridge)
        self._modules = modules
        self._settings = {path: _settings(module) for path, module in modules.items()}
        self._held = {path: set(module.__dict__) for path, module in modules.items()}
        self._types: dict[str, type] = {path: type(m) for path, m in modules.items()}
        for path, module in plain.named_modules() if plain is not None else ():
            self._expect(path, module)
        classes = {base for m in modules.values() for base in type(m).__mro__} - {object}
        for module in plain.modules() if plain is not None else ():
            classes |= set(type(module).__mro__) - {object}
        self._foreign_classes = sorted(
            {f"{c.__module__}.{c.__qualname__}" for c in classes if _is_foreign(c)}
        )
        self._code = [_code_of(space) for space in (*_TORCH, *_namespaces(classes))]

    def changes(self, modules: Mapping[str, nn.Module]) -> list[Change]:
        """What is not as it was built, hooks first.

        Args:
            modules: what `walk` finds now.
        """
        found = hooks(modules)
        if torch.is_autocast_enabled(_device(modules)):
            found.append(_change("autocast is on", "autocast"))
        for name in self._foreign_classes:
            found.append(_change(f"it is made of {name}, which no fingerprint names", name))
        if modules.keys() != self._modules.keys():
            odd = sorted(modules.keys() ^ self._modules.keys())[0]
            what = "added" if odd in modules else "taken away"
            found.append(_change(f"the module {_place(odd)} was {what}", "modules", *modules))
        for path, module in modules.items():
            expected = self._types.get(path)
            if expected is None:
                continue
            if type(module) is not expected:
                kind = type(module)
                found.append(
                    _change(f"{_place(path)} was replaced by a {kind.__name__}", path, serial(kind))
                )
                continue
            settings = self._settings[path]
            new = module.__dict__.keys() - self._held[path]
            if new or not _as_expected(module, settings):
                found += _differences(path, module, settings, sorted(new))
        for code in self._code:
            found += code.changes()
        return found

    def _expect(self, plain_path: str, built: nn.Module) -> None:
        """Expect of a module what a freshly built one has."""
        for path, module in self._by_plain_path.get(plain_path, ()):
            self._types[path] = type(built)
            expected = self._settings[path]
            for name, value in _settings(built).items():
                if isinstance(value, (*_PLAIN, tuple)):
                    expected[name] = value
            for name in [n for n, v in expected.items() if callable(v)]:
                if name not in built.__dict__ and not _is_ours(expected[name]):
                    expected[name] = _MISSING
            assert isinstance(module, nn.Module)

    @functools.cached_property
    def _by_plain_path(self) -> dict[str, list[tuple[str, nn.Module]]]:
        found: dict[str, list[tuple[str, nn.Module]]] = {}
        # A module has two paths where TransformerLens has another name for it.
        originals = self._bridge.original_model.named_modules(remove_duplicate=False)
        known = {id(module): path for path, module in self._modules.items()}
        for path, module in originals:
            if not type(module).__module__.startswith("transformer_lens."):
                there = known[id(module)]
                found.setdefault(plain_name(path), []).append((there, module))
        return found


def _device(modules: Mapping[str, nn.Module]) -> str:
    for module in modules.values():
        for parameter in module._parameters.values():
            if parameter is not None:
                return parameter.device.type
    return "cpu"


# -- settings of modules --------------------------------------------------------------------------


def _settings(module: nn.Module) -> dict[str, Any]:
    """Attributes that may decide what a module computes: numbers, words, functions, objects."""
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in _OF_EVERY_MODULE and _is_setting(name, value)
    }


def _is_setting(name: str, value: object) -> bool:
    if name in _NO_SETTINGS or isinstance(value, torch.Tensor | nn.Module | list | dict | set):
        return False
    return not name.startswith("_") or isinstance(value, _FUNCTIONS)


_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
)


def _same(value: object, expected: object) -> bool:
    if value is expected:
        return True
    if type(value) is not type(expected):
        return False
    if isinstance(value, types.MethodType):  # made anew at each look
        return value == expected
    return isinstance(value, (*_PLAIN, tuple)) and value == expected


def _as_expected(module: nn.Module, expected: Mapping[str, Any]) -> bool:
    held = module.__dict__
    for name, value in expected.items():
        now = held.get(name, _MISSING)
        if now is not value and not _same(now, value):
            return False
    return True


def _is_new(module: nn.Module, name: str) -> bool:
    """Whether an attribute that was not there replaces something of the class."""
    value = module.__dict__[name]
    if name in _OF_EVERY_MODULE or not _is_setting(name, value):
        return False
    return isinstance(value, _FUNCTIONS) or hasattr(type(module), name)


def _differences(
    path: str, module: nn.Module, expected: Mapping[str, Any], new: Sequence[str]
) -> Iterator[Change]:
    held = module.__dict__
    for name, value in expected.items():
        now = held.get(name, _MISSING)
        if not _same(now, value):
            if name == "training":
                yield _change(f"{_place(path)} is in training mode", path, name)
            else:
                yield _change(f"'{name}' of {_place(path)} was changed", path, name, serial(now))
    for name in new:
        if _is_new(module, name):
            yield _change(f"'{name}' of {_place(path)} was replaced", path, serial(held[name]))


# -- code -----------------------------------------------------------------------------------------


class _Code:
    """The functions and classes of one namespace (a class or a Python module) as first seen."""

    def __init__(self, space: Any) -> None:
        self._space = space
        held = {n: v for n, v in vars(space).items() if _is_code(n, v)}
        self._names, self._values = list(held), list(held.values())
        self._functions = [v for v in self._values if isinstance(v, types.FunctionType)]
        self._codes = [fn.__code__ for fn in self._functions]
        self._defaults = [(fn.__defaults__, fn.__kwdefaults__) for fn in self._functions]
        self._foreign = {n for n, v in held.items() if _is_patched(space, v)}
        self._is_module_class = isinstance(space, type) and issubclass(space, nn.Module)

    def changes(self) -> list[Change]:
        now = vars(self._space)
        same = (
            not self._foreign
            and all(map(is_, map(now.get, self._names), self._values))
            and all(map(is_, map(attrgetter("__code__"), self._functions), self._codes))
            and all(
                (fn.__defaults__, fn.__kwdefaults__) == before
                for fn, before in zip(self._functions, self._defaults, strict=True)
            )
        )
        added = self._added(now) if self._is_module_class else []
        if same and not added:
            return []
        return [*self._replaced(now), *added]

    def _replaced(self, now: Mapping[str, Any]) -> list[Change]:
        found = []
        for place, name in enumerate(self._names):
            value = now.get(name)
            if name in self._foreign and value is not None and not _is_patched(self._space, value):
                # It was patched when it was first seen, and is no longer.
                self._foreign.discard(name)
                self._values[place] = value
            elif name in self._foreign or value is not self._values[place]:
                found.append(self._change(name, value))
        for fn, code, defaults in zip(self._functions, self._codes, self._defaults, strict=True):
            if fn.__code__ is not code or (fn.__defaults__, fn.__kwdefaults__) != defaults:
                found.append(self._change(fn.__name__, fn.__code__))
        return found

    def _added(self, now: Mapping[str, Any]) -> list[Change]:
        if len(now) == len(self._names):
            return []
        known = set(self._names)
        return [
            self._change(name, value)
            for name, value in list(now.items())
            if name not in known and isinstance(value, types.FunctionType) and _is_code(name, value)
        ]

    def _change(self, name: str, value: object) -> Change:
        space = getattr(self._space, "__qualname__", self._space.__name__)
        return _change(f"{space}.{name} was patched", space, name, serial(value))


_SEEN: dict[int, _Code] = {}


def _code_of(space: Any) -> _Code:
    """The namespace as it was when any model needed it first."""
    if id(space) not in _SEEN:
        _SEEN[id(space)] = _Code(space)
    return _SEEN[id(space)]


def _namespaces(classes: set[type]) -> list[Any]:
    """The classes, and the Python modules that they are written in."""
    ordered = sorted(classes, key=lambda c: (c.__module__, c.__qualname__))
    files = {c.__module__: None for c in ordered if c.__module__.partition(".")[0] in _PACKAGES}
    # PyTorch's own functions are looked at apart; its module of modules holds its hooks.
    files.pop(torch_modules.__name__, None)
    return [*ordered, *(sys.modules[name] for name in files if name in sys.modules)]


def _is_code(name: str, value: object) -> bool:
    # Weights are initialised with functions that Hugging Face exchanges for a while.
    return (
        callable(value) or isinstance(value, staticmethod | classmethod | property)
    ) and "init" not in name


def _is_patched(space: Any, value: object) -> bool:
    """Whether a function of a package's class or module was written outside of all packages."""
    if isinstance(space, type) and _is_foreign(space):
        return False  # which is told of the class
    fn = getattr(value, "__func__", getattr(value, "fget", value))
    while isinstance(fn, types.FunctionType):
        if not fn.__code__.co_filename.startswith(_trusted()):
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
def _trusted() -> tuple[str, ...]:
    """Where code of packages and of Python lies."""
    folders = [sysconfig.get_paths()["stdlib"], "<frozen "]
    folders += list({sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")})
    for name in _HELPERS:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            folders.append(str(Path(file).parent))
    return tuple(folders)


def _is_ours(fn: object) -> bool:
    """Whether a hook or function is TransformerLens', or the one that `interp.model` places."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    module = getattr(fn, "__module__", None) or ""
    # Hugging Face collects what it was asked to return with hooks that stay.
    return module.startswith(
        ("transformer_lens.", "transformers.utils.output_capturing", "interp.model")
    )


# -- words ----------------------------------------------------------------------------------------


def _hook(fn: object, where: str) -> Change:
    return Change(f"a hook is placed on {where}", f"hook {where} {serial(fn)}", hook=True)


def _change(what: str, *token: object) -> Change:
    return Change(what, " ".join(map(str, (what, *token))))


def _place(path: str) -> str:
    """A module's path as its own library writes it."""
    root, _, rest = plain_name(path).partition(".")
    return f"'{rest}'" if rest else ("the model" if root == "model" else "the bridge")


_NUMBERS = itertools.count()
_SERIALS: dict[int, tuple[Callable[[], object] | None, int | str]] = {}


def serial(value: object) -> int | str:
    """A number for an object that no other object gets in this process; plain values are theirs."""
    if isinstance(value, (*_PLAIN, tuple)):
        return repr(value)
    ref, number = _SERIALS.get(id(value), (None, -1))
    if ref is not None and ref() is value:
        return number
    try:
        alive: Callable[[], object] = weakref.ref(value)
    except TypeError:  # it is kept, so that nothing else comes to bear its identity
        alive = functools.partial(lambda kept: kept, value)
    _SERIALS[id(value)] = alive, next(_NUMBERS)
    return _SERIALS[id(value)][1]
