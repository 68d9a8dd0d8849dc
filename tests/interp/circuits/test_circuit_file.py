"""A circuit's file gives the circuit back, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.circuits import Circuit, attribute_edges, prune
from interp.errors import ModelError, StorageError
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny


@pytest.fixture(scope="module")
def circuit(llama: Tiny) -> Circuit:
    scores = attribute_edges(llama.model, prompt_pairs(llama), method="eap", by="position")
    return prune(scores, 40)


@pytest.mark.slow
def test_a_circuit_comes_back_as_it_was(llama: Tiny, circuit: Circuit, tmp_path: Path) -> None:
    path = tmp_path / "circuit.json"
    circuit.save(path)
    found = Circuit.load(path, llama.model)
    assert found.edges == circuit.edges
    assert len(found) > 20
    assert found.nodes == circuit.nodes
    np.testing.assert_array_equal(found.included, circuit.included)
    np.testing.assert_array_equal(found.scores[found.included], circuit.scores[circuit.included])
    np.testing.assert_array_equal(
        found.position[found.included], circuit.position[circuit.included]
    )
    assert (found.positions, dict(found.settings)) == (circuit.positions, dict(circuit.settings))
    assert found.found_on == circuit.found_on != ()
    assert found.jaccard(circuit) == 1.0
    again = tmp_path / "again.json"
    found.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_a_circuit_of_another_model_is_refused(
    gpt2: Tiny, circuit: Circuit, tmp_path: Path
) -> None:
    circuit.save(tmp_path / "circuit.json")
    with pytest.raises(ModelError, match="belongs to the model 'llama'"):
        Circuit.load(tmp_path / "circuit.json", gpt2.model)


def _without(key: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        del content[key]

    return change


def _edge(**values: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        content["edges"][0].update(values)

    return change


DAMAGES = [
    *(_without(key) for key in ("format", "identity", "settings", "positions", "edges")),
    _edge(source="a9.h9"),
    _edge(source="m2", destination="m0"),
    _edge(destination=["logits"]),
    _edge(score="__import__('os')"),
    _edge(score=[1]),
    _edge(position=10_000),
    _edge(position=-2),
    _edge(position=None),
    lambda content: content.update(format="obverse circuit 99"),
    lambda content: content.update(identity=[]),
    lambda content: content.update(edges={"a": 1}),
    lambda content: content.update(settings=3),
    lambda content: content.update(found_on="so we saw Ann"),
    lambda content: content.update(found_on=[1]),
    _edge(score=float("inf")),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(
    llama: Tiny, circuit: Circuit, tmp_path: Path, damage: Any
) -> None:
    path = tmp_path / "circuit.json"
    circuit.save(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(StorageError, match=r"is not a circuit that Obverse wrote \(.+\)"):
        Circuit.load(path, llama.model)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_file_of_anything_else_is_named(llama: Tiny, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "circuit.json"
    path.write_bytes(data)
    with pytest.raises(StorageError, match="not a circuit"):
        Circuit.load(path, llama.model)
    with pytest.raises(StorageError, match="does not exist"):
        Circuit.load(tmp_path / "none.json", llama.model)
