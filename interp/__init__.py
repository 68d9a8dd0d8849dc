"""Instruments: what can be read from, or changed in, a language model.

Importing this package does no work: the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.activations import capture as capture
    from interp.answers import score_answers as score_answers
    from interp.attribution import direct_logit_attribution as direct_logit_attribution
    from interp.forward import record as record
    from interp.forward import resume as resume
    from interp.lens import logit_lens as logit_lens
    from interp.metrics import METRICS as METRICS
    from interp.metrics import answer_logprob as answer_logprob
    from interp.metrics import logit_diff as logit_diff
    from interp.model import Model as Model
    from interp.model import load_model as load_model
    from interp.patching import estimate as estimate
    from interp.patching import normalised as normalised
    from interp.patching import sweep as sweep
    from interp.prompts import PromptPairs as PromptPairs
    from interp.sites import Site as Site
    from interp.tuned import TunedLens as TunedLens
    from interp.tuning import train_tuned_lens as train_tuned_lens

_HOMES = {
    "METRICS": "interp.metrics",
    "Model": "interp.model",
    "PromptPairs": "interp.prompts",
    "Site": "interp.sites",
    "TunedLens": "interp.tuned",
    "answer_logprob": "interp.metrics",
    "capture": "interp.activations",
    "direct_logit_attribution": "interp.attribution",
    "estimate": "interp.patching",
    "load_model": "interp.model",
    "logit_diff": "interp.metrics",
    "logit_lens": "interp.lens",
    "normalised": "interp.patching",
    "record": "interp.forward",
    "resume": "interp.forward",
    "score_answers": "interp.answers",
    "sweep": "interp.patching",
    "train_tuned_lens": "interp.tuning",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
