"""Tokens, or vectors in their place, that make a model answer as is wished."""
