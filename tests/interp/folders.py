"""Copies of a tiny model's folder, to change or to spoil."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.interp.tiny import Tiny

WEIGHTS = "model.safetensors"


def copied(tiny: Tiny, to: Path) -> Path:
    """A folder of one's own to spoil."""
    shutil.copytree(tiny.folder, to / "model")
    return to / "model"


def configured(folder: Path, **changes: Any) -> Path:
    """Change settings in config.json; None takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def reweighted(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder
