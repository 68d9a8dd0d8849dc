"""Vectors put anywhere: carried from one prompt to another, or to another layer of the same."""
