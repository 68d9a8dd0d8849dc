"""A subspace is what it says, in memory and in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xarray as xr
from safetensors.torch import save

from interp import Subspace, interchange
from interp.errors import (
    ArgumentError,
    DirectionError,
    ModelError,
    PromptError,
    SiteError,
    StorageError,
)
from tests.interp.subspaces.planted import ENTITY, LAST, Kind, Planted

Search = Callable[[Kind], xr.Dataset]


@pytest.fixture
def found(search_of: Search) -> Subspace:
    return Subspace.of(search_of("variable"), 0, ENTITY, 3)


@pytest.fixture
def made(model_of: Callable[[Kind], Planted]) -> Planted:
    return model_of("variable")


@pytest.mark.slow
def test_it_comes_back_from_its_file(found: Subspace, made: Planted, tmp_path: Path) -> None:
    found.save(tmp_path / "who.safetensors")
    back = Subspace.load(tmp_path / "who.safetensors", made.model)
    assert torch.equal(back.basis, found.basis)
    assert (back.site, back.layer, back.position) == ("resid_pre", 0, str(ENTITY))
    assert back.identity == found.identity
    one, other = (interchange(made.model, made.pairs(), each) for each in (found, back))
    xr.testing.assert_identical(one, other)
    assert one["hit"].mean() == 1
    assert repr(found) == ("Subspace(rank 3 of 32, resid_pre.0 at '1', of LlamaForCausalLM)")


def test_coordinates_inside_are_the_others(found: Subspace) -> None:
    base, source = torch.randn(2, 5, 32)
    new = found.interchanged(base, source)
    torch.testing.assert_close(new @ found.basis.T, source @ found.basis.T)
    outside = torch.eye(32) - found.basis.T @ found.basis
    torch.testing.assert_close(new @ outside, base @ outside, atol=1e-5, rtol=1e-4)
    assert found.interchanged(base.bfloat16(), source.bfloat16()).dtype == torch.bfloat16


@pytest.mark.slow
def test_another_model_is_refused(
    found: Subspace, model_of: Callable[[Kind], Planted], tmp_path: Path
) -> None:
    other = model_of("illusion")
    found.save(tmp_path / "who.safetensors")
    with pytest.raises(ModelError, match="belongs to the model"):
        Subspace.load(tmp_path / "who.safetensors", other.model)
    with pytest.raises(ModelError, match="belongs to the model"):
        interchange(other.model, other.pairs(), found)


def test_a_damaged_or_foreign_file_is_refused(
    found: Subspace, made: Planted, tmp_path: Path
) -> None:
    path = tmp_path / "who.safetensors"
    found.save(path)
    whole = path.read_bytes()
    notes = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    rows = {"basis": found.basis}
    for content in (
        b"",
        b"\xff" * 64,
        whole[:-4],
        whole[: len(whole) // 2],
        save(rows),
        save({"other": found.basis}, metadata=notes),
        save({"basis": 2 * found.basis}, metadata=notes),
        save({"basis": found.basis * torch.nan}, metadata=notes),
        save({"basis": torch.eye(3, 16)}, metadata=notes),
        save({"basis": torch.eye(3, 32).int()}, metadata=notes),
        *(save(rows, metadata={**notes, **wrong}) for wrong in WRONG),
    ):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="not a subspace"):
            Subspace.load(path, made.model)
    with pytest.raises(StorageError):
        Subspace.load(tmp_path / "nowhere", made.model)


WRONG = (
    {"format": "obverse-subspace-9"},
    {"layer": "two"},
    {"site": "z"},  # as wide as the stream, in heads
    {"site": "pattern"},
    {"site": "nonsense"},
    {"layer": "7"},
    {"layer": "-1"},
    {"identity": "[]"},
    {"identity": "[" * 5000},
)


@pytest.mark.slow
def test_what_is_no_subspace_is_refused(made: Planted) -> None:
    def one(rows: torch.Tensor, site: str = "resid_post") -> Subspace:
        return Subspace(rows, site, 0, "1", made.model.identity)

    assert len(one(torch.eye(2, 32)).basis) == 2
    for rows in (
        torch.ones(2, 32),
        torch.eye(32)[0],
        torch.zeros(0, 32),
        torch.full((1, 32), torch.nan),
    ):
        with pytest.raises((DirectionError, ArgumentError)):
            one(rows)
    with pytest.raises(DirectionError):
        one(torch.eye(40, 32))
    for site in ("z", "nonsense"):
        with pytest.raises(SiteError, match=r"no one vector|Unknown site"):
            one(torch.eye(2, 32), site)
    with pytest.raises(DirectionError, match="33 columns"):
        interchange(made.model, made.pairs(), one(torch.eye(2, 33)))
    with pytest.raises((ArgumentError, PromptError), match="'answers'"):
        interchange(made.model, made.pairs(), one(torch.eye(2, 32)), among="foils")  # type: ignore[arg-type]
    assert not one(torch.eye(2, 32, requires_grad=True)).basis.requires_grad
    with pytest.raises(PromptError, match="no position 'who'"):
        interchange(
            made.model,
            made.pairs(),
            Subspace(torch.eye(2, 32), "resid_post", 0, "who", made.model.identity),
        )


def test_a_cell_that_was_not_searched_is_refused(search_of: Search) -> None:
    result = search_of("variable")
    assert Subspace.of(result, 1, str(LAST), 1).position == str(LAST)
    for wrong in ((2, LAST, 1), (0, 0, 1), (0, "who", 1), (0, LAST, 2)):
        with pytest.raises(PromptError, match="The search holds no"):
            Subspace.of(result, *wrong)
    with pytest.raises(ArgumentError, match="a result of fit_das"):
        Subspace.of(result.drop_vars("basis"), 0, LAST, 1)


def test_a_search_that_was_cut_is_refused(search_of: Search) -> None:
    result = search_of("variable")
    for cut in (result.isel(layer=0), result.isel(rank=0), result.drop_attrs()):
        with pytest.raises(PromptError, match="as fit_das returned it"):
            Subspace.of(cut, 0, ENTITY, 3)
