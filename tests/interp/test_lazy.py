"""Importing the package does no work, and every public name is there when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import interp
import interp.lens

HEAVY = ("torch", "transformers", "transformer_lens", "xarray", "scipy", "numpy", "plotly")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


@pytest.mark.parametrize("package", ["interp", "interp.lens", "cache"])
def test_importing_the_package_loads_nothing_heavy(package: str) -> None:
    assert loaded_after(f"import {package}") == set()


@pytest.mark.slow
def test_names_are_loaded_when_they_are_used() -> None:
    assert "torch" not in loaded_after("from interp import Site")  # a name, no more
    # A lens is applied without what trains one.
    found = loaded_after("from interp import METRICS\nimport interp.lens.checkpoint")
    assert "torch" in found
    assert "scipy" not in found


@pytest.mark.parametrize("name", interp.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(interp, name)
    assert getattr(value, "__name__", name) == name
    assert name in dir(interp)


def test_the_same_object_has_one_name_in_both_packages() -> None:
    for name in interp.lens.__all__:
        assert getattr(interp, name) is getattr(interp.lens, name)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = interp.nonsense
    assert not hasattr(interp, "nonsense")
