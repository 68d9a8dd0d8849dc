"""Lenses that lie on the disk are found, and those that do not are fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app import resources
from app.compute import lenses
from app.compute.engine import Engine, ModelSpec
from app.panels import lens_kinds
from cache.errors import StorageError
from interp import fit_jacobian_lens, train_tuned_lens
from interp.errors import ModelError
from interp.lens.cost import jacobian_seconds, tuned_seconds
from tests.app.conftest import loaded
from tests.app.material import FACTS

TEXTS = tuple(f"{fact.subject}'s mother is {fact.object}." for fact in FACTS)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lenses, "STEPS", 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tuned", "jacobian"])
def test_a_fit_is_what_the_library_fits_and_is_found_again(
    fresh: Engine, spec: ModelSpec, kind: str, tmp_path: Path, few_steps: None
) -> None:
    folder = lenses.own_place(tmp_path, kind)
    assert lenses.there(kind, lenses.places(kind, "none", tmp_path, "none")) is None
    work = fresh.in_steps(spec, ("fit", kind), lenses.fit(kind, TEXTS, folder), gives_way=True)
    assert work.wait(60).error is None
    model = loaded(spec)
    place = lenses.there(kind, lenses.places(kind, "none", tmp_path, "none"))
    assert place is not None
    found = lenses.load(model, kind, place)
    if kind == "tuned":
        own = train_tuned_lens(model, list(TEXTS), steps=3, batch_tokens=lenses.BATCH)
        np.testing.assert_allclose(found.weight, own.weight, atol=1e-6)
    else:
        own = fit_jacobian_lens(model, list(TEXTS), skip_first=lenses.SKIPPED)
        np.testing.assert_allclose(found.matrix(1), own.matrix(1), atol=1e-6)


@pytest.mark.slow
def test_a_lens_that_was_fitted_anew_reads_anew(
    fresh: Engine, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "engine", lambda: fresh)
    prompt = f"{FACTS[0].subject}'s mother is"
    read = []
    for written, steps in ((1, 1), (2, 9)):
        lens = train_tuned_lens(loaded(spec), list(TEXTS), steps=steps, batch_tokens=64)
        chosen = lens_kinds.Chosen("tuned", lens, "lens-tuned", written=written)
        read.append(lens_kinds.read(spec, chosen, prompt, None)["top_prob"].values)
    assert np.abs(read[0] - read[1]).max() > 1e-4


def test_no_link_leads_out_of_the_run(tmp_path: Path) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    (elsewhere / "lens-tuned").mkdir(parents=True)
    run.mkdir()
    (run / "work").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="symbolic link"):
        lenses.places("tuned", "none", run, "none")
    (run / "work").unlink()
    (run / "work").mkdir()
    (run / "work" / "lens-tuned").symlink_to(elsewhere / "lens-tuned")
    with pytest.raises(StorageError, match="symbolic link"):
        lenses.own_place(run, "tuned")


def test_others_compute_while_a_lens_is_fitted(fresh: Engine, spec: ModelSpec) -> None:
    """Each time that the work tells how far it is, whoever waits has the turn."""
    import threading

    computed = threading.Event()

    def slow(model: object, tell: object) -> object:
        for done in range(200):
            if computed.wait(0.06):
                yield done
                return
            tell(done, 200)  # type: ignore[operator]
        yield -1

    work = fresh.in_steps(spec, ("slow",), slow, gives_way=True)  # type: ignore[arg-type]
    fresh.compute(spec, ("other",), lambda model: computed.set())
    found = work.wait(30).result
    assert found is not None
    assert found >= 0


@pytest.mark.slow
def test_the_lens_of_another_model_is_refused(
    spec: ModelSpec, tmp_path: Path, few_steps: None
) -> None:
    from interp import load_model

    fit_jacobian_lens(loaded(spec), list(TEXTS), skip_first=1, folder=tmp_path)
    place = lenses.there("jacobian", [tmp_path / "none", tmp_path])
    assert place is not None
    with pytest.raises(ModelError):
        lenses.load(load_model("reversal-curse"), "jacobian", place)


def test_texts_are_spread_over_all(spec: ModelSpec) -> None:
    many = tuple(str(i) for i in range(480))
    assert lenses.chosen("tuned", many) == list(many)
    assert lenses.chosen("jacobian", many) == [str(10 * i) for i in range(48)]


def test_the_estimate_grows_with_the_work(spec: ModelSpec) -> None:
    model = loaded(spec)
    assert lenses.seconds(model, "tuned", TEXTS) == tuned_seconds(model, 60, 1024)
    assert jacobian_seconds(model, 200) == 2 * jacobian_seconds(model, 100) > 0
