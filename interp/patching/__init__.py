"""Activation patching: what changes in the answer when one activation is replaced."""

from interp.patching.exact import sweep
from interp.patching.results import normalised

__all__ = ["normalised", "sweep"]
