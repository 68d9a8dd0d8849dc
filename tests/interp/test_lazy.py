"""Importing the package does no work, and every public name is there when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import interp

HEAVY = ("torch", "transformers", "transformer_lens", "xarray", "scipy", "numpy", "plotly")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import interp") == set()


def test_names_are_loaded_when_they_are_used() -> None:
    assert "torch" not in loaded_after("from interp import Site")  # a name, no more
    assert "torch" in loaded_after("from interp import METRICS")


@pytest.mark.parametrize("name", interp.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(interp, name)
    if hasattr(value, "__qualname__"):  # METRICS has none
        assert value.__qualname__ == name
        assert getattr(sys.modules[value.__module__], name) is value
    assert name in dir(interp)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = interp.nonsense
    assert not hasattr(interp, "nonsense")
