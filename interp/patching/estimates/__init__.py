"""Estimates: what a sweep would find, from gradients and from runs of a part of each cell."""

from interp.patching.estimates.asking import DEFAULT, How, Method, estimate, estimated
from interp.patching.estimates.trust import CHECKED, Trust, measured

__all__ = ["CHECKED", "DEFAULT", "How", "Method", "Trust", "estimate", "estimated", "measured"]
