"""Instruments: what can be read from, or changed in, a language model.

Importing this package does no work: the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.attention.head_detection import detect_heads as detect_heads
    from interp.attention.head_detection import head_scores as head_scores
    from interp.attention.head_detection import repeated_sequences as repeated_sequences
    from interp.attention.head_detection import repetition_loss as repetition_loss
    from interp.attention.patterns import attention_patterns as attention_patterns
    from interp.attribution.direct import direct_logit_attribution as direct_logit_attribution
    from interp.forward.capture import capture as capture
    from interp.forward.interventions import Intervention as Intervention
    from interp.forward.interventions import applied as applied
    from interp.forward.passes import record as record
    from interp.forward.passes import resume as resume
    from interp.generation.answers import score_answers as score_answers
    from interp.generation.logits import logits as logits
    from interp.generation.sampling import Sampling as Sampling
    from interp.generation.stream import generate as generate
    from interp.generation.stream import stream as stream
    from interp.lens.logit import logit_lens as logit_lens
    from interp.lens.training import train_tuned_lens as train_tuned_lens
    from interp.lens.tuned import TunedLens as TunedLens
    from interp.loading.load import load_model as load_model
    from interp.metrics import METRICS as METRICS
    from interp.metrics import answer_logprob as answer_logprob
    from interp.metrics import logit_diff as logit_diff
    from interp.model.model import Model as Model
    from interp.patching import estimate as estimate
    from interp.patching import normalised as normalised
    from interp.patching import sweep as sweep
    from interp.prompts.masks import span_mask as span_mask
    from interp.prompts.pairs import PromptPairs as PromptPairs
    from interp.sites import Site as Site
    from interp.steering.directions import difference_of_means as difference_of_means
    from interp.steering.directions import principal_directions as principal_directions
    from interp.steering.directions import random_directions as random_directions
    from interp.steering.doses import dose_response as dose_response
    from interp.weights.association import association_matrix as association_matrix
    from interp.weights.scores import composition_scores as composition_scores
    from interp.weights.scores import copying_scores as copying_scores
    from interp.weights.scores import singular_tokens as singular_tokens
    from interp.weights.weights import Weights as Weights

_HOMES = {
    "Intervention": "interp.forward.interventions",
    "METRICS": "interp.metrics",
    "Model": "interp.model.model",
    "PromptPairs": "interp.prompts.pairs",
    "Sampling": "interp.generation.sampling",
    "Site": "interp.sites",
    "TunedLens": "interp.lens.tuned",
    "Weights": "interp.weights.weights",
    "answer_logprob": "interp.metrics",
    "applied": "interp.forward.interventions",
    "association_matrix": "interp.weights.association",
    "attention_patterns": "interp.attention.patterns",
    "capture": "interp.forward.capture",
    "composition_scores": "interp.weights.scores",
    "copying_scores": "interp.weights.scores",
    "detect_heads": "interp.attention.head_detection",
    "difference_of_means": "interp.steering.directions",
    "direct_logit_attribution": "interp.attribution.direct",
    "dose_response": "interp.steering.doses",
    "estimate": "interp.patching",
    "generate": "interp.generation.stream",
    "head_scores": "interp.attention.head_detection",
    "load_model": "interp.loading.load",
    "logit_diff": "interp.metrics",
    "logit_lens": "interp.lens.logit",
    "logits": "interp.generation.logits",
    "normalised": "interp.patching",
    "principal_directions": "interp.steering.directions",
    "random_directions": "interp.steering.directions",
    "record": "interp.forward.passes",
    "repeated_sequences": "interp.attention.head_detection",
    "repetition_loss": "interp.attention.head_detection",
    "resume": "interp.forward.passes",
    "score_answers": "interp.generation.answers",
    "singular_tokens": "interp.weights.scores",
    "span_mask": "interp.prompts.masks",
    "stream": "interp.generation.stream",
    "sweep": "interp.patching",
    "train_tuned_lens": "interp.lens.training",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
