"""Two models, or two questions, beside each other; pins; and what a link may not load."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from app import pins
from app.compute import comparing, pairs
from app.compute.background import swaps as of_swaps
from app.compute.engine import Engine, ModelSpec
from app.selection import Ask, Source, View
from app.text import two_snippets
from app.text.lens_snippets import Through
from app.views.compare import told_apart
from experiments.records import RunRecord
from interp import TunedLens, load_model, logit_lens, train_tuned_lens
from interp.errors import ModelError
from interp.figures import contrast_map, difference_map, rank_lines, swap_lines
from tests.app.conftest import loaded
from tests.app.material import HOSTILE
from tests.app.pages import Open, assert_fine, html, root_of
from tests.app.text.test_snippets import values

PAIR = pairs.typed("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea")
OTHER = pairs.typed("Dan Frost's mother is", f"Ann {HOSTILE}'s mother is", "Eva", "Bea")


@pytest.fixture(scope="module")
def tuned(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """The tiny model with other weights in one MLP."""
    folder = tmp_path_factory.mktemp("tuned") / "tiny"
    shutil.copytree(model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return ModelSpec(str(folder))


@pytest.fixture(scope="module")
def deep(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A model with the same tokens and another depth."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("deep") / "tiny"
    shutil.copytree(model_folder, folder)
    config = LlamaConfig.from_pretrained(folder)
    config.num_hidden_layers = 3
    LlamaForCausalLM(config).save_pretrained(folder)
    return ModelSpec(str(folder))


@pytest.mark.slow
def test_maps_of_two_models_are_subtracted(
    run_code: Any,
    engine: Engine,
    spec: ModelSpec,
    tuned: ModelSpec,
) -> None:
    assert comparing.not_subtracted(engine, (spec, tuned), PAIR, "resid_pre") is None
    maps = [engine.sweep(one, PAIR, "resid_pre") for one in (spec, tuned)]
    changes = [(one["patched"] - one["corrupt"]).values[0] for one in maps]
    made = run_code(two_snippets.asked_contrast((spec, PAIR), (tuned, PAIR), "resid_pre"))
    np.testing.assert_allclose(values(made), changes[0] - changes[1], atol=1e-4)
    assert np.abs(changes[0] - changes[1]).max() > 0.01
    made = run_code(two_snippets.asked_contrast((spec, PAIR), (spec, OTHER), "resid_pre"))
    other = engine.sweep(spec, OTHER, "resid_pre")
    np.testing.assert_allclose(values(made), values(contrast_map(maps[0], other)), atol=1e-4)


@pytest.mark.slow
def test_what_lies_between_two_models(
    run_code: Any,
    engine: Engine,
    spec: ModelSpec,
    tuned: ModelSpec,
) -> None:
    result = comparing.activations(engine, spec, tuned, PAIR.clean)
    apart = result["relative"].isel(example=0)
    assert float(apart.sel(site="mlp_out", layer=0).max()) == 0
    assert float(apart.sel(site="mlp_out", layer=1).min()) > 0
    made = run_code(two_snippets.activations(spec, tuned, PAIR.clean, "mlp_out"))
    np.testing.assert_allclose(values(made), values(difference_map(result, 0, site="mlp_out")))
    for foil in (PAIR.foil, None):
        asked = (PAIR.clean, PAIR.answer, foil)
        swaps = comparing.swaps(engine, spec, tuned, asked)
        form = of_swaps.request(engine, spec, tuned, asked).form
        assert form is not None
        model = loaded(spec)
        assert form.from_dataset(swaps, model) is swaps
        for forged in (
            swaps.assign(swapped=swaps["swapped"] + 1),
            swaps.assign(tuned=swaps["tuned"] + 1),
            swaps.assign_attrs(tuned_fingerprint="0" * 32),
            swaps.isel(part=slice(1, None)),
        ):
            with pytest.raises(ValueError, match=r"numbers|fingerprint|shape"):
                form.from_dataset(forged, model)
        single = swaps["swapped"].isel(example=0).sel(into="base", order="single")
        moved = dict(zip(swaps["part"].values, single.values, strict=True))
        # One MLP is the whole difference.
        assert moved["mlp 1"] == pytest.approx(float(swaps["tuned"][0]), abs=1e-4)
        assert moved["mlp 0"] == pytest.approx(float(swaps["base"][0]), abs=1e-4)
        metric = comparing.metric_of(foil)
        made = run_code(two_snippets.swaps(spec, tuned, asked, metric, "base"))
        shown = swap_lines(swaps, into="base")
        for one, other in zip(made.data, shown.data, strict=True):
            np.testing.assert_allclose(
                np.asarray(one.y, float), np.asarray(other.y, float), atol=1e-4
            )


@pytest.mark.slow
def test_ranks_of_two_models(
    run_code: Any,
    engine: Engine,
    spec: ModelSpec,
    tuned: ModelSpec,
) -> None:
    asked = {"A": (spec, PAIR.clean, PAIR.answer), "B": (tuned, PAIR.clean, PAIR.answer)}
    lenses = {name: engine.lens(*one) for name, one in asked.items()}
    made, drawn = run_code(two_snippets.asked_ranks(asked)), rank_lines(lenses)
    for one, other in zip(made.data, drawn.data, strict=True):
        np.testing.assert_allclose(one.y, other.y)


@pytest.mark.slow
def test_models_that_do_not_fit_are_not_subtracted(
    engine: Engine, spec: ModelSpec, deep: ModelSpec, tmp_path: Path
) -> None:
    assert "A has 2 blocks and B 3" in str(
        comparing.not_subtracted(engine, (spec, deep), PAIR, "resid_pre")
    )
    with pytest.raises(ModelError):
        comparing.activations(engine, spec, deep, PAIR.clean)
    # The same prompt as other tokens: one word is a token of its own here.
    folder = tmp_path / "tiny"
    shutil.copytree(spec.source, folder)
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Tom Cruise"])
    model = LlamaForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = comparing.not_subtracted(engine, (spec, ModelSpec(str(folder))), PAIR, "resid_pre")
    assert "different tokens" in str(said)


@pytest.mark.slow
def test_a_model_that_changed_is_compared_anew(
    engine: Engine, spec: ModelSpec, tuned: ModelSpec
) -> None:
    there = dict.fromkeys((spec, tuned))
    from interp.loading.load import load_model

    changing = Engine(lambda one: there[one] or load_model(one.source))
    before = comparing.activations(changing, spec, tuned, PAIR.clean)
    assert comparing.activations(changing, spec, tuned, PAIR.clean) is before
    there[tuned] = load_model(spec.source)
    after = comparing.activations(changing, spec, tuned, PAIR.clean)
    assert float(after["norm"].max()) == 0


@pytest.mark.slow
def test_the_page_of_two_models(
    open_page: Open, spec: ModelSpec, tuned: ModelSpec, tmp_path: Path
) -> None:
    link = {"page": "compare", "a": f"model={spec.source}&example=0", "b": f"model={tuned.source}"}
    page = open_page(tmp_path, query=link)
    # Neither is loaded before somebody agrees.
    assert "Open this model?" in html(page)
    page.session_state["asked_for"] = {spec.source, tuned.source}
    page.run()
    assert_fine(page)
    assert "Both models are asked the question of A: “Tom Cruise&#x27;s mother is”" in html(page)
    assert len(page.get("plotly_chart")) == 3
    for shown, n in (("patching", 3), ("activations", 3), ("swaps", 2)):
        page.segmented_control(key="compare-shown").set_value(shown).run()
        assert_fine(page)
        assert len(page.get("plotly_chart")) == n
        assert page.query_params["shown"] == shown
    page.text_input(key="compare-ask-clean").set_value(f"Ann {HOSTILE}'s mother is")
    page.text_input(key="compare-ask-answer").set_value("Bea")
    next(button for button in page.button if button.label == "Ask").click().run()
    assert_fine(page)
    said = html(page)
    assert "img src=x onerror=alert(1)&gt;&#x27;s mother is" in said
    assert "<img" not in said
    assert page.session_state["view"].two.a.ask.answer == "Bea"


@pytest.mark.slow
def test_a_link_alone_loads_no_model(
    open_page: Open,
    record: RunRecord,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "never-loaded"
    shutil.copytree(model_folder, folder)
    asked: list[object] = []
    monkeypatch.setattr("interp.loading.load.load_model", lambda *given, **_: asked.append(given))
    run = f"run={record.path.parent.name}/{record.path.name}"
    for a, b in ((f"model={folder}", "model=no/such"), (run, f"model={folder}&example=1&clean=x")):
        page = open_page(root_of(record), query={"page": "compare", "a": a, "b": b})
        assert_fine(page)
        assert "Open this model?" in html(page)
        assert "never-loaded" in html(page)
    assert asked == []


def test_without_pins_it_says_how(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"page": "compare"})
    assert_fine(page)
    assert "Choose A and B above." in html(page)
    assert "Nothing is pinned." in html(page)
    assert "Pin this" not in [button.label for button in page.button]


@pytest.mark.slow
def test_what_is_pinned_is_compared(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"page": "study", "example": "0"})
    page.button(key="pin").click().run()
    page.session_state["view"] = View(page.session_state["view"].source, "study", example=4)
    page.run()
    page.button(key="pin").click().run()
    page.button(key="pin").click().run()  # what is pinned already is not pinned again
    assert_fine(page)
    assert [pin.view.example for pin in page.session_state["pins"]] == [0, 4]
    page.radio(key="page").set_value("compare").run()
    assert_fine(page)
    assert "Pinned: 2" in page.expander[0].label
    page.button(key="pin-1-a").click().run()
    page.button(key="pin-0-b").click().run()
    assert_fine(page)
    assert "example=4" in page.query_params["a"]
    assert "example=0" in page.query_params["b"]
    page.segmented_control(key="compare-shown").set_value("patching").run()
    assert_fine(page)
    assert len(page.get("plotly_chart")) == 3
    assert "Two pairs, at places both have: " in html(page)
    # What is wrong with a map is wrong with their difference.
    assert html(page).count("✓ Itself: no change") == 3
    page.button(key="pin-0-remove").click().run()
    assert "Pinned: 1" in page.expander[0].label
    page.button(key="pin-0-open").click().run()
    assert_fine(page)
    assert page.session_state["view"].example == 4
    assert page.session_state["view"].page == "study"


@pytest.mark.slow
def test_what_was_typed_before_is_no_part_of_an_example(open_page: Open, record: RunRecord) -> None:
    ask = Ask("a b", "a c", "d", "e")
    source = Source("run", "r")
    assert pins.about(View(source, "prompt", 3, ask=ask)) == View(source, "prompt", ask=ask)
    assert pins.about(View(source, "circuit", 3, ask=ask)) == View(source, "circuit", 3)
    assert pins.about(View(source, ask=ask)) == View(source, ask=ask)
    # A link may hold both all the same: what is compared are the examples.
    run = f"run={record.path.parent.name}%2F{record.path.name}&clean=x&corrupt=y&answer=1&foil=2"
    query = {"page": "compare", "a": f"{run}&example=0", "b": f"{run}&example=4"}
    page = open_page(root_of(record), query=query)
    assert_fine(page)
    assert "A: “Tom Cruise&#x27;s mother is”" in html(page)
    assert "B: “Finn Grove&#x27;s mother is”" in html(page)


def test_pins_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins.st, "session_state", {})
    for example in range(pins.MOST):
        assert pins.keep("one", View(example=example))
    assert pins.keep("one", View(example=0))
    assert not pins.keep("more", View(example=99))
    names = [pin.name for pin in pins.all_pins()]
    assert names[:2] == ["one", "one (2)"]
    assert len(set(names)) == pins.MOST
    views = {View(example=n): "same" for n in range(3)} | {View(): "other"}
    assert len(set(told_apart(views).values())) == 4


@pytest.mark.slow
def test_a_lens_is_offered_where_both_sides_have_it(
    open_page: Open, spec: ModelSpec, tuned: ModelSpec, tmp_path: Path, run_code: Any
) -> None:
    folder = tmp_path / "with lens"
    shutil.copytree(spec.source, folder)
    model = load_model(str(folder))
    texts = [PAIR.clean, PAIR.corrupt, OTHER.clean]
    train_tuned_lens(model, texts, steps=1, batch_tokens=16, folder=folder / "lens-tuned")
    sides = {
        letter: urlencode({"model": str(folder), "clean": pair.clean, "answer": pair.answer})
        for letter, pair in (("a", PAIR), ("b", OTHER))
    }
    query = {"page": "compare", "lens": "tuned", "model": str(folder)} | sides
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    assert page.segmented_control(key="lens").value == "tuned"
    assert page.segmented_control(key="lens").options == ["Logit lens", "Tuned lens"]
    said = html(page)
    assert "read through the tuned lens" in said
    assert "A and B have no Jacobian lens" in said
    assert page.query_params["lens"] == "tuned"
    drawn = json.loads(page.get("plotly_chart")[-1].proto.spec)
    where = Through("tuned", str(folder / "lens-tuned"))
    asked = {"A": (ModelSpec(str(folder)), PAIR.clean, PAIR.answer)}
    asked["B"] = (ModelSpec(str(folder)), OTHER.clean, OTHER.answer)
    made = two_snippets.asked_ranks(asked, {"A": where, "B": where})
    figure = run_code(made)
    lens = TunedLens.load(folder / "lens-tuned", model)
    own = {
        letter: logit_lens(model, [pair.clean], [pair.answer], lens=lens)
        for letter, pair in (("A", PAIR), ("B", OTHER))
    }
    assert figure == rank_lines(own)
    assert [one["name"] for one in drawn["data"]] == [one.name for one in figure.data]
    # What only one side has is not offered, and which one lacks it is said.
    page.session_state["asked_for"] = {str(folder), tuned.source}
    view = page.session_state["view"]
    two = replace(view.two, b=View(Source("model", tuned.source)))
    page.session_state["view"] = replace(view, two=two)
    page.run()
    assert_fine(page)
    assert page.segmented_control(key="lens").options == ["Logit lens"]
    assert "B has no tuned lens" in html(page)
