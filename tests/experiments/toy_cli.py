"""The command line with the toy study in its list and a model that costs nothing to load."""

from __future__ import annotations

from typing import Any

import experiments.registry
import interp
from experiments.cli import main
from tests.experiments import toy


def load_model(source: str, **_: object) -> Any:
    return toy.fake_model(source=source)


if __name__ == "__main__":
    experiments.registry.entry_points = toy.installed  # type: ignore[assignment]
    interp.load_model = load_model  # type: ignore[assignment]
    main()
