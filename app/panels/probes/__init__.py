"""Sweeps of probes: their figure, their table, and what they say of one layer."""
