"""Instruments: what can be read from, or changed in, a language model.

Importing this package does no work: the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.activations import capture as capture
    from interp.answers import score_answers as score_answers
    from interp.association import association_matrix as association_matrix
    from interp.attention import attention_patterns as attention_patterns
    from interp.attribution import direct_logit_attribution as direct_logit_attribution
    from interp.directions import difference_of_means as difference_of_means
    from interp.directions import principal_directions as principal_directions
    from interp.directions import random_directions as random_directions
    from interp.doses import dose_response as dose_response
    from interp.forward import record as record
    from interp.forward import resume as resume
    from interp.generation import generate as generate
    from interp.generation import stream as stream
    from interp.head_detection import detect_heads as detect_heads
    from interp.head_detection import head_scores as head_scores
    from interp.head_detection import repeated_sequences as repeated_sequences
    from interp.head_detection import repetition_loss as repetition_loss
    from interp.interventions import Intervention as Intervention
    from interp.interventions import applied as applied
    from interp.lens import logit_lens as logit_lens
    from interp.metrics import METRICS as METRICS
    from interp.metrics import answer_logprob as answer_logprob
    from interp.metrics import logit_diff as logit_diff
    from interp.model import Model as Model
    from interp.model import load_model as load_model
    from interp.patching import estimate as estimate
    from interp.patching import normalised as normalised
    from interp.patching import sweep as sweep
    from interp.predictions import logits as logits
    from interp.prompts import PromptPairs as PromptPairs
    from interp.sampling import Sampling as Sampling
    from interp.sites import Site as Site
    from interp.token_masks import span_mask as span_mask
    from interp.tuned import TunedLens as TunedLens
    from interp.tuning import train_tuned_lens as train_tuned_lens
    from interp.weight_scores import composition_scores as composition_scores
    from interp.weight_scores import copying_scores as copying_scores
    from interp.weight_scores import singular_tokens as singular_tokens
    from interp.weights import Weights as Weights

_HOMES = {
    "Intervention": "interp.interventions",
    "METRICS": "interp.metrics",
    "Model": "interp.model",
    "PromptPairs": "interp.prompts",
    "Sampling": "interp.sampling",
    "Site": "interp.sites",
    "TunedLens": "interp.tuned",
    "Weights": "interp.weights",
    "answer_logprob": "interp.metrics",
    "applied": "interp.interventions",
    "association_matrix": "interp.association",
    "attention_patterns": "interp.attention",
    "capture": "interp.activations",
    "composition_scores": "interp.weight_scores",
    "copying_scores": "interp.weight_scores",
    "detect_heads": "interp.head_detection",
    "difference_of_means": "interp.directions",
    "direct_logit_attribution": "interp.attribution",
    "dose_response": "interp.doses",
    "estimate": "interp.patching",
    "generate": "interp.generation",
    "head_scores": "interp.head_detection",
    "load_model": "interp.model",
    "logit_diff": "interp.metrics",
    "logit_lens": "interp.lens",
    "logits": "interp.predictions",
    "normalised": "interp.patching",
    "principal_directions": "interp.directions",
    "random_directions": "interp.directions",
    "record": "interp.forward",
    "repeated_sequences": "interp.head_detection",
    "repetition_loss": "interp.head_detection",
    "resume": "interp.forward",
    "score_answers": "interp.answers",
    "singular_tokens": "interp.weight_scores",
    "span_mask": "interp.token_masks",
    "stream": "interp.generation",
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
