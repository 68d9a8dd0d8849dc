"""Intervals and tests over examples: all statistics of the house."""
