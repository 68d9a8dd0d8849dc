"""What was done, in sentences made from the settings, and what that cannot show."""

from __future__ import annotations

from experiments.numbers import percent
from experiments.organisms.facts import DIRECTIONS
from experiments.organisms.training.checkpoint import planted_bottleneck
from experiments.reversal_curse.config import Config
from experiments.reversal_curse.measure import Measurements, Subject

__all__ = ["limits", "methods"]


def methods(
    config: Config, subject: Subject, measured: Measurements, seed: int, dtype: str
) -> list[str]:
    """How the numbers came about, from the settings of the run."""
    model = subject.model
    wordings = {
        direction: len(subject.templates[direction].trained)
        + len(subject.templates[direction].held_out)
        for direction in DIRECTIONS
    }
    patched = measured.maps["forward", "resid_pre"].sizes["example"]
    lenses = ", ".join(["logit", *measured.other_lenses])
    return [
        f"Model: {model.name} ({model.n_layers} layers, {model.n_heads} heads, width "
        f"{model.d_model}, {model.n_parameters:,} parameters), run in {dtype}. Seed {seed}.",
        f"Facts: {len(subject.facts)}, asked in {wordings['forward']} wordings forward and "
        f"{wordings['reverse']} in reverse. Lens, patching and names use one wording each: "
        f"“{subject.main_template('forward')}” and “{subject.main_template('reverse')}”.",
        "An answer is right if greedy decoding gives the whole name. Log-probabilities are of the "
        "whole name in nats; where a first token is meant it is said.",
        f"Margins compare an answer with up to {config.n_names} other names of the same split.",
        f"Patching: {patched} facts, up to {config.n_pairs} of each split; the corrupted prompt "
        "asks about another name of as many tokens, and the metric is the logit difference of the "
        "two answers’ first tokens. Every cell is run exactly.",
        f"Lenses: {lenses}; the tuned and the Jacobian lens are fitted on the study’s own "
        "sentences, and neither is told which answer is right.",
        "Intervals are at 95% unless it is said otherwise and count questions: facts that ask the "
        "same are one. A claim of absence is a test of equivalence (two one-sided tests at 5%).",
    ]


def limits(subject: Subject) -> list[str]:
    """What the study cannot show of this model."""
    said = [
        "One model and one seed of its training: intervals are over its facts, not over models.",
        "Absence means that these instruments, at these places, found nothing; others were not "
        "asked.",
        "Patching and lenses use one wording of each direction.",
    ]
    planted = planted_bottleneck(subject.model.path)
    if planted:
        said.insert(
            1,
            "The organism was trained with a bottleneck through a name’s last token in "
            f"{percent(planted)} of its sentences, so that H1 is planted: there it checks the "
            "instrument and finds nothing new.",
        )
    return said
