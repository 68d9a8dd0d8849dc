"""Directions in activations, and what adding them does."""
