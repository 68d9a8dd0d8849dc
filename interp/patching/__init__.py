"""Activation patching: what changes in the answer when one activation is replaced."""

from interp.patching.estimates import estimate
from interp.patching.exact import refine, sweep
from interp.patching.patch import Patch, patch_sets
from interp.patching.paths import patch_paths
from interp.patching.request import Options
from interp.patching.results import agreement, normalised
from interp.patching.single import patch_once

__all__ = [
    "Options",
    "Patch",
    "agreement",
    "estimate",
    "normalised",
    "patch_once",
    "patch_paths",
    "patch_sets",
    "refine",
    "sweep",
]


def __dir__() -> list[str]:
    return sorted(__all__)
