"""The code beside a figure makes that figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from app.compute import circuits, lenses, pairs
from app.compute.answer_metric import readings
from app.compute.background import requests
from app.compute.engine import Engine, ModelSpec
from app.text import lens_snippets, snippets
from app.together import Together
from experiments.records import RunRecord
from experiments.reports.code import code
from experiments.reversal_curse.report.figures import MARGINS
from interp.figures import (
    attribution_bars,
    attribution_map,
    circuit_map,
    contrast_map,
    faithfulness_lines,
    lens_heatmap,
    patching_map,
    pattern_grid,
    pattern_map,
    rank_lines,
)
from interp.lens.logit import logit_lens
from tests.app import conftest
from tests.app.compute import asking
from tests.app.material import HOSTILE

KIND = Together("split", ("forward",), lassoed=False)


def values(fig: go.Figure) -> np.ndarray:
    return np.asarray(next(trace for trace in fig.data if trace.name == "values").z, dtype=float)


@pytest.mark.slow
def test_the_lens(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    prompt, answer = f"Ann {HOSTILE}'s mother is", " Bea Stone"
    made = run_code(lens_snippets.lens(spec, prompt, answer))
    drawn = lens_heatmap(engine.lens(spec, prompt, answer))
    np.testing.assert_allclose(values(made), values(drawn), atol=1e-6)


@pytest.mark.slow
def test_ranks(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    questions = {
        "forward": ("Tom Cruise's mother is", " Mary Lee Pfeiffer"),
        "reverse": ("Mary Lee Pfeiffer's son is", " Tom Cruise"),
    }
    made = run_code(lens_snippets.ranks(spec, questions))
    drawn = rank_lines({name: engine.lens(spec, *q) for name, q in questions.items()})
    for name in questions:
        one, other = (next(t for t in f.data if t.name == name) for f in (made, drawn))
        np.testing.assert_allclose(one.y, other.y)


@pytest.mark.slow
def test_ranks_of_several(run_code: Any, spec: ModelSpec) -> None:
    asked = {
        "forward": (
            ("Tom Cruise's mother is", " Mary Lee Pfeiffer"),
            (f"Ann {HOSTILE}'s mother is", " Bea Stone"),
        ),
        "reverse": (("Mary Lee Pfeiffer's son is", " Tom Cruise"), ("Eva Lane's son is", " Dan")),
    }
    made = run_code(lens_snippets.ranks_of_many(spec, asked))
    lens = {
        name: lenses.ranks(spec, ("logit",), None, "", some).work(conftest.loaded(spec), ignored)
        for name, some in asked.items()
    }
    drawn = rank_lines({name: next(steps) for name, steps in lens.items()})
    for name in asked:
        one, other = (next(t for t in f.data if t.name == name) for f in (made, drawn))
        assert len(one.y) == 3
        np.testing.assert_allclose(one.y, other.y)


def ignored(done: int, total: int) -> None:
    """No progress."""


@pytest.mark.slow
def test_lenses_that_were_fitted(
    run_code: Any, engine: Engine, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lenses, "STEPS", 2)
    prompt, answer = "Tom Cruise's mother is", " Mary Lee Pfeiffer"
    texts = ("Tom Cruise's mother is Mary Lee Pfeiffer.", "Dan Frost's mother is Eva Lane.")
    for kind in ("tuned", "jacobian"):
        work = engine.in_steps(spec, ("fit", kind), lenses.fit(kind, texts, None))
        through = work.wait(60).result
        drawn = lens_heatmap(logit_lens(conftest.loaded(spec), [prompt], [answer], lens=through))
        made = run_code(
            lens_snippets.lens(spec, prompt, answer, lens_snippets.Through(kind, None, texts))
        )
        np.testing.assert_allclose(values(made), values(drawn), atol=1e-5)


@pytest.mark.slow
def test_how_far_an_answer_is_ahead(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    prompt, answer, foil = "Tom Cruise's mother is", " Mary", " Bea"
    made = run_code(lens_snippets.lead(spec, {"forward": (prompt, answer, foil)}))
    ahead = next(trace for trace in made.data if trace.name == "forward").y
    shares = engine.attribution(spec, prompt, answer, foil, "component")
    assert ahead[-1] == pytest.approx(float(shares["logit_diff"][0]), abs=1e-4)
    # At the embedding and after each block it is read by the model's own norm, as lenses are.
    both = [engine.lens(spec, prompt, text)["answer_logprob"][0, :, -1] for text in (answer, foil)]
    np.testing.assert_allclose(ahead, (both[0] - both[1]).values, atol=1e-5)


@pytest.mark.slow
def test_the_map_of_typed_prompts(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    pair = pairs.typed("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea")
    made = run_code(snippets.patching(spec, pair, "mlp_out", {"example": 0, "value": "change"}))
    drawn = patching_map(engine.sweep(spec, pair, "mlp_out"), example=0, value="change")
    np.testing.assert_allclose(values(made), values(drawn), atol=1e-4)


@pytest.mark.slow
def test_attention_and_attribution(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    prompt = f"Ann {HOSTILE}'s mother is"
    for value in ("pattern", "moved"):
        made = run_code(snippets.attention(spec, prompt, 1, 0, value))
        drawn = pattern_map(engine.patterns(spec, prompt, 1), 1, 0, value=value)
        np.testing.assert_allclose(values(made), values(drawn), atol=1e-6)
    made = run_code(snippets.attention(spec, prompt, 1, None, "moved"))
    every = pattern_grid(engine.patterns(spec, prompt, 1), 1, value="moved")
    assert len(made.data) == 2
    for one, other in zip(made.data, every.data, strict=True):
        np.testing.assert_allclose(one.z, other.z, atol=1e-6)
    for foil in (" Eva", None):
        made = run_code(snippets.attribution(spec, prompt, " Bea", foil, "head"))
        drawn = attribution_map(engine.attribution(spec, prompt, " Bea", foil, "head"), 0)
        np.testing.assert_allclose(values(made), values(drawn), atol=1e-6)


@pytest.mark.slow
def test_bars_and_grids_of_heads(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    prompt, answer, foil = "Tom Cruise's mother is", " Mary", " Bea"
    shares = engine.attribution(spec, prompt, answer, foil, "head")
    code = snippets.attribution(spec, prompt, answer, foil, "head", bars=True, limit=2.0)
    made, drawn = run_code(code).data[0], attribution_bars(shares, 0, limit=2.0).data[0]
    np.testing.assert_allclose(made.x, drawn.x, atol=1e-6)
    made = run_code(snippets.head_grid(spec, prompt, "attribution", answer=answer, foil=foil))
    grid = values(made)
    for layer, head in ((0, 1), (1, 0)):
        here = (shares["layer"] == layer) & (shares["head"] == head)
        assert grid[layer, head] == pytest.approx(float(shares["contribution"][0][here][0]))
    for score, words in (("previous_token", None), ("to_span", "Tom Cruise")):
        made = run_code(snippets.head_grid(spec, prompt, score, words=words))
        pattern = engine.patterns(spec, prompt, 1)["pattern"].isel(example=0, layer=0, head=1)
        if words is None:
            n = pattern.sizes["source"]
            wanted = float(np.mean([pattern[i, i - 1] for i in range(2, n)]))  # not to BOS
        else:
            wanted = float(pattern[-1, 1:3].sum())
        assert values(made)[1, 1] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
def test_answers(engine: Engine, spec: ModelSpec, capsys: pytest.CaptureFixture[str]) -> None:
    prompt, texts = "Tom Cruise's mother is", (" Mary Lee Pfeiffer", f" {HOSTILE} Moss")
    exec(compile(snippets.answers(spec, prompt, texts), "snippet", "exec"), {})
    said = capsys.readouterr().out
    found = engine.compute(spec, ("readings",), lambda m: readings(m, prompt, texts))
    assert found[0].first.strip() == "Mary"
    assert [one.n_tokens for one in found] == [3, 2]
    for one in found:
        assert str(one.whole)[:6] in said


@pytest.mark.slow
def test_the_difference_of_two_maps(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    one = pairs.typed("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea")
    other = pairs.typed("Dan Frost's mother is", "Hal Iris's mother is", "Eva", "Ida")
    made = run_code(snippets.contrast(spec, [one, other], "resid_pre"))
    drawn = contrast_map(*(engine.sweep(spec, pair, "resid_pre") for pair in (one, other)))
    np.testing.assert_allclose(values(made), values(drawn), atol=1e-4)


@pytest.mark.slow
def test_the_difference_of_two_stored_maps(run_code: Any, record: RunRecord) -> None:
    names = ("patching_forward_resid_pre", "patching_reverse_resid_pre")
    made = run_code(snippets.run_contrast(record.path, names, KIND, "fact"))
    maps = [record.dataset(name) for name in names]
    maps = [one.isel(example=one["split"].values == "forward") for one in maps]
    np.testing.assert_allclose(values(made), values(contrast_map(*maps, key="fact")))


@pytest.mark.slow
def test_the_curve_of_a_circuit(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    some = tuple(
        pairs.typed(f"{name}'s mother is", "Cy Dale's mother is", "Mary", "Bea")
        for name in ("Tom Cruise", "Dan Frost", "Hal Iris", "Finn Grove", f"Ann {HOSTILE}")
    )
    scored, run = circuits.halves(some)
    scores = asking.answer(engine, requests.edges(spec, scored))
    curve = engine.compute(
        spec, ("curve", some), lambda model: circuits.curve(model, pairs.build(model, run), scores)
    )
    assert curve is not None
    made = run_code(snippets.faithfulness(spec, some, curve["fraction"].values.tolist()))
    assert made == faithfulness_lines(curve)


@pytest.mark.slow
def test_a_circuit_of_several_pairs(run_code: Any, engine: Engine, spec: ModelSpec) -> None:
    some = tuple(
        pairs.typed(f"{name}'s mother is", "Cy Dale's mother is", "Mary", "Bea")
        for name in ("Tom Cruise", f"Ann {HOSTILE}")
    )
    made = run_code(snippets.circuit(spec, some, 20))
    drawn = circuit_map(asking.circuit(engine, spec, some, 20).circuit)
    one, other = (next(t for t in f.data if t.name == "edge targets") for f in (made, drawn))
    assert one.text == other.text
    assert len(one.text) > 20


@pytest.mark.slow
def test_the_maps_of_a_run(run_code: Any, record: RunRecord) -> None:
    result = record.dataset("patching_reverse_z")
    code = snippets.run_patching(
        record.path, "patching_reverse_z", KIND, {"example": None, "value": "raw"}
    )
    chosen = result.isel(example=result["split"].values == "forward")
    np.testing.assert_allclose(values(run_code(code)), values(patching_map(chosen, value="raw")))
    some = Together("fact", (0, 1), lassoed=True)
    code = snippets.run_patching(record.path, "patching_reverse_z", some, {"value": "raw"})
    chosen = result.isel(example=[list(result["fact"].values).index(fact) for fact in (0, 1)])
    np.testing.assert_allclose(values(run_code(code)), values(patching_map(chosen, value="raw")))
    code = snippets.run_patching(record.path, "patching_reverse_z", None, {"example": 1})
    np.testing.assert_allclose(values(run_code(code)), values(patching_map(result, example=1)))


@pytest.mark.slow
def test_ranks_and_tables_of_a_run(run_code: Any, record: RunRecord) -> None:
    lenses = {way: f"lens_{way}" for way in ("forward", "reverse")}
    fig = run_code(lens_snippets.run_ranks(record.path, lenses, KIND))
    assert {"forward", "reverse"} <= {trace.name for trace in fig.data}
    facts = record.table("facts")
    fig = run_code(code(record.path, MARGINS, {"facts": "table"}))
    drawn = np.sort([x for trace in fig.data for x in trace.x])
    np.testing.assert_array_equal(drawn, np.sort(facts["forward_margin"]))


def test_nothing_in_a_prompt_can_end_its_quotes(spec: ModelSpec) -> None:
    evil = "'); __import__('os').abort() #\n\"\"\"\\"
    code = lens_snippets.lens(spec, evil, evil)
    calls = [line for line in code.splitlines() if "logit_lens(model" in line]
    assert len(calls) == 1
    assert repr(evil) in calls[0]


@pytest.mark.slow
def test_the_examples_that_are_listed(record: RunRecord, spec: ModelSpec) -> None:
    def made(code: str) -> pd.DataFrame:
        names: dict[str, Any] = {}
        exec(compile(code, "snippet", "exec"), names)
        table: pd.DataFrame = names["table"]
        return table.reset_index(drop=True)

    stored = record.table("facts")
    pd.testing.assert_frame_equal(
        made(snippets.run_examples(record.path, "facts", ("fact", None))), stored
    )
    listed = made(snippets.run_examples(record.path, "facts", ("fact", [4, 1])))
    pd.testing.assert_frame_equal(listed, stored.iloc[[4, 1]].reset_index(drop=True))
    asked = made(snippets.model_examples(spec, "reversal-curse", ("fact", [4, 1])))
    assert list(asked["forward_rank"]) == list(listed["forward_rank"])
