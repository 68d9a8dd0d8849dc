"""Circuit discovery: which edges between components carry a behaviour, and whether they suffice."""

from interp.circuits.circuit import Circuit
from interp.circuits.edges import attribute_edges
from interp.circuits.faithfulness import faithfulness_curve
from interp.circuits.measure import measure, minimality
from interp.circuits.prune import prune, random_circuits

__all__ = [
    "Circuit",
    "attribute_edges",
    "faithfulness_curve",
    "measure",
    "minimality",
    "prune",
    "random_circuits",
]


def __dir__() -> list[str]:
    return sorted(__all__)
