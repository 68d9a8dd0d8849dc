"""Every public function tells a wrong argument in one sentence, whichever it is."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import cache.arguments
from cache import ActivationStore
from interp import Model, PromptPairs, estimate, load_model, logit_lens, sweep
from interp.circuits import attribute_edges, prune
from interp.errors import ArgumentError, ObverseError
from interp.figures import circuit_map, lens_heatmap, patching_map
from interp.patching import Options, agreement, normalised, refine

MODULES = (
    "interp",
    "interp.patching",
    "interp.circuits",
    "interp.lens.logit",
    "interp.figures",
    "interp.execute",
    "interp.harvest",
    "probes",
    "cache",
)
# Made by the package and handed out, not by a user.
MADE = {"Model", "Harvest"}
WRONG: dict[str, Any] = {
    "None": None,
    "a text": "reversal-curse",
    "bytes": b"bytes",
    "a number": 3,
    "an array": np.zeros((2, 3)),
    "a vector": np.arange(2),
    "a tensor": torch.zeros(2, 3),
    "an empty list": [],
    "a list of None": [None],
    "a dictionary": {"a": 1},
    "a data set": xr.Dataset({"a": ("b", [1.0])}, attrs={"instrument": "another"}),
    "a data array": xr.DataArray([1.0], dims="b"),
    "a table": pd.DataFrame({"a": [1]}),
    "an object": object(),
}


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions, classes and their public methods, by their full names."""
    for module in MODULES:
        found = importlib.import_module(module)
        for name in found.__all__:
            value = getattr(found, name)
            if inspect.isfunction(value):
                yield f"{module}.{name}", value
            elif inspect.isclass(value) and name not in MADE:
                for method, member in vars(value).items():
                    member = getattr(member, "__func__", member)
                    if inspect.isfunction(member) and (method == "__init__" or method[0] != "_"):
                        yield f"{module}.{name}.{method}", member


FUNCTIONS = dict(functions())


def test_every_public_function_looks_at_its_arguments() -> None:
    assert len(FUNCTIONS) > 100
    for name, function in FUNCTIONS.items():
        assert hasattr(function, "__wrapped__"), f"{name} is not @typed"
        inner = function.__wrapped__
        hints = cache.arguments.hints_of(inner)
        written = set(inspect.get_annotations(inspect.unwrap(inner))) - {"return"}
        assert set(hints) >= written, f"{name}: {written - set(hints)} cannot be looked up"


def one_sentence(error: BaseException) -> None:
    text = str(error)
    assert "\n" not in text
    assert 10 < len(text) < 500
    assert text.endswith((".", "?", "…"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a text for a folder makes one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("reversal-curse")


@pytest.fixture(scope="module")
def pairs(model: Model) -> PromptPairs:
    return PromptPairs(
        model,
        ["Tom Cruise's mother is"],
        ["Kate Hudson's mother is"],
        [" Mary Lee Pfeiffer"],
        [" Goldie Hawn"],
    )


TOP = {
    f"{module}.{name}": getattr(importlib.import_module(module), name)
    for module in MODULES
    for name in importlib.import_module(module).__all__
    if name not in MADE and f"{module}.{name}".removesuffix(".__init__") not in MODULES
}
TOP = {
    name: value
    for name, value in TOP.items()
    if inspect.isfunction(value) or (inspect.isclass(value) and f"{name}.__init__" in FUNCTIONS)
}


@pytest.mark.parametrize("name", TOP)
def test_a_wrong_first_argument_is_told(name: str) -> None:
    function = TOP[name]
    signature = inspect.signature(function)
    required = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    required = required or list(signature.parameters.values())[:1]
    told = 0
    for what, wrong in WRONG.items():
        given = {parameter.name: wrong for parameter in required}
        try:
            result = function(**given)
            if inspect.isgenerator(result):
                next(result)
        except ObverseError as error:
            one_sentence(error)
            told += 1
        except Exception as error:
            raise AssertionError(f"{name} given {what}: {type(error).__name__}: {error}") from error
    assert told >= len(WRONG) - 4


SECOND = tuple(what for what in WRONG if what not in ("a data array", "a table", "an object"))


@pytest.mark.parametrize(
    "name", [name for name, f in TOP.items() if "model" in inspect.signature(f).parameters]
)
def test_a_wrong_later_argument_is_told(name: str, model: Model, pairs: PromptPairs) -> None:
    """Each argument in turn, beside a model and pairs that are right."""
    function = TOP[name]
    right = {"model": model, "pairs": pairs, "prompts": ["Tom Cruise's mother is"]}
    parameters = inspect.signature(function).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [p for p in parameters if p.kind not in several]
    needed = [p.name for p in parameters if p.default is p.empty]
    for wanted in [p.name for p in parameters if p.name not in ("model", "progress")]:
        for what in SECOND:
            given = {one: right.get(one, WRONG[what]) for one in needed}
            given |= {wanted: WRONG[what]}
            if inspect.signature(function).parameters[wanted].default is WRONG[what]:
                continue
            try:
                result = function(**given)
                if inspect.isgenerator(result):
                    next(result)
            except ObverseError as error:
                one_sentence(error)
            except Exception as error:
                raise AssertionError(
                    f"{name}({wanted}={what}): {type(error).__name__}: {error}"
                ) from error


@pytest.mark.slow
def test_what_is_given_and_what_is_wanted_are_named(
    model: Model, pairs: PromptPairs, tmp_path: Path
) -> None:
    swept = sweep(model, pairs, "resid_post", layers=[0])
    lens = logit_lens(model, "Tom Cruise's mother is")
    scores = attribute_edges(model, pairs)
    calls: dict[Callable[[], object], str] = {
        lambda: sweep("reversal-curse", pairs, "z"): r"not the text .*load_model",  # type: ignore[arg-type]
        lambda: sweep(model, ["a"], "z"): "takes pairs as PromptPairs, not a list",  # type: ignore[arg-type]
        lambda: prune(swept): "takes scores as a result of attribute_edges, not a result of 'activ",
        lambda: prune(swept["patched"]): "as a result of attribute_edges, not a DataArray",  # type: ignore[arg-type]
        lambda: circuit_map(scores): "takes circuit as Circuit, not a result of 'edge attribution'",  # type: ignore[arg-type]
        lambda: patching_map(lens): "takes result as a result of sweep, estimate or refine, not",
        lambda: lens_heatmap(swept): "takes lens as a result of logit_lens, not a result of 'activ",
        lambda: normalised(scores): "takes result as a result of sweep",
        lambda: agreement(swept, lens): "takes exact as a result of sweep",
        lambda: PromptPairs(model, "a", ["b"], [" c"]): "takes clean as a list.*put it into a list",
        lambda: PromptPairs(model, ["a"], ["b"], " c"): "takes answers as a list.*put it into",
        lambda: ActivationStore(tmp_path / "s").get(
            "gpt2", ["a"], "z"
        ): "takes model as a model that",  # type: ignore[arg-type]
    }
    for call, message in calls.items():
        with pytest.raises(ArgumentError, match=message) as caught:
            call()
        one_sentence(caught.value)


@pytest.mark.parametrize("function", [sweep, estimate, refine])
def test_options_are_arguments_like_others(
    function: Callable[..., Any], model: Model, pairs: PromptPairs
) -> None:
    """Completion, help and errors know each by its name, though they are described once."""
    options = inspect.get_annotations(Options)
    shown = inspect.signature(function).parameters
    for name in options:
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[name].default is None or name == "source"
        assert f"\n        {name}: " in str(function.__doc__)
    assert "options" not in shown
    assert "**options" not in str(function.__doc__)
    name = function.__name__
    with pytest.raises(ArgumentError, match=f"{name} takes heads as a list of integers or None"):
        function(model, pairs, "z", heads="h3")
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected .* 'haeds'"):
        function(model, pairs, "z", haeds=[3])


def test_what_is_right_in_another_form_is_taken() -> None:
    @cache.arguments.typed
    def function(
        count: int,
        share: float,
        names: typing.Sequence[str],
        table: typing.Mapping[str, int] | None = None,
        kind: typing.Literal["a", "b"] = "a",
    ) -> int:
        return 1

    assert function(np.int64(3), np.float32(0.5), np.array(["a"]), {}) == 1
    assert function(torch.tensor(3), 1, ("a", "b")) == 1  # type: ignore[arg-type]
    assert function(3, torch.tensor(0.5), pd.Series(["a"]), None, "b") == 1  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing"):
        function(1)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="function takes names as a list of text, not"):
        function(1, 2, "abc")
    with pytest.raises(ArgumentError, match="takes kind as 'a' or 'b', not an int"):
        function(1, 2, [], None, 4)  # type: ignore[arg-type]
