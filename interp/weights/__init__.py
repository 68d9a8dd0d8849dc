"""Circuits that can be read from weights alone."""
