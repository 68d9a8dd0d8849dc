"""Numbers that are none, seeds that no generator takes and unknown choices, in every function."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cache.arguments import Seed, hints_of, typed
from interp.errors import ArgumentError, StatisticsError
from interp.stats import bootstrap, permutation_test
from tests.test_arguments import MADE, MODULES, one_sentence

ROOMS = (*MODULES, "interp.comparison", "interp.lens")
TRUE: tuple[Any, ...] = (True, np.True_, torch.tensor(True))
TRUE_LISTS: tuple[Any, ...] = ([True], (1, True), np.array([True, False]))


def parameters() -> Iterator[tuple[str, Any, str, Any]]:
    """Every argument of what is public: where it stands, the function, its name and its type."""
    seen = set()
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            members = {"": value}
            if inspect.isclass(value) and name not in MADE:
                members = {
                    method: getattr(member, "__func__", member)
                    for method, member in vars(value).items()
                    if method == "__init__" or method[0] != "_"
                }
            for method, function in members.items():
                inner = getattr(function, "__wrapped__", None)
                if not inspect.isfunction(function) or inner is None or inner in seen:
                    continue
                seen.add(inner)
                for parameter, hint in hints_of(inner).items():
                    if parameter in inspect.signature(function).parameters:
                        yield f"{name}.{method}({parameter})", function, parameter, hint


PARAMETERS = list(parameters())


def parts(hint: Any) -> list[Any]:
    """The types of a union."""
    if typing.get_origin(hint) in (typing.Union, type(int | str)):
        return [part for one in typing.get_args(hint) for part in parts(one)]
    return [typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint]


def is_choice(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def masks(hint: Any) -> bool:
    """Whether a mask, or anything, may be given."""
    open_ones = (bool, object, Any, np.ndarray, torch.Tensor)
    return any(
        one in open_ones or "bool" in str(one) or "bool" in getattr(one, "dtypes", ())
        for one in parts(hint)
    )


def refused(function: Any, parameter: str, value: Any) -> str:
    """What is said; the other arguments are left out, since types are looked at first."""
    with pytest.raises(ArgumentError) as caught:
        function(**{parameter: value})
    one_sentence(caught.value)
    return str(caught.value)


def test_true_is_no_number() -> None:
    tried = 0
    for _, function, parameter, hint in PARAMETERS:
        if {int, float} & {*parts(hint)} and not masks(hint):
            for value in TRUE:
                refused(function, parameter, value)
            tried += 1
    assert tried > 150


def test_lists_of_truths_hold_no_numbers() -> None:
    tried = 0
    for _, function, parameter, hint in PARAMETERS:
        numeric = [one for one in parts(hint) if typing.get_args(one)[:1] in ((int,), (float,))]
        others = [one for one in parts(hint) if one not in (*numeric, type(None), int, float, str)]
        if numeric and not masks(hint) and all(map(is_choice, others)):
            for value in TRUE_LISTS:
                refused(function, parameter, value)
            tried += 1
    assert tried > 30


def test_seeds_are_those_that_generators_take() -> None:
    seeds = [(function, name) for _, function, name, _ in PARAMETERS if name == "seed"]
    assert len(seeds) > 15
    for function, name in seeds:
        for wrong in (-1, 2**63, 2**64, 10**30, 10**6000):
            assert "a whole number from 0 to" in refused(function, name, wrong)
        with contextlib.suppress(TypeError):  # other arguments are missing
            function(**{name: 2**63 - 1})


def test_what_resamples_takes_seeds_in_its_bounds() -> None:
    for seed in (-1, 2**32, 10**30):
        with pytest.raises(StatisticsError, match="seed"):
            bootstrap(range(9), seed=seed)
        with pytest.raises(StatisticsError, match="seed"):
            permutation_test(range(9), range(5), seed=seed)


def test_choices_are_looked_at_everywhere() -> None:
    tried = 0
    for where, function, parameter, hint in PARAMETERS:
        choices = [one for one in parts(hint) if is_choice(one)]
        others = [one for one in parts(hint) if one not in (*choices, type(None))]
        if choices and str not in others:
            said = refused(function, parameter, "sideways\x1b[31m")
            assert said.startswith(f"Unknown {parameter} 'sideways\\x1b[31m'; choose "), where
            tried += 1
    assert tried > 15


def test_numbers_in_other_forms_are_taken() -> None:
    @typed
    def function(
        n: int = 0, share: float = 0.0, several: typing.Sequence[int] = (), seed: Seed = 0
    ) -> int:
        return 1

    for n in (3, np.int64(3), np.uint8(3), torch.tensor(3)):
        assert function(n=n, seed=n) == 1
    for share in (
        3,
        0.5,
        np.float32(0.5),
        torch.tensor(0.5),
        torch.tensor(0.5, dtype=torch.bfloat16),
    ):
        assert function(share=share) == 1
    for several in ([1, np.int64(2)], range(3), np.arange(2), torch.arange(2), ()):
        assert function(several=several) == 1
    for wrong in (0.5, np.float64(0.5), torch.tensor(0.5), np.array("3"), 1j):
        refused(function, "n", wrong)
    refused(function, "share", np.complex64(1))
    refused(function, "share", np.array("3"))
