"""Models, pairs and circuits show themselves in a notebook: small, escaped, and cut."""

from __future__ import annotations

import dataclasses
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import PromptPairs, load_model
from interp.circuits import Circuit, attribute_edges, prune
from interp.components.graph import Graph
from interp.model.model import Model
from interp.notebook import Cell, ends, picture
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
TAGS = {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "bdi"}


class Seen(HTMLParser):
    """What a browser would see: tags, attributes and text; wrong nesting is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.marked: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        assert {name for name, _ in attrs} <= {"style"}
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_mark = "rgba(255" in str(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
            if self.in_mark:
                self.marked.append(data)


def shown(value: Any) -> Seen:
    return Seen(value._repr_html_())


def test_a_model_says_what_it_is(tiny: Tiny) -> None:
    rows = {row[0]: row[1] for row in shown(tiny.model).rows}
    assert rows["layers"] == "3"
    assert rows["heads"].startswith(str(tiny.model.n_heads))
    assert rows["d_model"] == "32"
    assert rows["parameters"] == f"{tiny.model.n_parameters:,}"
    assert (rows["dtype"], rows["device"]) == ("float32", "cpu")
    assert rows["fingerprint"] == tiny.model.fingerprint


@pytest.mark.slow
def test_a_model_is_shown_as_it_is_now(llama: Tiny) -> None:
    model = load_model(llama.folder)
    before = shown(model).text
    assert shown(model).text == before
    weight = model.bridge.blocks[0].mlp.out.original_component.weight
    weight.data.mul_(2)  # which PyTorch does not count as a change
    assert model.fingerprint in shown(model).text
    weight.data.div_(2)
    assert shown(model).text == before


@pytest.mark.slow
def test_a_large_model_is_not_run_to_be_shown(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(llama.folder)
    monkeypatch.setattr(Model, "n_parameters", 7_000_000_000)
    runs: list[int] = []
    model.bridge.blocks[0].register_forward_hook(lambda *_: runs.append(1))
    assert "(ask for model.fingerprint)" in shown(model).text
    assert not runs


@pytest.mark.slow
def test_a_model_whose_weights_are_elsewhere_is_shown(llama: Tiny) -> None:
    model = load_model(llama.folder)
    model.bridge.original_model.to("meta")
    assert "(unknown)" in shown(model).text


@pytest.mark.slow
def test_the_name_of_a_model_is_no_code(llama: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)<script> & 'more' \u202e\n"
    shutil.copytree(llama.folder, folder)
    page = shown(load_model(folder))
    assert "<script>alert(1)<script> & 'more' \ufffd↵" in page.text
    assert "\u202e" not in page.text


def test_pairs_are_shown_token_by_token_with_what_differs_marked(tiny: Tiny) -> None:
    pairs = prompt_pairs(tiny)
    page = shown(pairs)
    head, clean, corrupt, *_ = page.rows
    assert head[:2] == ["pair", "run"]
    assert head[2:-2] == list(pairs.positions)
    assert head[-2:] == ["next", "not"]
    assert [clean[1], corrupt[1]] == ["clean", "corrupt"]
    assert len({len(row) for row in page.rows}) == 1
    assert clean[-2:] == [pairs.answers[0], (pairs.foils or ())[0]]
    read = tiny.model.token_strings(pairs.clean.row(0))
    there = [token.strip() for token in clean[2:-2] if token and token != "BOS"]
    assert set(there) <= {token.strip() for token in read}
    differ = [(a, b) for a, b in zip(clean[2:-2], corrupt[2:-2], strict=True) if a != b]
    assert differ
    assert {text for pair in differ for text in pair if text} <= set(page.marked)


def test_pairs_of_token_ids_show_what_they_mean(tiny: Tiny) -> None:
    text = prompt_pairs(tiny)
    equal = [i for i in range(len(text)) if len(text.clean.row(i)) == len(text.corrupt.row(i))][:1]
    clean, corrupt = (torch.tensor([batch.row(equal[0])]) for batch in (text.clean, text.corrupt))
    pairs = PromptPairs(tiny.model, clean, corrupt, torch.tensor([text.answer_ids[equal[0]]]))
    _, row, _ = shown(pairs).rows
    assert row[2:-1] == tiny.model.token_strings(text.clean.row(equal[0]))
    assert " or " not in repr(pairs)


def test_many_and_long_pairs_are_cut(gpt2: Tiny) -> None:
    prompts = ["we saw Ann " + "near Rome " * 9 + "then"] * 40
    pairs = PromptPairs(
        gpt2.model,
        prompts,
        [prompt.replace("Ann", "Bo") for prompt in prompts],
        [" Jo"] * 40,
        [" Cy"] * 40,
    )
    page = shown(pairs)
    assert "40 pairs" in page.text
    assert "35 more pairs" in page.text
    assert len(page.rows) == 11
    assert len(page.rows[0]) == min(24 + 1, len(pairs.positions)) + 4
    assert len(pairs._repr_html_()) < 60_000
    assert len(repr(pairs)) < 200
    assert repr(pairs).startswith("PromptPairs(40 pairs, ")
    assert repr(pairs).endswith(f"→ {pairs.answers[0]!r} or {(pairs.foils or ())[0]!r})")


@pytest.mark.slow
def test_a_circuit_lists_its_strongest_edges(tiny: Tiny) -> None:
    scores = attribute_edges(tiny.model, prompt_pairs(tiny))
    circuit = prune(scores, n_edges=60)
    assert len(circuit) > 25
    page = shown(circuit)
    assert page.rows[0][:3] == ["from", "to", "score"]
    assert [tuple(row[:2]) for row in page.rows[1:]] == circuit.edges[:20]
    assert f"{len(circuit) - 20} more edge" in page.text
    strongest = max(abs(circuit.scores[circuit.included]))
    assert abs(float(page.rows[1][2])) == pytest.approx(strongest, rel=0.01)


def test_what_a_circuit_was_found_with_is_no_code() -> None:
    graph = Graph(1, 1, 1, True)
    shape = graph.real.shape
    circuit = Circuit(
        graph,
        graph.real,
        np.full(shape, np.nan, np.float32),
        {"model": HOSTILE},
        {},
        positions=(HOSTILE,),
        position=np.zeros(shape, np.int64),
    )
    page = shown(circuit)
    assert HOSTILE[:20] in page.text
    assert all(row[2] == "" for row in page.rows[1:])  # no score, and no "nan"
    empty = dataclasses.replace(circuit, included=np.zeros(shape, dtype=bool))
    assert "0 of" in shown(empty).text


@pytest.mark.parametrize("text", [HOSTILE, "</td></table>", "a\x00b\x1b[31m", "\ud800", "\u2028"])
def test_nothing_leaves_its_cell(text: str) -> None:
    page = picture(text, (text,), [(text, Cell(text, marked=True, token=True))], text)
    seen = Seen(page)
    assert len(seen.rows) == 2
    assert "<script" not in page
    assert "<img" not in page
    page.encode("utf-8")
    assert not set("\x00\x1b\u2028") & set(page)


def test_long_texts_are_cut() -> None:
    page = picture("x" * 10_000, ("y" * 10_000,), [("z" * 10_000,)], "n" * 10_000)
    assert len(page) < 1500
    assert "…" in page


def test_of_many_the_ends_are_left() -> None:
    assert ends(3, 3) == ([0, 1, 2], [])
    assert ends(9, 4) == ([0, 1], [7, 8])
    assert ends(9, 5) == ([0, 1, 2], [7, 8])
