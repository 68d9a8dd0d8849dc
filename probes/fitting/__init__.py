"""Fits of all sites at once: closed forms, and many logistic regressions solved together."""

from probes.fitting.basis import Basis, factored, plain, rotated
from probes.fitting.descent import solve
from probes.fitting.problems import Problems, Solution
from probes.fitting.workspace import Workspace

__all__ = ["Basis", "Problems", "Solution", "Workspace", "factored", "plain", "rotated", "solve"]
