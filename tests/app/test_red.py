"""What a red badge stops, and what no download holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.compute import checks
from app.compute.checks import Check
from app.compute.engine import Engine, ModelSpec
from app.panels import lens as lens_panel
from app.selection import LONGEST_TEXT, Ask, Source, View
from app.text import markup
from experiments.records import RunRecord
from tests.app.pages import Open, assert_fine, html, root_of

pytestmark = pytest.mark.slow


def exports(page: AppTest) -> set[str]:
    """What can be downloaded as CSV, by key."""
    return {str(one.key) for one in page.get("download_button")}


def test_ranks_are_not_exported_where_their_lens_is_wrong(
    open_page: Open, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read through the lens that is red above them."""
    wrong = Check("Last layer = model", False, "It is not so.")
    monkeypatch.setattr(checks, "last_layer", lambda *given: wrong)
    st.cache_resource.clear()
    try:
        page = open_page(root_of(record), query={"example": "0"})
        assert_fine_but_red(page)
        assert exports(page).isdisjoint({"lens-forward-csv", "lens-reverse-csv", "ranks-csv"})
    finally:
        st.cache_resource.clear()


def assert_fine_but_red(page: AppTest) -> None:
    assert not page.exception
    assert {str(one.value) for one in page.error} == {
        markup.plain(text)
        for text in (
            "Nothing of this is exported: It is not so.",
            "Nothing of this is exported: Asked forward: It is not so. "
            "Asked in reverse: It is not so.",
        )
    }


def test_stored_tables_are_downloaded_without_formulas(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"page": "study", "table": "facts"})
    assert_fine(page)
    assert "table-facts-csv" in exports(page)
    style = (Path(markup.__file__).parents[1] / "static" / "page.css").read_text("utf-8")
    (rule,) = re.findall(r"[^\n]*Download as CSV[^\n]*", style)
    assert rule.endswith("{ display: none; }")


def test_a_prompt_that_is_too_long_is_not_read(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    page = open_page(tmp_path, query={"model": str(model_folder), "page": "prompt"})
    long = Ask("Tom " * LONGEST_TEXT, "", "", "")
    page.session_state["view"] = View(Source("model", str(model_folder)), page="prompt", ask=long)
    page.run()
    assert [str(one.value) for one in page.error] == [
        markup.plain(
            f"A text of {len(long.clean):,} characters is too long; at most {LONGEST_TEXT:,} are "
            "taken here."
        )
    ]
    assert 'class="ob-strip"' not in html(page)


def test_of_tokens_as_likely_as_each_other_the_answers_own_is_named(
    engine: Engine, spec: ModelSpec
) -> None:
    lens = engine.lens(spec, "Tom Cruise's mother is", " Mary").copy(deep=True)
    tokens = lens["top_token"].values
    tokens[0, -1, -1, :2] = ["Bea", str(lens["answer_token"].values[0])]
    lens["answer_rank"][0, -1, -1] = 0  # the two are as likely: none is likelier than either
    assert lens_panel.first_token(lens) == str(lens["answer_token"].values[0])
