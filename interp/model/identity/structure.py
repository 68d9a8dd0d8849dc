"""What a model does with its weights: the modules, their settings, their code, and hooks.

Weights are hashed; code cannot be. So it is noted how a model was built, and each use compares:
whether the same modules stand in the same places with the same settings, whether their classes and
the functions that these call are the ones that came with their packages, and whether anybody has
placed a hook.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import is_, itemgetter, methodcaller
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules

from interp.model.identity.change import PLAIN, Change, change, serial
from interp.model.identity.code import Patches, taking
from interp.model.identity.fingerprint import plain_name
from interp.model.packed import is_packed

__all__ = ["Structure", "Tree", "hooks", "walk"]

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
# What is placed on its points TransformerLens wraps in functions of its own.
_POINTS = ("fwd_hooks", "bwd_hooks")
_PLACED = (*_HOOKS, *_POINTS)
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__) - {"training"}
# Where something was found and what it is called there; what TransformerLens counts while it runs;
# what computes blocks again, in training mode only.
_NO_SETTINGS = frozenset(
    {
        *("name", "name_or_path", "context_level"),
        *("gradient_checkpointing", "_gradient_checkpointing_func"),
    }
)
_TENSORS = (type(None), torch.Tensor, nn.Parameter, nn.Buffer)
_PLAIN_TENSORS = frozenset(_TENSORS)
_VALUES = methodcaller("values")
_NUMBERS = itemgetter("_parameters", "_buffers")
_MISSING: Any = object()


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
        if inside := module._modules:
            left += [(f"{path}.{n}", m) for n, m in inside.items() if m is not None]
    return found


class Tree:
    """The modules of a bridge, which are found again at once as long as they are the same."""

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge
        self._model: nn.Module | None = None
        self._found: dict[str, nn.Module] = {}
        self._names: list[list[str]] = []
        self._inside: list[nn.Module | None] = []

    def modules(self) -> Mapping[str, nn.Module]:
        """What `walk` finds."""
        inside = [module._modules for module in self._found.values()]
        if (
            self._bridge.original_model is not self._model
            or list(map(list, inside)) != self._names
            or not all(map(is_, chain.from_iterable(map(_VALUES, inside)), self._inside))
        ):
            self._model, self._found = self._bridge.original_model, walk(self._bridge)
            inside = [module._modules for module in self._found.values()]
            self._names = list(map(list, inside))
            self._inside = list(chain.from_iterable(map(_VALUES, inside)))
        return self._found


def hooks(modules: Mapping[str, nn.Module]) -> list[Change]:
    """Hooks that somebody has placed: TransformerLens', PyTorch's on any module, and global ones.

    Those that TransformerLens and this package need for themselves do not count.
    """
    found = []
    for name in _GLOBAL_HOOKS:
        for fn in getattr(torch_modules, name).values():
            found.append(_hook(fn, "every module of PyTorch"))
    for path, module in modules.items():
        held = module.__dict__
        if not any(map(held.get, _PLACED)):
            continue
        placed = [fn for name in _HOOKS for fn in (held.get(name) or {}).values()]
        placed += [handle.user_hook for name in _POINTS for handle in held.get(name, ())]
        found += [_hook(fn, _place(path)) for fn in placed if not _is_ours(fn)]
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
        classes = {type(module) for module in modules.values()}
        classes |= {type(module) for module in (plain.modules() if plain is not None else ())}
        self._patches = Patches(classes, bridge.original_model.config)
        self._shapes = {path: self._shape(path, module) for path, module in modules.items()}
        self._together: _Together | None = None

    def changes(self, modules: Mapping[str, nn.Module]) -> list[Change]:
        """What is not as it was built, hooks first.

        Args:
            modules: what `walk` finds now.
        """
        found = hooks(modules)
        device = _device(modules)
        if device != "meta" and torch.is_autocast_enabled(device):
            found.append(change("autocast is on", "autocast"))
        if modules.keys() != self._modules.keys():
            odd = sorted(modules.keys() ^ self._modules.keys())[0]
            what = "added" if odd in modules else "taken away"
            found.append(change(f"the module {_place(odd)} was {what}", "modules", *modules))
        if self._together is None or not self._together.fits(modules):
            own = list(self._differing(modules))
            found += own
            same = not own and modules.keys() == self._modules.keys()
            self._together = _Together(modules, self._settings) if same else None
        return [*found, *self._patches.changes()]

    def _differing(self, modules: Mapping[str, nn.Module]) -> Iterator[Change]:
        """What is told of each module that is not as it was built."""
        for path, module in modules.items():
            expected = self._types.get(path)
            if expected is None or self._shapes[path].fits(module):
                continue
            if type(module) is not expected:
                kind = type(module)
                yield change(
                    f"{_place(path)} was replaced by a {kind.__name__}", path, serial(kind)
                )
                continue
            for name, value in (*module._parameters.items(), *module._buffers.items()):
                # Which may compute what they like; of packed weights the parts are looked at.
                if type(value) not in _TENSORS and not is_packed(value):
                    what = f"'{name}' of {_place(path)} is a {type(value).__name__}"
                    yield change(what, serial(type(value)))
            new = module.__dict__.keys() - self._held[path]
            yield from _differences(path, module, self._settings[path], sorted(new))

    def _shape(self, path: str, module: nn.Module) -> _Shape:
        settings = self._settings[path]
        for name, expected in settings.items():
            now = module.__dict__.get(name)
            # The same number, but another object: the one that is compared without looking at it.
            if isinstance(expected, PLAIN) and _same(now, expected):
                settings[name] = now
        return _Shape(self._types[path], frozenset(self._held[path]), settings)

    def _expect(self, plain_path: str, built: nn.Module) -> None:
        """Expect of a module what a freshly built one has."""
        for path, module in self._by_plain_path.get(plain_path, ()):
            self._types[path] = type(built)
            expected = self._settings[path]
            for name, value in _settings(built).items():
                if isinstance(value, (*PLAIN, tuple)):
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
            if parameter is not None and not parameter.is_meta:
                return parameter.device.type
    return "cpu"


class _Shape:
    """What nearly every module still has at each look, compared at once.

    Args:
        kind: its type.
        held: the names of its attributes.
        settings: those that decide what it computes.
    """

    def __init__(self, kind: type, held: frozenset[str], settings: Mapping[str, Any]) -> None:
        self._kind, self._held = kind, held
        self._values = list(settings.values())
        self._take = taking(list(settings))

    def fits(self, module: nn.Module) -> bool:
        """False where it has to be looked at more closely."""
        held = module.__dict__
        if type(module) is not self._kind or not held.keys() <= self._held:
            return False
        for tensors in (held["_parameters"], held["_buffers"]):
            if tensors and not all(type(value) in _TENSORS for value in tensors.values()):
                return False
        try:
            return all(map(is_, self._take(held), self._values))
        except KeyError:
            return False


class _Together:
    """Modules that are as they were built, compared at once with what they are now: most looks
    find nothing, and need not look at each for itself.

    Args:
        modules: by path.
        settings: by path, the attributes that decide what a module computes.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], settings: Mapping[str, Mapping[str, Any]]
    ) -> None:
        held = [module.__dict__ for module in modules.values()]
        self._paths = list(modules)
        self._kinds = list(map(type, modules.values()))
        self._names = list(map(list, held))
        # What is not there is expected nowhere, and is seen by its name when it comes.
        decide = [
            [name for name in settings[path] if name in own]
            for path, own in zip(modules, held, strict=True)
        ]
        self._takers = list(map(taking, decide))
        self._values = list(self._decides(held))

    def fits(self, modules: Mapping[str, nn.Module]) -> bool:
        """False where each has to be looked at for itself."""
        held = [module.__dict__ for module in modules.values()]
        if (
            list(modules) != self._paths
            or not all(map(is_, map(type, modules.values()), self._kinds))
            or list(map(list, held)) != self._names
        ):
            return False
        tensors = filter(None, chain.from_iterable(map(_NUMBERS, held)))
        kinds = {type(value) for one in tensors for value in one.values()}
        return kinds <= _PLAIN_TENSORS and all(map(is_, self._decides(held), self._values))

    def _decides(self, held: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        return chain.from_iterable(
            [take(one) for take, one in zip(self._takers, held, strict=True)]
        )


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
    return isinstance(value, (*PLAIN, tuple)) and value == expected


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
                yield change(f"{_place(path)} is in training mode", path, name)
            else:
                yield change(f"'{name}' of {_place(path)} was changed", path, name, serial(now))
    for name in new:
        if _is_new(module, name):
            yield change(f"'{name}' of {_place(path)} was replaced", path, serial(held[name]))


def _is_ours(fn: object) -> bool:
    """Whether a hook or function is TransformerLens', or the one that `Model` places."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    module = getattr(fn, "__module__", None) or ""
    # Hugging Face collects what it was asked to return with hooks that stay, as does the one that
    # a training with checkpoints lets gradients into embeddings with.
    return module.startswith(
        (
            *("transformer_lens.", "interp.model.model", "interp.model.elsewhere"),
            *("transformers.utils.output_capturing", "transformers.modeling_utils"),
        )
    )


# -- words -----------------------------------------------------------------------------------------


def _hook(fn: object, where: str) -> Change:
    token, momentary = f"hook {where} {serial(fn)}", bool(getattr(fn, "momentary", False))
    return Change(f"a hook is placed on {where}", token, hook=True, momentary=momentary)


def _place(path: str) -> str:
    """A module's path as its own library writes it."""
    root, _, rest = plain_name(path).partition(".")
    return f"'{rest}'" if rest else ("the model" if root == "model" else "the bridge")
