"""Badges are green where all is well, and red where something was broken on purpose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from app.compute import checks, pairs
from app.compute.engine import Engine, ModelSpec
from app.screen.told import Told
from experiments.explorer import Way
from experiments.records import RunRecord
from interp.attribution.direct import direct_logit_attribution
from interp.generation.logits import logits
from interp.lens.logit import logit_lens
from interp.loading.load import load_model
from interp.model.model import Model
from interp.prompts import alignment
from tests.app.compute import asking
from tests.app.conftest import loaded

PAIR = pairs.typed("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea")


@pytest.fixture
def model(spec: ModelSpec) -> Model:
    return loaded(spec)


def by_name(found: tuple[checks.Check, ...]) -> dict[str, bool]:
    return {check.name: check.good for check in found}


@pytest.mark.slow
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "z"])
def test_patches_of_a_sound_model_are_fine(model: Model, site: str) -> None:
    found = checks.patches(model, PAIR, site, 1)
    assert by_name(found) == {"Itself: no change": True, "Sham near 0": True, "Spans align": True}
    assert Told(checks=found).wrong == []


def test_words_that_stand_inside_of_others_are_not_looked_for_there(model: Model) -> None:
    pair = pairs.typed("Hal Iris's mother is", "Hal Iris's mother son", "Mary", "Bea")
    assert pair.words == ("is", "son")
    assert checks.spans(model, pair).good


@pytest.mark.slow
@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_a_hook_that_alters_what_it_puts_in_is_found(
    model: Model, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.patching import values

    put_in = values.TwoRuns.values

    def altered(self: Any, *given: Any) -> torch.Tensor:
        return 1.1 * put_in(self, *given) + 0.1

    monkeypatch.setattr(values.TwoRuns, "values", altered)
    found = by_name(checks.patches(model, PAIR, site, 1))
    assert not found["Itself: no change"]
    assert not found["Sham near 0"]
    assert found["Spans align"]


def test_an_alignment_that_is_shifted_is_found(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = alignment.by_spans

    def shifted(*given: Any) -> alignment.Alignment:
        found = real(*given)
        clean = np.where(found.clean > 0, found.clean - 1, found.clean)
        return replace(found, clean=clean, corrupt=found.corrupt)

    monkeypatch.setattr(alignment, "by_spans", shifted)
    check = checks.spans(model, PAIR)
    assert not check.good
    assert "do not stand against each other" in check.said


def test_tokens_without_a_counterpart_are_counted(model: Model) -> None:
    longer = pairs.typed("Mary Lee Pfeiffer's son is", "Bea Stone's son is", "Tom", "Ann")
    check = checks.spans(model, longer)
    assert check.good
    assert ", 1 against none" in check.said


def test_a_lens_that_does_not_end_in_the_model_is_found(model: Model) -> None:
    lens = logit_lens(model, [PAIR.clean])
    assert checks.last_layer(model, lens, PAIR.clean).good
    wrong = lens.assign(top_prob=lens["top_prob"] + 0.01)
    assert not checks.last_layer(model, wrong, PAIR.clean).good
    assert not checks.last_layer(model, lens, PAIR.corrupt).good


@pytest.mark.parametrize("by", ["component", "head"])
@pytest.mark.parametrize("foil", [" Bea", None])
def test_shares_that_miss_something_are_found(model: Model, by: Any, foil: str | None) -> None:
    foils = None if foil is None else [foil]
    shares = direct_logit_attribution(model, [PAIR.clean], [" Mary"], foils, by=by)
    assert checks.contributions(model, shares, PAIR.clean, " Mary", foil).good
    less = shares.assign(contribution=shares["contribution"].where(shares["layer"] != 1, 0.0))
    assert not checks.contributions(model, less, PAIR.clean, " Mary", foil).good
    # They add up, but to the logits of another prompt.
    assert not checks.contributions(model, shares, PAIR.corrupt, " Mary", foil).good


@pytest.mark.slow
def test_a_circuit_whose_whole_is_not_the_model_is_found(engine: Engine, spec: ModelSpec) -> None:
    found = asking.circuit(engine, spec, (PAIR,), 20)
    assert by_name(found.checks) == {"All edges = model": True}
    built = pairs.build(loaded(spec), [PAIR])
    for whole, empty in ((found.whole + 0.1, found.empty), (found.whole, found.empty - 0.1)):
        assert not checks.whole_circuit(loaded(spec), built, whole, empty).good


def test_a_vector_put_back_changes_nothing(engine: Engine, spec: ModelSpec) -> None:
    back = pairs.typed("Mary Lee Pfeiffer's son is", "Bea Stone's son is", "Tom", "Ann")
    assert engine.carry(spec, PAIR, back, 1, (2, 2), 3).check.good
    assert checks.no_change(loaded(spec), 0.0, 0.5).good
    assert not checks.no_change(loaded(spec), 0.1, 0.5).good
    # Of fifty thousand tokens none is likely, and each may be another one.
    assert not checks.no_change(loaded(spec), 2e-5, 2e-5).good


@pytest.fixture
def faint(spec: ModelSpec) -> Model:
    """A model all of whose logits are next to nothing: any two of them differ by less than the
    rounding of usual ones."""
    found = load_model(spec.source)
    head = found.bridge.original_model.get_output_embeddings()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1e-4)
    return found


@pytest.mark.slow
def test_checks_of_small_numbers_can_fail(
    model: Model, faint: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(by_name(checks.patches(faint, PAIR, "resid_pre", 1)).values())
    shares = direct_logit_attribution(faint, [PAIR.clean], [" Mary"])
    assert checks.contributions(faint, shares, PAIR.clean, " Mary", None).good
    assert not checks.contributions(faint, 0 * shares, PAIR.clean, " Mary", None).good
    lens = logit_lens(faint, [PAIR.clean])
    assert checks.last_layer(faint, lens, PAIR.clean).good
    higher = lens.assign(top_prob=1.1 * lens["top_prob"])
    assert not checks.last_layer(faint, higher, PAIR.clean).good
    built = pairs.build(faint, [PAIR])
    assert not checks.whole_circuit(faint, built, 5e-4, 5e-4).good

    from interp.patching import values

    put_in = values.TwoRuns.values
    monkeypatch.setattr(values.TwoRuns, "values", lambda *given: 1.1 * put_in(*given) + 0.1)
    found = by_name(checks.patches(faint, PAIR, "resid_pre", 1))
    assert not found["Itself: no change"]


def test_other_tokens_of_the_same_probabilities_are_found(model: Model) -> None:
    lens = logit_lens(model, [PAIR.clean], k=3)
    swapped = lens.assign(top_token=lens["top_token"].isel(k=[1, 0, 2]))
    check = checks.last_layer(model, swapped, PAIR.clean)
    assert not check.good
    assert "is not the token" in check.said


@pytest.mark.slow
def test_what_is_no_number_is_not_fine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp import patching

    real = patching.sweep
    monkeypatch.setattr(patching, "sweep", lambda *given, **named: np.nan * real(*given, **named))
    found = by_name(checks.patches(model, PAIR, "resid_pre", 1))
    assert found == {"Itself: no change": False, "Sham near 0": False, "Spans align": True}
    built = pairs.build(model, [PAIR])
    assert not checks.whole_circuit(model, built, float("nan"), float("nan")).good


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_no_badge_is_green_that_could_not_be_red(
    spec: ModelSpec, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rounding may be a quarter of what is shown, it is grey, and says how to be checked."""
    model = load_model(spec.source, dtype=dtype)
    found = checks.patches(model, PAIR, "resid_pre", 1)
    assert all(check.good for check in found)
    own = found[0]
    clean, corrupt = (float(logits_of(model, run)) for run in (PAIR.clean, PAIR.corrupt))
    shown = abs(clean - corrupt)
    allowed = 0.1 if dtype == "bfloat16" else 0.03
    assert own.sure == (allowed * max(1.0, abs(clean), abs(corrupt)) <= shown / 4)
    # With an effect a hundred times smaller than what is rounded nothing can be told.
    monkeypatch.setattr("interp.forward.passes.TOLERANCE", {model.dtype: 100 * shown})
    own = checks.patches(model, PAIR, "resid_pre", 1)[0]
    assert own.good
    assert not own.sure
    assert f"In {dtype} that tells little" in own.said
    badge = Told(checks=[own]).markup()
    assert 'class="ob-check unsure"' in badge
    assert "✓" not in badge
    assert Told(checks=[own]).wrong == []


def logits_of(model: Model, prompt: str) -> float:
    """How far the answer's first token is ahead of the foil's."""
    ids = [model.encode([f"{prompt} {word}"])[0][0][-1] for word in ("Mary", "Bea")]
    found = logits(model, [prompt])[0].float()
    return float(found[ids[0]] - found[ids[1]])


@pytest.mark.slow
@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_a_stored_map_is_held_against_its_model(
    model: Model, record: RunRecord, ways: dict[str, Way], site: str
) -> None:
    """Among others, whose names are longer, and whichever cell was altered to move most."""
    facts, found = record.table("facts"), record.dataset(f"patching_reverse_{site}")
    for at in range(found.sizes["example"]):
        pair, one = pairs.stored(found, at, facts, ways["reverse"]), found.isel(example=[at])
        (check,) = checks.stored(model, pair, one)
        assert (check.good, check.sure) == (True, True)
        forged = one.copy(deep=True)
        forged["patched"][0, 1, -1] += 50.0
        (check,) = checks.stored(model, pair, forged)
        assert not check.good
        assert Told(checks=(check,)).reasons
        (check,) = checks.stored(model, pair, one.assign(clean=one["clean"] + 9.0))
        assert not check.good
        # Of another model's numbers nothing is known here, and no badge is green.
        (check,) = checks.stored(model, pair, one.assign_attrs(fingerprint="0" * 32))
        assert not check.sure
