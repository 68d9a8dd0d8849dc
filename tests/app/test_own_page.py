"""The page of a model: its facts, one's own prompts, and links that name it."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import resources
from app.link import to_query
from app.selection import Ask, Cell, Source, View
from experiments.records import RunRecord
from interp.loading import bridge
from tests.app.material import HOSTILE
from tests.app.pages import Open, assert_fine, html, root_of, switched, turned_to

pytestmark = pytest.mark.slow


def test_a_model_brings_its_facts(open_page: Open, model_folder: Path, tmp_path: Path) -> None:
    page = open_page(tmp_path, query={"model": str(model_folder), "example": "4"})
    assert_fine(page)
    assert "Finn Grove  ·  Gia Hale" in html(page)
    assert len(page.get("plotly_chart")) == 8


def test_another_source_starts_afresh(
    open_page: Open, record: RunRecord, model_folder: Path, tmp_path: Path
) -> None:
    page = open_page(root_of(record), query={"page": "prompt"})
    assert_fine(page)
    page.session_state["view"] = replace(
        page.session_state["view"], page=None, example=4, cell=Cell("forward", 1, position=1)
    )
    page.run()
    page.pills(key="groups").set_value(["both"]).run()
    assert_fine(page)
    chosen = page.selectbox(key="source")
    chosen.set_value(chosen.options[-1]).run()  # "Another model …"
    assert_fine(page)
    page.text_input[0].set_value(str(model_folder))
    page.button[0].click().run()
    assert_fine(page)
    view = page.session_state["view"]
    assert view == View(Source("model", str(model_folder)), example=0)
    assert len(page.dataframe[0].value) == 6


def test_a_link_to_the_field_of_another_model_shows_it_again(
    open_page: Open, record: RunRecord
) -> None:
    page = open_page(root_of(record), query={"model": ""})
    assert_fine(page)
    assert [field.key for field in page.text_input] == ["other-name"]
    assert to_query(page.session_state["view"])["model"] == ""
    assert open_page(root_of(record), query={"run": ""}).session_state["view"].source is not None


def test_own_prompts_are_compared(open_page: Open, model_folder: Path, tmp_path: Path) -> None:
    query = {
        "model": str(model_folder),
        "page": "prompt",
        "clean": "Tom Cruise's mother is",
        "corrupt": f"Ann {HOSTILE}'s mother is",
        "answer": "Mary",
        "foil": "Bea",
        "way": "clean",
        "layer": "1",
        "position": "2",
    }
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    assert "Patching the residual stream into block 1 at ‘Cruise’" in html(page)
    assert "<img" not in html(page)
    # Two lenses, attention on both prompts, and the map.
    assert len(page.get("plotly_chart")) == 5


def form(page: AppTest) -> list[str]:
    return [page.text_input(key=f"ask-{name}").value for name in ("clean", "corrupt", "answer")]


def test_what_was_typed_is_kept_every_time(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    page = open_page(tmp_path, query={"model": str(model_folder), "page": "prompt"})
    assert_fine(page)
    for name in ("Dan Frost", "Cy Dale", "Hal Iris"):
        ids = [field.proto.id for field in page.text_input]
        page.text_input(key="ask-clean").set_value(f"{name}'s mother is")
        page.text_input(key="ask-corrupt").set_value("Tom Cruise's mother is")
        page.text_input(key="ask-answer").set_value("Eva")
        page.button[0].click().run()
        assert_fine(page)
        assert form(page) == [f"{name}'s mother is", "Tom Cruise's mother is", "Eva"]
        assert page.query_params["clean"] == f"{name}'s mother is"
        assert f">{name.split()[0]}</span>" in html(page)
        # A field with another id is another one in the browser, without what is typed there.
        assert [field.proto.id for field in page.text_input] == ids


def test_another_model_starts_with_its_own_prompts(
    open_page: Open, record: RunRecord, model_folder: Path
) -> None:
    query = {"model": str(model_folder), "page": "prompt", "clean": "Tom is", "corrupt": "Ann is"}
    page = open_page(root_of(record), query=query | {"answer": "Mary", "foil": "Bea"})
    assert form(page)[0] == "Tom is"
    page.selectbox(key="source").select_index(0).run()
    assert_fine(page)
    turned_to(page, "prompt")
    assert_fine(page)
    assert form(page)[0] == "Tom Cruise's mother is"


def test_an_indirect_object_sentence_is_compared(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    page = open_page(tmp_path, query={"model": str(model_folder), "page": "prompt"})
    page.text_input(key="ask-clean").set_value("Mary Tom's mother Tom is")
    page.text_input(key="ask-corrupt").set_value("Mary Ann's mother Tom is")
    page.text_input(key="ask-answer").set_value("Mary")
    page.text_input(key="ask-foil").set_value("Tom")
    page.button[0].click().run()
    assert_fine(page)
    # Two lenses, attention on both prompts, and the map.
    assert len(page.get("plotly_chart")) == 5


def ask(page: AppTest, asked: Ask, tab: str = "attention") -> None:
    page.session_state["view"] = replace(page.session_state["view"], ask=asked)
    switched(page, inside=tab)
    page.run()


def test_a_prompt_alone_is_enough(open_page: Open, model_folder: Path, tmp_path: Path) -> None:
    query = {"model": str(model_folder), "page": "prompt", "clean": "Tom Cruise's mother is"}
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    assert len(page.get("plotly_chart")) == 2  # lens and attention
    said = html(page)
    assert "there is missing: an answer; a second prompt" in said
    switched(page, inside="attribution")
    page.run()
    assert_fine(page)
    assert "this is of the likeliest token" in html(page)
    ask(page, Ask("Tom Cruise's mother is", "", "Mary", "Mary"), tab="attribution")
    assert_fine(page)
    assert "begin with the same token" in page.warning[0].value
    ask(page, Ask("Tom Cruise's mother is", "", "Mary", ""), tab="writes")
    page.text_input(key="write-toward").set_value("Mary Lee Pfeiffer")
    page.text_input(key="write-away").set_value("Eva Lane")
    page.number_input(key="write-dose").set_value(20.0)
    page.slider(key="write-tokens").set_value(3)
    next(button for button in page.button if button.label == "Write").click().run()
    assert_fine(page)
    shown = html(page)
    assert ">As it is</div>" in shown
    assert ">Steered</div>" in shown
    ask(page, Ask(" ", "", "", ""))
    assert not page.exception
    assert "The prompt is empty" in page.error[0].value


def test_a_token_without_a_counterpart_is_told(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    query = {
        "model": str(model_folder),
        "page": "prompt",
        "clean": "Mary Lee Pfeiffer's son is",
        "corrupt": "Bea Stone's son is",
        "answer": "Tom",
        "foil": "Ann",
        "way": "clean",
        "layer": "1",
        "position": "1",
    }
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    assert "‘Mary’ of the clean prompt has no counterpart in the other prompt" in html(page)
    assert "No token of the other prompt stands for this one" in html(page)
    figure = json.loads(page.get("plotly_chart")[-1].proto.spec)
    assert figure["layout"]["xaxis"]["ticktext"][1] == "Mary"


def test_prompts_that_do_not_fit_are_told_in_one_sentence(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    query = {"model": str(model_folder), "page": "prompt", "clean": "Tom", "corrupt": "Tom"}
    page = open_page(tmp_path, query=query | {"answer": "Mary", "foil": "Bea"})
    assert not page.exception
    assert [str(e.value) for e in page.error] == [
        r"The two prompts are the same; change one thing in the corrupted one\."
    ]


def test_a_folder_that_is_no_model_is_told(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tmp_path, query={"model": str(tmp_path)})
    assert not page.exception
    assert len(page.error) == 1
    assert "config" in page.error[0].value


def touches(monkeypatch: pytest.MonkeyPatch, folder: str) -> list[str]:
    """From now on, each look into a folder or at its metadata."""
    seen: list[str] = []

    def watch(owner: Any, name: str) -> None:
        look = getattr(owner, name)

        def looked(path: Any = ".", *more: Any, **named: Any) -> Any:
            if str(path) == folder:
                seen.append(name)
            return look(path, *more, **named)

        monkeypatch.setattr(owner, name, looked)

    watch(Path, "glob")
    for name in ("stat", "lstat", "open", "listdir", "scandir"):
        watch(os, name)
    return seen


def test_a_model_that_does_not_fit_is_refused_with_the_figures(
    open_page: Open, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "large"
    shutil.copytree(model_folder, folder)
    monkeypatch.setattr(bridge, "available_memory", lambda: 1000)
    page = open_page(tmp_path / "runs", query={"model": str(folder), "page": "prompt"})
    assert not page.exception
    (error,) = page.error
    told = re.sub(r"\\(.)", r"\1", str(error.value))  # as Markdown shows it
    assert re.search(
        r"large' does not fit into the memory of this computer: its [\d,]+ parameters take "
        r"[\d.]+ [kM]B in float32, and 1 kB are free; free some, load it in bfloat16",
        told,
    ), told
    assert not page.get("plotly_chart")


@pytest.mark.parametrize("name", ["someone/something", "folder", "~", "//server/share"])
def test_a_link_opens_no_model_without_a_click(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        "interp.loading.load.load_model", lambda *given: pytest.fail("loaded a model")
    )
    if name == "folder":
        name = str(tmp_path)
    touched = touches(monkeypatch, os.path.expanduser(name))
    page = open_page(tmp_path / "runs", query={"model": name}, agreed=False)
    assert_fine(page)
    assert f'<pre class="ob-path">{name}</pre>' in html(page)
    assert [button.label for button in page.button] == ["Open it"]
    assert "Your own prompts" not in str(page.main)
    assert touched == []
    if name == str(tmp_path):  # after the click it is
        page.button(key="allow").click().run()
        assert touched


def test_a_model_from_a_link_opens_after_a_click(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    resources.agreed().clear()  # other tests have opened it
    page = open_page(tmp_path, query={"model": str(model_folder), "example": "4"}, agreed=False)
    assert "Finn Grove" not in html(page)
    page.button(key="allow").click().run()
    assert_fine(page)
    assert "Finn Grove  ·  Gia Hale" in html(page)
    assert page.query_params["example"] == "4"
    # Who reloads the page, which begins another session, is not asked again.
    again = open_page(tmp_path, query={"model": str(model_folder), "example": "4"}, agreed=False)
    assert "Finn Grove  ·  Gia Hale" in html(again)
    assert "Open it" not in [button.label for button in again.button]
