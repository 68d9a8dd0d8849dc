"""What public functions are given, held against what they say that they take.

A wrong type would end in a traceback far from its cause, or be taken for something else: one text
is a sequence of letters. So the annotations are read, and what clearly is something else is told in
one sentence before anything is computed. What annotations leave open, functions check themselves.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import re
import textwrap
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union

from cache.errors import ArgumentError

__all__ = ["Seed", "Wanted", "typed"]


@dataclass(frozen=True)
class _ByName:
    """A class that is not imported, for the time that this would take."""

    __name__: str


F = TypeVar("F", bound=Callable[..., Any])

_SEVERAL = (
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
    list,
    tuple,
)
_TEXTS = ("object", "str", "<U", ">U", "|S")  # how dtypes of texts, or of anything, are called
_UNIONS = (Union, types.UnionType)


class Wanted(Protocol):
    """In `Annotated[…]`: more than a type that an argument must be."""

    def fits(self, value: Any) -> bool:
        """Whether a value of the right type is what is wanted."""

    def __str__(self) -> str:
        """What to give: "a result of sweep"."""


@dataclass(frozen=True)
class _WholeNumber:
    """Those that lie between two ends."""

    least: int
    most: int

    def fits(self, value: Any) -> bool:
        return self.least <= int(value) <= self.most

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


# What every generator of random numbers takes, and a file of results can hold.
Seed = Annotated[int, _WholeNumber(0, 2**63 - 1)]


def typed(what: F) -> F:
    """Look at the arguments of a public function before it runs; of a class's public methods."""
    if inspect.isclass(what):
        return typing.cast(F, _checked_class(what))
    return typing.cast(F, _checked_function(what))


def _checked_class(cls: type) -> type:
    for name, member in list(vars(cls).items()):
        if name != "__init__" and name.startswith("_"):
            continue
        if isinstance(member, classmethod | staticmethod):
            setattr(cls, name, type(member)(_checked_function(member.__func__)))
        elif inspect.isfunction(member):
            setattr(cls, name, _checked_function(member))
    return cls


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = _spelled_out(function)
    name = function.__qualname__.removesuffix(".__init__").rsplit(".", 1)[-1]

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        for parameter, value in given.items():
            one, hint = signature.parameters[parameter], hints_of(function).get(parameter, Any)
            plain = one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
            if plain and value is not one.default and not _fits(value, hint):
                raise ArgumentError(_refused(name, parameter, hint, value))
        return function(*args, **kwargs)

    called.__signature__ = signature  # type: ignore[attr-defined]
    if options := _options(function):
        called.__doc__ = _listed(str(function.__doc__), str(options.__doc__))
    return called


def _options(function: Callable[..., Any]) -> type | None:
    """The `TypedDict` of a function's `**options: Unpack[…]`."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            inside = typing.get_args(_hint(function, parameter.name, parameter.annotation))
            if inside and typing.is_typeddict(inside[0]):
                return typing.cast(type, inside[0])
    return None


def _spelled_out(function: Callable[..., Any]) -> inspect.Signature:
    """The signature, with each key of `**options: Unpack[…]` as an argument of its own."""
    signature, options = inspect.signature(function), _options(function)
    if options is None:
        return signature
    *named, last = signature.parameters.values()
    written = inspect.get_annotations(options)
    spelled = [
        last.replace(
            name=key,
            kind=last.KEYWORD_ONLY,
            default=None if _fits(None, hint) else ...,
            annotation=getattr(written[key], "__forward_arg__", hint),
        )
        for key, hint in typing.get_type_hints(options, include_extras=True).items()
    ]
    return signature.replace(parameters=[*named, *spelled])


def _listed(text: str, options: str) -> str:
    """A docstring in which the line of `**options` has become what the options' own one lists."""
    lists = inspect.cleandoc(options).partition("Attributes:\n")[2].rstrip()
    return re.sub(
        r"^( *)\*\*options:.*$",
        lambda line: textwrap.indent(textwrap.dedent(lists), line[1]),
        text,
        flags=re.MULTILINE,
    )


@functools.cache
def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters' types; a class that only a type checker can see is known by its name."""
    function = inspect.unwrap(function)  # decorators have names of their own
    written = {k: v for k, v in inspect.get_annotations(function).items() if k != "return"}
    found = {name: _hint(function, name, hint) for name, hint in written.items()}
    if options := _options(function):
        found.update(typing.get_type_hints(options, include_extras=True))
    return {name: hint for name, hint in found.items() if hint is not None}


def _hint(function: Callable[..., Any], name: str, written: Any) -> Any:
    """The type of one parameter; None where it cannot be told."""
    # One by one, so that a name that is not there takes no other with it.
    one = types.FunctionType((lambda: None).__code__, function.__globals__)
    one.__annotations__ = {name: written}
    try:
        return typing.get_type_hints(one, include_extras=True)[name]
    except NameError:
        return _ByName(written) if str(written).isidentifier() else None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be meant by a type; doubt speaks for it."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    if isinstance(hint, _ByName):
        return any(base.__name__ == hint.__name__ for base in type(value).__mro__)
    if origin in _UNIONS:
        return any(_fits(value, one) for one in inside)
    if origin is Annotated:
        return _fits(value, inside[0]) and all(wanted.fits(value) for wanted in inside[1:])
    if origin is Literal:
        return any(_fits(value, type(one)) and value == one for one in inside)
    if hint is float:
        return _is_number(value, numbers.Real, ("int", "uint", "float", "bfloat"))
    if hint is int:
        return _is_number(value, numbers.Integral, ("int", "uint"))
    if hint is bool:
        return isinstance(value, bool) or type(value).__name__ == "bool_"
    if origin is collections.abc.Callable:
        return callable(value)
    if hasattr(hint, "array_type"):  # jaxtyping: dtypes and shapes are told by the functions
        return _fits(value, hint.array_type) and ("bool" in hint.dtypes or not _is_truths(value))
    plain = origin or hint
    if plain in _SEVERAL:
        return _is_several(value) and _hold(value, inside)
    if plain is collections.abc.Mapping:
        plain_one = isinstance(value, plain) and not _is_labelled(value)
        return plain_one and all(_fits(one, of) for one in value.values() for of in inside[1:])
    if getattr(plain, "_is_protocol", False):
        return all(hasattr(value, name) for name in vars(plain) if not name.startswith("_"))
    return not isinstance(plain, type) or isinstance(value, plain)


def _hold(values: Any, inside: tuple[Any, ...]) -> bool:
    """Whether a list may hold such values; single texts and numbers are told by the functions."""
    if inside[1:] == (...,):  # a tuple of any length
        inside = inside[:1]
    if len(inside) > 1 and bool not in inside and _is_truths(values):
        return False
    if len(inside) != 1 or inside[0] in (str, Any):
        numeric = _is_array(values) and not _is_of_text(values)
        return not (numeric and inside[:1] == (str,)) and getattr(values, "ndim", 1) == 1
    if isinstance(values, list | tuple):
        origin, choices = typing.get_origin(inside[0]), typing.get_args(inside[0])
        if origin in _SEVERAL:  # what a list of lists may hold, functions say better
            return choices == (bool,) or not any(map(_is_truths, values))
        if origin is Literal:  # and which of them go together
            return all(any(_fits(value, type(one)) for one in choices) for value in values)
        return all(_fits(value, inside[0]) for value in values)
    if inside[0] in (int, float) and _is_truths(values):
        return False
    if inside[0] in (int, float, bool):
        return not (_is_array(values) and _is_of_text(values))
    return not _is_array(values) or _is_of_text(values)


def _is_number(value: Any, kind: type, dtypes: tuple[str, ...]) -> bool:
    """Whether it is one number; True and False are none, though Python adds them up."""
    if _is_array(value):
        return value.ndim == 0 and _dtype(value).startswith(dtypes)
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_truths(values: Any) -> bool:
    """Whether it is, or has among its entries, True or False."""
    if _is_array(values):
        return _dtype(values).startswith("bool")
    return isinstance(values, list | tuple) and bool in set(map(type, values))


def _dtype(values: Any) -> str:
    return str(values.dtype).removeprefix("torch.").lower()


def _is_of_text(values: Any) -> bool:
    return str(values.dtype).startswith(_TEXTS)


def _is_several(value: Any) -> bool:
    if isinstance(value, str | bytes | bytearray | Path | collections.abc.Mapping):
        return False
    if _is_labelled(value) or not isinstance(value, collections.abc.Iterable):
        return False
    return getattr(value, "ndim", 1) > 0


def _is_labelled(value: Any) -> bool:
    """Whether it is one of xarray's."""
    return hasattr(value, "coords") and hasattr(value, "dims")


def _is_array(value: Any) -> bool:
    return hasattr(value, "ndim") and hasattr(value, "dtype")


def _refused(function: str, parameter: str, hint: Any, value: Any) -> str:
    """The sentence for an argument that does not fit."""
    options = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    if isinstance(value, str) and any(typing.get_origin(one) is Literal for one in options):
        shown = value if len(value) <= 40 else value[:39] + "…"
        names = [_described(one) for one in options if one is not type(None)]
        return f"Unknown {parameter} {shown!r}; choose {_listed_or(names)}."
    given = _named(value)
    if typing.get_origin(hint) is Annotated and _is_number(value, numbers.Integral, ("int",)):
        number = int(value)
        given = str(number) if number.bit_length() < 100 else f"one of {number.bit_length()} bits"
    advice = _advice(value, hint)
    return f"{function} takes {parameter} as {_described(hint)}, not {given}{advice}."


def _listed_or(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _described(hint: Any) -> str:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return "None"
    if origin in _UNIONS:
        return _listed_or(list(dict.fromkeys(_described(one) for one in inside)))
    if origin is Annotated:
        return " and ".join(map(str, inside[1:]))
    if origin is Literal:
        return _listed_or([repr(one) for one in inside])
    if origin is collections.abc.Callable:
        return "a function"
    if hasattr(hint, "array_type"):
        return f"a {hint.array_type.__name__} [{hint.dim_str.strip()}]"
    plain = origin or hint
    if plain in _SEVERAL:
        of = f" of {_plural(inside[0])}" if inside and isinstance(inside[0], type) else ""
        return f"a list{of}"
    if plain is collections.abc.Mapping:
        return (
            f"a dictionary whose values are each {_described(inside[1])}"
            if inside
            else "a dictionary"
        )
    if getattr(plain, "_is_protocol", False):
        said = str(plain.__doc__ or plain.__name__).partition(".")[0]
        return said[:1].lower() + said[1:]
    return {str: "text", int: "an integer", float: "a number", bool: "True or False"}.get(
        plain, getattr(plain, "__name__", str(plain))
    )


def _plural(kind: type) -> str:
    return {float: "numbers", int: "integers"}.get(kind) or _described(kind)


def _named(value: Any) -> str:
    if value is None:
        return "None"
    instrument = getattr(value, "attrs", {}).get("instrument")
    if isinstance(instrument, str) and hasattr(value, "data_vars"):
        return f"a result of '{instrument}'"
    name = type(value).__name__
    if isinstance(value, str):
        return "one text" if len(value) > 40 else f"the text {value!r}"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _advice(value: Any, hint: Any) -> str:
    if isinstance(value, str):
        wanted = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
        if any(getattr(one, "__name__", "") == "Model" for one in wanted):
            return "; load it with load_model first"
        if any((typing.get_origin(one) or one) in _SEVERAL for one in wanted):
            return "; put it into a list"
    return ""
