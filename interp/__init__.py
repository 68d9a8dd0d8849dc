"""Instruments: what can be read from, or changed in, a language model.

Importing this package does no work: the names below are loaded when they are first used.
"""

import lazy_loader

# What there is, and where, stands in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
