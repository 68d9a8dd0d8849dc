"""A space knows what filled it: other code with the same weights neither reads nor adds to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from cache import ActivationStore
from cache.errors import StorageError
from cache.folder.listing import committed
from cache.folder.witness import FOLDER, Witness
from interp import Model, capture, load_model
from interp.harvest import harvest
from interp.model.identity import code
from tests.interp.tiny import Tiny

ROWS = torch.tensor([[1, 5, 9, 14, 3, 8], [1, 4, 9, 7, 3, 6]])
TEXTS = ["we saw Ann near Rome and then we saw Bo near Oslo"]


@pytest.fixture(scope="module")
def other(llama: Tiny) -> Model:
    """The same weights, loaded where a library computes the MLP otherwise."""
    with other_library():
        return load_model(llama.folder)


_FORWARD = LlamaMLP.forward


def _other_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    return 1.01 * _FORWARD(self, x)


@contextlib.contextmanager
def other_library() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # As if it had come with the package: neither seen before, nor written elsewhere.
        patch.setattr(code, "SEEN", {})
        patch.setattr(code, "trusted", lambda: ("/", "<"))
        patch.setattr(LlamaMLP, "forward", _other_forward)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ActivationStore]:
    with ActivationStore(tmp_path / "store") as opened:
        yield opened


USES: dict[str, Callable[[ActivationStore, Model], object]] = {
    "get": lambda store, model: store.get(model, ROWS, "resid_post"),
    "rows": lambda store, model: store.rows(model, ROWS, "resid_post"),
    "missing": lambda store, model: store.missing(model, ROWS, "resid_post"),
    "capture": lambda store, model: capture(model, ROWS, "resid_post", store=store),
    "stream": lambda store, model: store.stream(model, "resid_post.0", batch_size=2),
    "dataset": lambda store, model: store.dataset(model, "resid_post.0"),
    "keys": lambda store, model: store.keys(model, ROWS),
    "harvest": lambda store, model: harvest(model, TEXTS, "resid_post", store),
    "verify": lambda store, model: store.verify(model),
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_other_code_with_the_same_weights_is_refused(
    store: ActivationStore, llama: Tiny, other: Model, use: str
) -> None:
    model = llama.model
    name = model.fingerprint
    if use == "harvest":
        harvest(model, TEXTS, "resid_post", store)
    else:
        store.get(model, ROWS, "resid_post")
    with other_library():
        assert other.fingerprint == name
        with pytest.raises(StorageError, match="was computed by other code"):
            USES[use](store, other)
    USES[use](store, model)


@pytest.mark.slow
def test_what_other_code_filled_is_refused_by_a_clean_model(
    tmp_path: Path, llama: Tiny, other: Model
) -> None:
    with other_library(), ActivationStore(tmp_path / "store") as store:
        store.get(other, ROWS, "resid_post")
    with ActivationStore(tmp_path / "store") as store:
        with pytest.raises(StorageError, match="was computed by other code"):
            store.get(llama.model, ROWS, "resid_post")
        (space,) = store.spaces()
        store.remove(space)
    with ActivationStore(tmp_path / "store") as store:
        found = store.get(llama.model, ROWS, "resid_post.2")
        torch.testing.assert_close(found, capture(llama.model, ROWS, "resid_post.2"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "changed", "empty"])
def test_without_a_witness_rows_are_computed_again(
    tmp_path: Path, llama: Tiny, other: Model, damage: str
) -> None:
    with ActivationStore(tmp_path / "store") as store:
        store.get(llama.model, ROWS, "resid_post")
    (path,) = (tmp_path / "store" / FOLDER).iterdir()
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "changed" else b"")
    with (
        other_library(),
        ActivationStore(tmp_path / "store") as store,
        pytest.raises(StorageError, match="was computed by other code"),
    ):
        store.get(other, ROWS, "resid_post")
    with ActivationStore(tmp_path / "store") as store:
        store.get(llama.model, ROWS, "resid_post")
    (again,) = (tmp_path / "store" / FOLDER).iterdir()
    assert again.stat().st_size > 100
    with (
        other_library(),
        ActivationStore(tmp_path / "store") as store,
        pytest.raises(StorageError, match="was computed by other code"),
    ):
        store.get(other, ROWS, "z")


@pytest.mark.slow
def test_a_witness_outlives_housekeeping(tmp_path: Path, llama: Tiny) -> None:
    with ActivationStore(tmp_path / "store") as store:
        store.get(llama.model, ROWS, "resid_post")
        (path,) = (tmp_path / "store" / FOLDER).iterdir()
        assert store.gc() == []
        assert store.verify().findings == ()
        store.folder.catalogue.rebuild("the test asks for it")
        assert path.exists()
    (tmp_path / "store" / "store.json").unlink()
    with pytest.warns(UserWarning, match="missing"):
        again = ActivationStore(tmp_path / "store")
    with again as store:
        assert store.missing(llama.model, ROWS, "resid_post") == 0
        store.folder.remove(committed(store.path))
        assert store.gc() == [f"'{path.name}' is the witness of nothing and is removed"]
        assert not path.exists()
        store.get(llama.model, ROWS, "resid_post")
        assert path.exists()
        (space,) = store.spaces()
        store.remove(space, ["resid_post.0"])
        assert path.exists()
        store.remove(space)
        assert not path.exists()


def test_a_witness_of_a_large_model_stays_small() -> None:
    values = torch.randn(90, 8, 8192).numpy()
    witness = Witness.of(values, 1e-4)
    assert witness.values.size <= 1 << 18
    assert witness.agrees(Witness.of(values * (1 + 1e-6), 1e-4))
    values[70] *= 1.01
    assert not witness.agrees(Witness.of(values, 1e-4))
