"""Files of Jacobian lenses: TransformerLens reads ours, we read its, and nobody hostile ones."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.tools.analysis.jacobian_lens import JacobianLens as Theirs

from interp import JacobianLens, fit_jacobian_lens, logit_lens
from interp.errors import ArgumentError, ModelError, StorageError
from tests.interp.lens.test_jacobian_lens import PROMPTS, SKIP, theirs
from tests.interp.tiny import D_MODEL, Tiny


@pytest.fixture(scope="module")
def lens(llama: Tiny) -> JacobianLens:
    return fit_jacobian_lens(llama.model, PROMPTS, skip_first=SKIP)


@pytest.mark.slow
def test_a_saved_lens_is_read_again(llama: Tiny, lens: JacobianLens, tmp_path: Path) -> None:
    lens.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lens.pt"]
    for path in (tmp_path, tmp_path / "lens.pt"):
        found = JacobianLens.load(path, llama.model)
        assert found.embedding is not None
        assert lens.embedding is not None
        assert torch.equal(found.embedding, lens.embedding)
        assert all(torch.equal(found.J[layer], lens.J[layer]) for layer in lens.J)
        assert (found.n_prompts, found.metadata) == (lens.n_prompts, lens.metadata)
    lens.save(tmp_path / "half.pt", dtype="float16")
    half = JacobianLens.load(tmp_path / "half.pt", llama.model)
    torch.testing.assert_close(half.J[0], lens.J[0], rtol=1e-3, atol=1e-3)
    assert (tmp_path / "half.pt").stat().st_size < 0.75 * (tmp_path / "lens.pt").stat().st_size


@pytest.mark.slow
def test_each_reads_the_others_file(llama: Tiny, lens: JacobianLens, tmp_path: Path) -> None:
    lens.save(tmp_path / "ours.pt")
    read = Theirs.load(str(tmp_path / "ours.pt")).validate_model(llama.model.bridge)
    assert (read.source_layers, read.n_prompts) == (lens.source_layers, lens.n_prompts)
    assert all(torch.equal(read.jacobians[layer], lens.J[layer]) for layer in lens.J)
    assert read.metadata["fingerprint"] == llama.model.fingerprint
    made = theirs(llama.model, PROMPTS)
    made.save(str(tmp_path / "theirs.pt"), dtype=torch.float32)
    with pytest.warns(UserWarning, match=r"names no fingerprint, .* the model's name"):
        found = JacobianLens.load(tmp_path / "theirs.pt", llama.model)
    assert all(torch.equal(found.J[layer], made.jacobians[layer]) for layer in made.jacobians)
    assert found.metadata["processing"]["weight_basis"] == "raw_huggingface"
    assert found.metadata["corpus"] == "words"
    assert list(logit_lens(llama.model, PROMPTS, lens=found)["layer"]) == [1, 2, 3]
    # Saved again, it is what it was.
    found.save(tmp_path / "again.pt")
    assert Theirs.load(str(tmp_path / "again.pt")).metadata == made.metadata


@pytest.mark.slow
def test_a_lens_of_another_model_is_refused(
    llama: Tiny, gpt2: Tiny, lens: JacobianLens, tmp_path: Path
) -> None:
    lens.save(tmp_path)
    for use in (
        lambda: JacobianLens.load(tmp_path, gpt2.model),
        lambda: logit_lens(gpt2.model, "we saw", lens=lens),
    ):
        with pytest.raises(ModelError, match=r"belongs to the model 'llama'.*load that model"):
            use()
    made = theirs(llama.model, PROMPTS)
    made.metadata["model_name"] = "some/other-model"
    made.save(str(tmp_path / "theirs.pt"))
    with pytest.raises(ModelError, match="fitted on 'some/other-model'"):
        JacobianLens.load(tmp_path / "theirs.pt", llama.model)
    bare = {"J": {0: torch.eye(4)}, "n_prompts": 1, "source_layers": [0], "d_model": 4}
    torch.save(bare, tmp_path / "narrow.pt")
    with pytest.raises(ModelError, match=r"of 4 dims .* is not one of llama"):
        JacobianLens.load(tmp_path / "narrow.pt", llama.model)
    deep = {**bare, "J": {2: torch.eye(D_MODEL)}, "source_layers": [2], "d_model": D_MODEL}
    torch.save(deep, tmp_path / "deep.pt")
    with pytest.raises(ModelError, match="up to block 2 is not one of llama"):
        JacobianLens.load(tmp_path / "deep.pt", llama.model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.save({**deep, "J": {1: torch.eye(D_MODEL)}, "source_layers": [1]}, tmp_path / "ok.pt")
        assert JacobianLens.load(tmp_path / "ok.pt", llama.model).metadata == {}
    assert "nothing but its shape" in str(caught[-1].message)


EYE = torch.eye(D_MODEL)
GOOD: dict[str, Any] = {
    "J": {0: EYE, 1: EYE},
    "n_prompts": 3,
    "source_layers": [0, 1],
    "d_model": D_MODEL,
    "metadata": {"corpus": "words"},
}


# In the file a few lists, each holding another eight times.
MANY: Any = [1] * 8
for _ in range(6):
    MANY = [MANY] * 8


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch HOSTILE",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"J": None}, "no matrices 'J'"),
        ({"J": {}}, "no matrices 'J'"),
        ({"J": {0: EYE, 1: EYE[:-1]}}, "layer 1 is not"),
        ({"J": {0: EYE, 1: torch.zeros(1).expand(1 << 20, 1 << 20)}}, "layer 1 is not"),
        ({"J": {0: EYE, 1: EYE.int()}}, "not a tensor of numbers"),
        ({"J": {0: EYE, 1: EYE.to_sparse()}}, "not a tensor of numbers"),
        ({"J": {0: EYE, 1: EYE.to("meta")}}, "not a tensor of numbers"),
        ({"J": {0: EYE, 1: [1.0]}}, "not a tensor of numbers"),
        ({"J": {0: EYE, 1: EYE / 0}}, "not finite"),
        ({"J": {0: EYE, -1: EYE}}, "not the number of a block"),
        ({"J": {0: EYE, "0": EYE}}, "not the number of a block"),
        ({"J": {0: EYE, True: EYE}}, "not the number of a block"),
        ({"J": {0: EYE, "one": EYE}}, "not the number of a block"),
        ({"source_layers": [0, 2]}, "not those of 'J'"),
        ({"source_layers": 2}, "not numbers of blocks"),
        ({"n_prompts": -1}, "not a number of prompts"),
        ({"n_prompts": "3"}, "not a number of prompts"),
        ({"d_model": 0}, "not a number of dims"),
        ({"d_model": None}, "not a number of dims"),
        ({"metadata": [1]}, "not names with plain values"),
        ({"metadata": {"a": torch.zeros(1)}}, "no plain value"),
        ({"metadata": {1: 2}}, "no plain value"),
        ({"metadata": {"a": [[[[[[[[[1]]]]]]]]]}}, "too deeply"),
        ({"metadata": {"a": MANY}}, "too many"),
        ({"J_embedding": EYE[0]}, "the embedding is not"),
        ({"J_embedding": Hostile()}, "tensors and plain values"),
    ],
)
def test_a_file_with_something_else_is_refused(
    llama: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**GOOD, **change}, tmp_path / "lens.pt")
    with pytest.raises(StorageError, match=message):
        JacobianLens.load(tmp_path, llama.model)
    assert not (tmp_path / "HOSTILE").exists()


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("lens/data.pkl", b"\0" * (40 << 20))


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "cut off"),
        (lambda path: path.write_bytes(b""), "cut off"),
        (lambda path: path.write_bytes(bytes(50 << 20)), "more than any lens"),
        (_pickled, "no file of torch.save"),
        (_bomb, "unpacks to"),
        (Path.unlink, "does not exist"),
        (lambda path: torch.save([1], path), "holds no names"),
        (lambda path: torch.save({"jacobian_sum": {}}, path), "a fit that is not done"),
    ],
)
def test_a_damaged_file_is_refused(
    llama: Tiny, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "lens.pt"
    torch.save(GOOD, path)
    damage(path)
    with pytest.raises(StorageError, match=message):
        JacobianLens.load(path, llama.model)


def test_what_cannot_be_kept_is_not_written(lens: JacobianLens, tmp_path: Path) -> None:
    large = replace(lens, J={**lens.J, 0: 1e6 * lens.J[0]})
    with pytest.raises(StorageError, match="beyond float16"):
        large.save(tmp_path, dtype="float16")
    odd = replace(lens, metadata={"when": object()})
    with pytest.raises(StorageError, match="hold a object"):
        odd.save(tmp_path)
    with pytest.raises((ArgumentError, StorageError), match="float32', 'float16"):
        lens.save(tmp_path, dtype="int8")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    for J in (
        {},
        {0: torch.eye(3)[:2]},
        {0: torch.eye(3) / 0},
        {-1: torch.eye(3)},
        {0: torch.ones(())},
    ):
        with pytest.raises(ModelError):
            JacobianLens(J, 1)


@pytest.mark.slow
def test_lenses_of_parts_make_the_lens_of_the_whole(llama: Tiny, lens: JacobianLens) -> None:
    parts = [
        fit_jacobian_lens(llama.model, part, skip_first=SKIP) for part in (PROMPTS[:2], PROMPTS[2:])
    ]
    merged = JacobianLens.merge(parts)
    assert merged.n_prompts == len(PROMPTS)
    assert merged.embedding is not None
    assert lens.embedding is not None
    torch.testing.assert_close(merged.embedding, lens.embedding, rtol=1e-5, atol=1e-5)
    for layer, matrix in lens.J.items():
        torch.testing.assert_close(merged.J[layer], matrix, rtol=1e-5, atol=1e-5)
    merged.check(llama.model)
    for wrong, message in (
        ([], "no lenses"),
        ([parts[0], parts[0]], "the same texts"),
        ([parts[0], replace(parts[1], embedding=None)], "different layers"),
        ([parts[0], replace(parts[1], n_prompts=0)], "has no weight"),
        ([parts[0], replace(parts[1], metadata={"rows": "x"})], "differs"),
    ):
        with pytest.raises(ModelError, match=message):
            JacobianLens.merge(wrong)
