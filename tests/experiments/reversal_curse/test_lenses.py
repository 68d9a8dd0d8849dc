"""The lenses of H2 are fitted when they are first asked for, and once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments.organisms.bundled import reversal_curse
from experiments.reversal_curse import lenses
from experiments.reversal_curse.facts import DEFAULT_TEMPLATES, read_facts
from experiments.reversal_curse.measure import Subject
from interp import load_model


@pytest.mark.slow
def test_a_lens_is_fitted_once_whoever_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[str] = []

    def training(kind: str) -> Any:
        return lambda *_, **__: fitted.append(kind) or object()

    monkeypatch.setattr(lenses, "train_tuned_lens", training("tuned"))
    monkeypatch.setattr(lenses, "fit_jacobian_lens", training("Jacobian"))
    facts = tuple(read_facts(reversal_curse() / "facts.csv")[:4])
    subject = Subject(load_model("reversal-curse"), facts, DEFAULT_TEMPLATES)
    fits = lenses.fits(subject, np.random.default_rng(0), 60.0, print)
    assert not fitted
    for fit in fits.values():
        assert fit(lambda *_: None) is fit(lambda *_: None)
    assert fitted == list(lenses.KINDS)
