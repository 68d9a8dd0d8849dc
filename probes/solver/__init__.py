"""Many logistic regressions on the same features, solved together."""

from probes.solver.basis import Basis, factored, plain, rotated
from probes.solver.descent import solve
from probes.solver.problems import Problems, Solution
from probes.solver.workspace import Workspace

__all__ = ["Basis", "Problems", "Solution", "Workspace", "factored", "plain", "rotated", "solve"]
