"""Attention patterns, and the heads that are known by them."""
