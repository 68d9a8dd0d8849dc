"""Two models of one shape: what differs between them, where, and what of it matters."""

import lazy_loader

# What there is, and where, stands in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
