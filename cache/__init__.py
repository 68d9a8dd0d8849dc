"""Activations on disk, and files that are wholly there or not at all. Knows nothing of models.

Importing this package does no work: the names below are loaded when they are first used.
"""

import lazy_loader

# What there is, and where, stands in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
