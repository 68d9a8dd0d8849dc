"""Subspaces that carry a variable: distributed alignment search."""
