"""Prompts as tokens: pairs, their alignment, spans, answers, and text files."""
