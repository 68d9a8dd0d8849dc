"""What makes no probe is refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp.errors import (
    ArgumentError,
    ModelError,
    ObverseError,
    ProbeError,
    SiteError,
    StorageError,
)
from interp.model.model import Model
from probes import Features, Probes, collect, fit_probes, probe_report, retrieve, steering_check
from probes.transfer import transfer_conditions, transfer_sites
from tests.probes.material import data

X, Y = data("plain")


def one_sentence(error: ObverseError) -> bool:
    text = str(error)
    # What is said of a function's arguments begins with its name.
    begins = isinstance(error, ArgumentError) or text[0].isupper() or text[0] in "'0123456789"
    return text.endswith(".") and "\n" not in text and begins


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (X, np.zeros(300, int), "All labels are '0'"),
        (X, Y[:-1], "There are 300 examples but labels of shape \\(299,\\)"),
        (X[:, :40], np.arange(40), "40 classes but only 40 examples"),
        (np.where(np.arange(300)[:, None] == 7, np.nan, X), Y, "not finite in example 7"),
        (np.zeros((0, 300, 4)), Y, "There are no features"),
        (np.zeros((2, 300, 0)), Y, "There are no features"),
        (np.zeros(300), Y, "Features are numbers"),
        (X, np.where(Y > 0, 0.5, 1.7), "use kind='ridge'"),
        (X, [None, *Y[1:]], "Example 0 has no label"),
        (xr.DataArray(X[0], dims=("example", "width")), Y, "Features need the dims"),
        (Features(torch.from_numpy(X), ("a",)), Y, "1 names do not fit 2 sites"),
    ],
)
@pytest.mark.parametrize("run", [fit_probes, probe_report])
def test_features_and_labels_that_make_no_probe(
    run: Any, features: Any, labels: Any, message: str
) -> None:
    with pytest.raises(ProbeError, match=message) as caught:
        run(features, labels)
    assert one_sentence(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "forest"}, "Unknown kind 'forest'"),
        ({"l2": 0.0}, "penalty l2 must be positive"),
        ({"l2": -1.0, "kind": "ridge"}, "penalty l2 must be positive"),
    ],
)
def test_settings_of_a_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ProbeError, ArgumentError), match=message) as caught:
        fit_probes(X, Y, **settings)
    assert one_sentence(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": np.zeros(300)}, "5 folds need at least 5 groups, but there are 1"),
        ({"groups": np.zeros(3)}, "groups of shape \\(3,\\)"),
        ({"groups": Y}, "5 folds need at least 5 groups, but there are 2"),
        ({"nulls": 1}, "nulls must be a whole number of at least 3, not 1"),
        ({"nulls": 3.5}, "nulls as an integer"),
        ({"folds": 1}, "folds must be a whole number of at least 2"),
        ({"seed": "a"}, "seed as a whole number"),
        ({"tol": float("nan")}, "The tolerance must be positive"),
        ({"strengths": ()}, "at least one"),
        ({"strengths": 1.0}, "strengths as a list"),
        ({"strengths": (float("nan"), 1.0)}, "Strengths must be positive"),
        ({"strengths": (0.0, 1.0)}, "Strengths must be positive"),
    ],
)
def test_settings_of_a_report(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ProbeError, ArgumentError), match=message) as caught:
        probe_report(X, Y, **settings)
    assert one_sentence(caught.value)


def test_targets_of_a_regression() -> None:
    with pytest.raises(ProbeError, match="targets of shape"):
        fit_probes(X, np.zeros((7, 2)) + 0.5, "ridge")
    with pytest.raises(ProbeError, match="targets are not finite"):
        fit_probes(X, np.full(300, np.nan), "ridge")


def test_retrieval_refuses_what_would_leak_or_lacks_a_vector() -> None:
    items = [f"item {i % 20}" for i in range(300)]
    vectors = {name: torch.randn(4) for name in items}
    with pytest.raises(ProbeError, match="stands in several groups"):
        retrieve(X, items, vectors, groups=np.arange(300))
    with pytest.raises(ProbeError, match="There is no vector for 'item 0'"):
        retrieve(X, items, {})
    with pytest.raises(ProbeError, match="at least two items"):
        retrieve(X[:, :20], items[:20], vectors, folds=15)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strengths": []}, "at least one"),
        ({"strengths": [-1.0]}, "Strengths must be positive"),
        ({"folds": 1}, "folds must be a whole number"),
        ({"nulls": 2}, "nulls must be a whole number"),
        ({"vectors": {"item 1": torch.full((4,), torch.nan)}}, "vector of 'item 1' is not one of"),
        ({"vectors": {"item 1": torch.ones(3)}}, "is not one of 4 finite numbers"),
    ],
)
def test_settings_of_a_retrieval(changed: dict[str, Any], message: str) -> None:
    items = [f"item {i}" for i in range(60)]
    vectors = {name: torch.randn(4) for name in items} | changed.pop("vectors", {})
    with pytest.raises(ProbeError, match=message) as caught:
        retrieve(X[:, :60], items, vectors, **changed)
    assert one_sentence(caught.value)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_features_whose_squares_are_no_numbers(scale: float) -> None:
    for run in (fit_probes, probe_report):
        with pytest.raises(ProbeError, match="scale the features"):
            run(X * scale, Y)
    with pytest.raises(ProbeError, match="have 1 different features only"):
        probe_report(np.ones((300, 4)), Y)


def test_labels_and_groups_of_several_kinds_are_told_apart_as_texts() -> None:
    labels = np.array([1 if y else "one" for y in Y], dtype=object)
    groups = np.array([i // 4 if i % 8 else f"group {i // 4}" for i in range(300)], dtype=object)
    report = probe_report(X, labels, groups=groups, prefixes=1, bootstraps=1)
    assert report.attrs["classes"] == ["1", "one"]


def test_transfer_needs_conditions() -> None:
    for conditions in (np.where(Y, np.nan, 1.0), [None if y else "a" for y in Y]):
        with pytest.raises(ProbeError, match="Some examples have no condition"):
            transfer_conditions(X, Y, conditions)
    with pytest.raises(ProbeError, match="Strengths must be positive"):
        transfer_conditions(X, Y, np.arange(300) % 2, strength=0)
    with pytest.raises(ProbeError, match="folds must be a whole number"):
        transfer_sites(X, Y, folds=1)
    with pytest.raises(ProbeError, match="at least two conditions"):
        transfer_conditions(X, Y, np.zeros(300))
    with pytest.raises(ProbeError, match="Condition '0' lacks a class"):
        transfer_conditions(X, Y, Y)


@pytest.mark.slow
def test_sites_and_places_that_do_not_fit(organism: Model) -> None:
    with pytest.raises(ProbeError, match="differ in width"):
        collect(organism, ["Tom Cruise"], ["resid_post", "mlp_act"])
    with pytest.raises(ProbeError, match="no fixed width"):
        collect(organism, ["Tom Cruise"], "pattern")
    with pytest.raises(ProbeError, match="which has only 3 tokens"):
        collect(organism, ["Tom Cruise"], "resid_post", positions={"name": 3})
    with pytest.raises(ProbeError, match="has 2 positions for 1 prompts"):
        collect(organism, ["Tom Cruise"], "resid_post", positions={"name": [1, 2]})
    with pytest.raises(SiteError):
        collect(organism, ["Tom Cruise"], "resid_post.9")
    found = collect(organism, ["Tom Cruise", "Kate Hudson"], "resid_post")
    with pytest.raises(ProbeError, match="There are no features of q"):
        found.at("q")


@pytest.mark.slow
def test_probes_of_another_shape_class_or_model_are_refused(organism: Model, tmp_path: Any) -> None:
    found = fit_probes(X, Y)
    with pytest.raises(ProbeError, match="read 12 dims, but these features have 5"):
        found.predict(X[..., :5])
    with pytest.raises(ProbeError, match="There is no probe at 'q"):
        found.direction("q.0")
    with pytest.raises(ProbeError, match="Unknown class 'x'"):
        found.direction("site 0", "x")
    with pytest.raises(ProbeError, match="has no direction"):
        fit_probes(X, Y, "mlp").direction("site 0")
    with pytest.raises(ProbeError, match="say towards which"):
        fit_probes(X, np.arange(300) % 3).direction("site 0")
    with pytest.raises(ProbeError, match="predict numbers"):
        fit_probes(X, X[0], "ridge").predict(X)
    found.save(tmp_path / "probes")
    with pytest.raises(ModelError, match="belong to the model 'unknown'") as caught:
        Probes.load(tmp_path / "probes", organism)
    assert one_sentence(caught.value)


@pytest.mark.slow
def test_files_that_are_no_probes(organism: Model, tmp_path: Any) -> None:
    with pytest.raises(StorageError):
        Probes.load(tmp_path / "none", organism)
    prompts = [f"{name} Cruise" for name in ("Tom", "Kate", "John", "Jake")]
    found = collect(organism, prompts, "resid_post")
    fit_probes(found, [0, 1, 0, 1]).save(tmp_path / "probes")
    (tmp_path / "probes.safetensors").write_bytes(b"nothing")
    with pytest.raises(StorageError, match="does not hold probes"):
        Probes.load(tmp_path / "probes", organism)
    (tmp_path / "probes.json").write_text("[]")
    with pytest.raises(StorageError, match="does not hold probes"):
        Probes.load(tmp_path / "probes", organism)


def test_steering_needs_answers_that_can_be_told_apart(organism: Model) -> None:
    names = ["Tom Cruise", "Kate Hudson", "John Lennon", "Liza Minnelli"]
    found = collect(organism, names, "resid_post")
    probes = fit_probes(found, ["blue", "red", "blue", "red"])

    def check(**changed: Any) -> None:
        settings: dict[str, Any] = {
            "answers": {"blue": " blue", "red": " red"},
            "towards": "blue",
        } | changed
        steering_check(organism, names, probes, "resid_post.1", **settings)

    for changed, message in (
        ({"answers": {"blue": " blue"}}, "give one answer for each"),
        ({"answers": {"blue": " red", "red": " red"}}, "start with the same token"),
        ({"towards": "green"}, "Unknown class 'green'"),
        ({"control": 1}, "At least 3 random directions"),
        ({"doses": [1.0]}, "at least two doses"),
        ({"answers": {"blue": "", "red": " red"}}, "The answer of class 'blue' is empty"),
    ):
        with pytest.raises(ProbeError, match=message) as caught:
            check(**changed)
        assert one_sentence(caught.value)
