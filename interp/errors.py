"""Errors of the instruments. Each message is one sentence: what is wrong, and what to do."""

from __future__ import annotations

from cache.errors import ArgumentError, ObverseError, StorageError

__all__ = [
    "ArgumentError",
    "DirectionError",
    "DoesNotFit",
    "ExecutionError",
    "MetricError",
    "ModelError",
    "ObverseError",
    "ProbeError",
    "PromptError",
    "SiteError",
    "StatisticsError",
    "StorageError",
]


class ModelError(ObverseError):
    """A model cannot be found, loaded or trusted."""


class DoesNotFit(ModelError):
    """A model takes more memory than is free; nothing of it was loaded."""


class PromptError(ObverseError):
    """Prompts, answers or spans do not fit each other or the model."""


class SiteError(ObverseError):
    """A site does not exist in this model, or cannot be patched exactly there."""


class MetricError(ObverseError):
    """A metric is unknown, or cannot be computed from these prompts."""


class DirectionError(ObverseError):
    """A direction does not fit the activations it is to be added to, or cannot be computed."""


class ProbeError(ObverseError):
    """Features, labels or groups do not make a probe that means anything."""


class ExecutionError(ObverseError):
    """Work cannot be spread over workers, or they ended before it was done."""


class StatisticsError(ObverseError, ValueError):
    """Numbers from which no interval or test can be had."""


def first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, KeyError):  # only the key, in quotes
        text = f"{text} is not known"
    if text.endswith(":"):  # what is wrong stands on the next line
        text = " ".join(lines[:2])
    return text if len(text) <= 200 else text[:197] + "…"
