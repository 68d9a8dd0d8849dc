"""Many logistic regressions on the same features, solved together."""

from probes.solver.basis import Basis, plain, rotated
from probes.solver.descent import solve
from probes.solver.problems import Problems, Solution
from probes.solver.workspace import Workspace

__all__ = ["Basis", "Problems", "Solution", "Workspace", "plain", "rotated", "solve"]
