"""Every hypothesis of the study, in the order of its report.

To add one: a function `(Case) -> Finding` that measures through `case.context`, and its place here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.hypotheses import (
    absence,
    association,
    attribution,
    edits,
    gradients,
    lens,
    one_map,
    retrieval,
    subject_token,
    transplant,
    two_entries,
)
from experiments.reversal_curse.mechanism import investigate as mechanism

__all__ = ["HYPOTHESES", "investigate"]

Hypothesis: TypeAlias = Callable[[Case], Finding]


def _nowhere_found(case: Case) -> Finding:
    """H2 under each lens, H3, and what they say together."""
    findings = (*lens.investigate(case).verdicts, *retrieval.investigate(case).verdicts)
    return Finding((*findings, absence.judge(findings)))


HYPOTHESES: tuple[Hypothesis, ...] = (
    subject_token.investigate,
    _nowhere_found,
    attribution.investigate,
    association.investigate,
    gradients.investigate,
    two_entries.investigate,
    edits.investigate,
    one_map.investigate,
    transplant.investigate,
    mechanism.investigate,
)


def investigate(case: Case) -> list[Finding]:
    """What each says of the case."""
    return [hypothesis(case) for hypothesis in HYPOTHESES]
