"""Estimates: what a sweep would find, from gradients and from runs of a part of each cell."""

from interp.patching.estimates.asking import How, Method, estimate, estimated

__all__ = ["How", "Method", "estimate", "estimated"]
