"""Activation patching: what changes in the answer when one activation is replaced."""

from interp.patching.exact import sweep
from interp.patching.first_order import agreement, estimate
from interp.patching.results import normalised
from interp.patching.single import patch_once

__all__ = ["agreement", "estimate", "normalised", "patch_once", "sweep"]
