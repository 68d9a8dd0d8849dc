"""The page on the mechanism: no circuit, share or mean where the effect is not clear of zero."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.measure import Subject, lens_ranks
from experiments.reversal_curse.measurements.carried import carry
from experiments.reversal_curse.mechanism import circuits, page
from experiments.reversal_curse.mechanism.measure import circuit_curve, circuit_edges, components
from experiments.reversal_curse.patch import patching_map
from interp import load_model
from interp.execute import Executor

pytestmark = pytest.mark.slow


def said(fig: go.Figure) -> str:
    """The small print."""
    return " ".join(note.text for note in fig.layout.annotations)


def silent(*_: object) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def subject() -> Subject:
    folder = reversal_curse()
    facts = tuple(f for f in read_facts(folder / "facts.csv") if f.split == "forward")[:24]
    return Subject(load_model("reversal-curse"), facts, read_templates(folder / "templates.json"))


@pytest.fixture(scope="module")
def edges(subject: Subject) -> dict[str, xr.Dataset]:
    return {
        way: circuit_edges(subject, range(24), way, 1, silent)  # type: ignore[arg-type]
        for way in ("forward", "reverse")
    }


@pytest.fixture(scope="module")
def results(subject: Subject) -> list[xr.Dataset]:
    """What the two figures are drawn from."""
    ways = ("forward", "reverse")
    rows = range(12)
    return [
        *(lens_ranks(subject, way, silent) for way in ways),  # type: ignore[arg-type]
        *(
            patching_map(subject, rows, way, "resid_pre", 0, silent, executor=Executor())  # type: ignore[arg-type]
            for way in ways
        ),
        *(components(subject, rows, way, 0, silent) for way in ways),  # type: ignore[arg-type]
        carry(subject, "forward", np.arange(12), 0, silent),
    ]


def test_the_told_direction_has_a_circuit_measured_on_other_questions(
    subject: Subject, edges: dict[str, xr.Dataset]
) -> None:
    curve = circuit_curve(subject, range(24), "forward", 1, edges["forward"], silent)
    assert (curve.attrs["clear"], curve.attrs["shared_pairs"], curve.attrs["pairs"]) == (1, 0, 12)
    fig = circuits.circuit(edges["forward"], curve)
    notes = said(fig)
    assert "on 12 held-out pairs" in notes
    assert any(trace.name == "nodes" for trace in fig.data)
    assert len(circuits.faithfulness(edges["forward"], curve).data) > 3


def test_the_untold_direction_has_none_and_the_figure_says_why(
    subject: Subject, edges: dict[str, xr.Dataset]
) -> None:
    curve = circuit_curve(subject, range(24), "reverse", 1, edges["reverse"], silent)
    assert curve.attrs["clear"] == 0
    for draw in (circuits.circuit, circuits.faithfulness):
        fig = draw(edges["reverse"], curve)
        assert not fig.data
        assert "No share can be told" in said(fig)


def test_too_few_questions_make_no_circuit(subject: Subject) -> None:
    few = circuit_edges(subject, range(9), "forward", 0, silent)
    assert few.attrs["refused"].startswith("9 questions, and 10 are needed")
    curve = circuit_curve(subject, range(9), "forward", 0, few, silent)
    assert curve.attrs["refused"] == few.attrs["refused"]
    assert "9 questions" in said(circuits.circuit(few, curve))


def test_what_is_not_clear_of_zero_is_grey(results: list[xr.Dataset]) -> None:
    fig = page.all_facts(*results)
    told, untold = (
        trace.z for trace in fig.data if trace.type == "heatmap" and trace.x is not None
    )
    labels = [str(label) for label in results[2]["position_label"].values]
    assert np.isfinite(told[1][labels.index("subject -1")])
    assert np.isnan(told[1][0])  # before the name nothing differs
    moved = results[2]["patched"] - results[2]["corrupt"]
    mean = moved.mean("example").transpose("layer", "position").values
    kept = np.isfinite(told)
    np.testing.assert_allclose(np.asarray(told)[kept], mean[kept], atol=1e-5)
    # The effect asked in reverse could be none, and then no part of it means anything.
    assert np.isnan(untold).all()
    assert "not clear of 0" in said(fig)
    assert "n = 12" in said(fig)


def test_transplants_of_a_deep_model_are_labelled_by_their_layers(
    results: list[xr.Dataset],
) -> None:
    """Of a deep model some layers are carried, and not the first ones."""
    layers = [0, 5, 11]
    carried = results[-1].assign_coords(source_layer=layers, target_layer=layers)
    fig = page.all_facts(*results[:-1], carried)
    read, put = (fig.layout[axis].ticktext for axis in ("yaxis7", "xaxis7"))
    assert list(put) == [f"{place} · {layer}" for place in ("name", "end") for layer in layers]
    assert list(read[-3:]) == ["answer · 0", "answer · 5", "answer · 11"]


def test_one_fact_has_no_interval(results: list[xr.Dataset]) -> None:
    fig = page.one_fact(*results)
    assert all(trace.error_y.array is None for trace in fig.data if trace.type != "heatmap")
    assert "of one" in said(fig)
    maps = [trace.z for trace in fig.data if trace.type == "heatmap"]
    first = results[2].isel(example=0)
    moved = (first["patched"] - first["corrupt"]).transpose("layer", "position").values
    np.testing.assert_allclose(maps[0], moved, atol=1e-5)


def test_components_add_up_to_the_logit_difference(results: list[xr.Dataset]) -> None:
    shares = results[4]
    total = shares["contribution"].sum("component")
    np.testing.assert_allclose(total, shares["logit_diff"], atol=1e-3)
    np.testing.assert_allclose(shares["logit_diff"], results[2]["clean"], atol=1e-3)


def test_without_facts_nothing_is_drawn_and_nothing_fails(
    subject: Subject, results: list[xr.Dataset]
) -> None:
    none = components(subject, [], "forward", 0, silent)
    assert none.attrs["refused"]
    empty = [one.assign_coords(split=("example", ["both"] * 24)) for one in results[:2]]
    carried = results[6].isel(example=slice(0, 0))
    patched = [one.isel(example=slice(0, 0)) for one in results[2:4]]
    fig = page.all_facts(*empty, *patched, none, none, carried)
    assert "no pairs" in said(fig)
    fig = page.one_fact(*results[:4], none, none, results[6])
    assert not [trace for trace in fig.data if trace.type == "scatter"]
    assert "one pair" not in said(fig)


def test_facts_that_ask_about_one_person_are_no_independent_examples(
    results: list[xr.Dataset],
) -> None:
    """Three mothers of eight each: too few of them for an interval asked in reverse."""
    mothers = [f"mother {i % 3}" for i in range(24)]
    shared = [one.assign_coords(object=("example", mothers)) for one in results[:2]]
    fig = page.all_facts(*shared, *results[2:])
    assert "n = 12, too few for an interval" in said(fig)
    told, untold = (trace.error_y.array for trace in fig.data if trace.type == "scatter")
    assert np.isfinite(told).all()
    assert untold is None
