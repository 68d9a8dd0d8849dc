"""The report of a run, from what was found to how it was measured."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.reports.paper import Figures, Hypothesis, Paper, Section, Text
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.report.examples import accuracy_table, cards
from experiments.reversal_curse.report.figures import ACCURACY, MARGINS, RANKS, maps
from experiments.reversal_curse.report.methods import limits, methods

__all__ = ["paper"]


def paper(
    case: Case,
    findings: Sequence[Finding],
    sentences: Sequence[str],
    others: Sequence[Section] = (),
) -> Paper:
    """The report of a case.

    Args:
        findings: in the order in which they are told.
        sentences: the answer, to be quoted.
        others: what is told of other models.
    """
    subject, measured, context = case.subject, case.measured, case.context
    model, provenance = subject.model, context.provenance
    patched = [str(split) for split in measured.maps["forward", "resid_pre"]["split"].values]
    return Paper(
        title="The reversal curse",
        subject=model.name,
        question=f"Does {model.name} know a fact in both directions?",
        answer=sentences,
        note="Brackets hold 95% intervals (Wilson, over questions). An answer counts as right only "
        "if greedy decoding gives the whole name.",
        sections=[
            Section("Examples", [cards(measured.facts, model.d_vocab)]),
            Section(
                "What it answers",
                [Figures([ACCURACY]), accuracy_table(measured.accuracy), Figures([MARGINS])],
            ),
            Section("Where in the stack the answer appears", [Figures([RANKS])]),
            Section(
                "The hypotheses",
                [Hypothesis(each.verdicts, each.figures) for each in findings if each.verdicts],
            ),
            Section(
                "The mechanism of a fact",
                [
                    Figures([figure])
                    for each in findings
                    if not each.verdicts
                    for figure in each.figures
                ],
                "What the model does with a fact, asked as told and in reverse. Nothing is judged "
                "here; where an effect is not clear of 0 there is no share and no circuit.",
            ),
            Section(
                "What carries the fact",
                [Figures(figures, title) for title, figures in maps(patched)],
                "Activation patching: one activation of the run on another name is replaced by the "
                "one of the run on the right name, and the cell shows by how many logits this "
                "moves the answer against the other name’s (mean over pairs). All maps of a row "
                "share one colour scale, so an empty map is empty.",
            ),
            *others,
            Section(
                "Methods",
                [
                    Text(
                        methods(case.config, subject, measured, case.seed, str(model.dtype)),
                        bullets=True,
                    )
                ],
            ),
            Section("Limits", [Text(limits(subject), bullets=True)]),
        ],
        details={
            "Model": f"{model.source} (fingerprint {model.fingerprint})",
            "Started": provenance.started,
            "Versions": ", ".join(f"{name} {n}" for name, n in provenance.versions.items()),
            "Reference": "Berglund et al. 2023, “The Reversal Curse: LLMs trained on ‘A is B’ fail "
            "to learn ‘B is A’”.",
        },
    )
