"""What is imported once, before anything can be drawn or computed: in a thread beside the server,
so that it answers at once; whoever comes before it is done is told what it waits for.

Only this thread imports it: packages that import one another in a circle can be found half made
where two threads begin at different ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

_EVERY = 0.25  # s, between two looks


def _pages(root: Path) -> object:
    from app import runs
    from app.views import frame

    return frame, runs.find(root, None)


def _torch(root: Path) -> object:
    import torch
    import transformers

    return torch, transformers


def _lens(root: Path) -> object:
    from transformer_lens import model_bridge

    from interp.loading.load import load_model

    return load_model, model_bridge


def _studies(root: Path) -> object:
    from app import resources
    from experiments.registry import study_names

    return [resources.page(name) for name in study_names()]


Stage = tuple[str, Callable[[Path], object]]
"""What is loaded, for people, and what loads it."""

STAGES: tuple[Stage, ...] = (
    ("what draws the pages", _pages),
    ("PyTorch", _torch),
    ("TransformerLens", _lens),
    ("the studies", _studies),
)


@dataclass
class Starting:
    """The thread.

    Args:
        root: the folder of runs; reading it once has the system keep it at hand.
        stages: what is done, in this order.

    Attributes:
        done: how many stages are over.
    """

    root: Path
    stages: tuple[Stage, ...] = STAGES
    done: int = 0

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def told(self) -> str | None:
        """What is loaded now; None when all is there."""
        if self._over.is_set():
            return None
        name = self.stages[min(self.done, len(self.stages) - 1)][0]
        seconds = time.monotonic() - self._begun
        return f"Loading {name}: {self.done + 1} of {len(self.stages)}, {seconds:.0f} s."

    def wait(self, seconds: float) -> None:
        self._over.wait(seconds)

    def _run(self) -> None:
        try:
            for _, stage in self.stages:
                try:
                    stage(self.root)
                except Exception:  # who needs it, is told what is wrong with it
                    logging.getLogger("obverse").exception("Something could not be loaded")
                self.done += 1
        finally:
            self._over.set()


begun: list[Starting] = []
"""The thread of this process, once it has been started."""


def begin(root: Path) -> None:
    """Start the thread, once in a process."""
    if not begun:
        begun.append(Starting(root))


def wait() -> None:
    """Wait until all is there, and say meanwhile on the screen what is awaited."""
    if not begun or begun[0].told is None:
        return
    place = st.empty()
    while (told := begun[0].told) is not None:
        place.info(f"The explorer has just been started. {told}", icon=":material/hourglass_top:")
        begun[0].wait(_EVERY)
    place.empty()
