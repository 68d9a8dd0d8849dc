"""Circuit discovery: which edges between components carry a behaviour, and whether they suffice."""

from interp.circuits.edges import attribute_edges
from interp.graph import Graph

__all__ = ["Graph", "attribute_edges"]
