"""A probe on a real language model and real text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from interp import load_model
from probes import collect, probe_report


@pytest.mark.slow
@pytest.mark.shared
def test_the_next_character_is_told_by_the_context_and_not_by_the_token(shared: Path) -> None:
    """Whether the next token starts a word, for tokens of WikiText."""
    model = load_model(shared / "models" / "stories260K")
    text = (shared / "data" / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8")
    lines = [line.strip()[:160] for line in text.splitlines() if len(line) > 200][:60]
    found = collect(model, lines, ["resid_pre.0", "resid_post"], positions="all")
    prompts = found.prompts
    assert prompts is not None
    inside = np.flatnonzero(prompts[:-1] == prompts[1:])
    starts = np.array([found.tokens[i + 1].startswith(" ") for i in inside])
    report = probe_report(found.select(inside), np.where(starts, "word", "inside"))
    first, last = report.isel(site=0), report.isel(site=-2)
    assert (report["p_corrected"] < 0.05).all()
    # The embedding spells any labels of tokens; what the last layers know is not in the token.
    assert first["selectivity_high"] < -0.05
    assert last["selectivity_low"] > 0.02
    assert (report["selectivity"].diff("site") > 0).all()
    assert last["accuracy_low"] > report["majority"] + 0.03
    assert last["accuracy"] > first["accuracy"]
    assert last["compression"] > first["compression"]
