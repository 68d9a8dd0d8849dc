"""What Hugging Face, accelerate and TransformerLens say while they load, which nobody asked for."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Hugging Face's progress bars and advice off the screen while loading."""
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    placing = logging.getLogger("accelerate.big_modeling")
    told = placing.level
    placing.setLevel(logging.ERROR)
    level = logging.getLogger().level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        logging.getLogger().setLevel(level)
        placing.setLevel(told)
        if bars:
            hf_logging.enable_progress_bar()
