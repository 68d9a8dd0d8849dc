"""Pieces of the Python that stands beside figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.compute.engine import ModelSpec
from app.together import Together
from experiments.explorer import Pair


def of_group(name: str, group: tuple[str, str]) -> str:
    """The examples of a result (coordinate, value)."""
    coordinate, value = group
    return f"{name}.isel(example={name}[{coordinate!r}].values == {value!r})"


def together(name: str, some: Together) -> str:
    """Some examples of a result."""
    where = f"{name}[{some.column!r}]"
    if len(some.values) == 1:
        return f"{name}.isel(example={where}.values == {some.values[0]!r})"
    return f"{name}.isel(example={where}.isin({list(some.values)!r}).values)"


def load(model: ModelSpec, name: str = "model") -> str:
    given = [repr(model.source)]
    if model.revision is not None:
        given.append(f"revision={model.revision!r}")
    if model.dtype != "float32":
        given.append(f"dtype={model.dtype!r}")
    return f"{name} = load_model({', '.join(given)})"


def pairs(some: Sequence[Pair], name: str = "pairs", model: str = "model") -> list[str]:
    return [
        f"{name} = PromptPairs(",
        f"    {model},",
        f"    clean={[pair.clean for pair in some]!r},",
        f"    corrupt={[pair.corrupt for pair in some]!r},",
        f"    answers={[pair.answer for pair in some]!r},",
        f"    foils={[pair.foil for pair in some]!r},",
        f"    spans={{{some[0].span!r}: {[pair.words for pair in some]!r}}},",
        ")",
    ]


def settings(given: Mapping[str, Any]) -> list[str]:
    """Keyword arguments; None is left out."""
    return [f"{name}={value!r}" for name, value in given.items() if value is not None]


def lines(*some: str) -> str:
    return "\n".join(some) + "\n"
