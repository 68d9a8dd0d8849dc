"""Where the parts of a model lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Placed"]


@dataclass(frozen=True)
class Placed:
    """Where the parts of a model lie.

    Attributes:
        parts: by the name of Hugging Face's module "cpu", "disk", "cuda:0", …
        folder: where weights were written that no file holds as the model has them.
    """

    parts: Mapping[str, str]
    folder: Path | None = None

    @property
    def main(self) -> torch.device:
        """Where it computes: on the first GPU of the map; on the CPU where there is none."""
        others = sorted({where for where in self.parts.values() if where not in ("cpu", "disk")})
        return torch.device(others[0] if others else "cpu")
