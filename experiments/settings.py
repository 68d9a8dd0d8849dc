"""Settings of a study as written on a command line: NAME=VALUE, of the types of its config."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from experiments.errors import StudyError
from experiments.study import Study

__all__ = ["read_settings"]

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NOTHING = "none"
_MOST_DIGITS = 30


def read_settings(study: Study[Any], written: Sequence[str]) -> dict[str, Any]:
    """Values by name, of the types of the study's config.

    Text is taken as it stands; a number, a flag (true or false), one of several words, "none" where
    a setting may be left out, and words between commas where it takes several.

    Args:
        written: each NAME=VALUE.

    Raises:
        StudyError: no such setting (with the nearest name), one twice, or a value of another type.
    """
    hints = typing.get_type_hints(study.config_type)
    kinds = {one.name: hints[one.name] for one in dataclasses.fields(study.config_type)}
    found: dict[str, Any] = {}
    for text in written:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise StudyError(f"'{text}' sets nothing; write --set NAME=VALUE.")
        if name not in kinds:
            raise StudyError(
                f"The study '{study.name}' has no setting '{name}'; {_hint(name, kinds)}"
            )
        if name in found:
            raise StudyError(f"'{name}' is set twice; write it once.")
        found[name] = _value(name, value.strip(), kinds[name])
    return found


def _hint(name: str, kinds: dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, kinds, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(kinds)}."


def _value(name: str, text: str, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if type(None) in inner and text.lower() == _NOTHING:
            return None
        return _value(name, text, next(one for one in inner if one is not type(None)))
    if origin is Literal:
        if text not in inner:
            raise StudyError(f"'{name}' is one of {', '.join(map(str, inner))}, not '{text}'.")
        return text
    if origin is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts:
            raise StudyError(f"'{name}' takes words between commas; '{text}' holds none.")
        if inner[-1] is not Ellipsis and len(parts) != len(inner):
            raise StudyError(f"'{name}' takes {len(inner)} values between commas, not '{text}'.")
        each = [inner[0]] * len(parts) if inner[-1] is Ellipsis else inner
        return tuple(_value(name, part, one) for part, one in zip(parts, each, strict=True))
    if kind is bool:
        if text.lower() not in _FLAGS:
            raise StudyError(f"'{name}' is true or false, not '{text}'.")
        return _FLAGS[text.lower()]
    if kind in (int, float):
        return _number(name, text, kind)
    if kind is str:
        if not text:
            raise StudyError(f"'{name}' is empty; write a value behind the '='.")
        return text
    raise StudyError(f"'{name}' cannot be set here; set it in Python.")


def _number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        value = kind(text) if len(text) <= _MOST_DIGITS else math.nan
    except ValueError:
        value = math.nan
    # Larger ones could be written to a run's settings and not be read from there.
    if not math.isfinite(value) or (kind is int and not -(2**63) <= value < 2**63):
        what = "a whole number" if kind is int else "a number"
        raise StudyError(f"'{name}' is {what}, not '{text[:_MOST_DIGITS]}'.")
    return value
