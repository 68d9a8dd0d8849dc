"""`python -m experiments.attacks --out FOLDER`: the figure and the table of docs/attacks.md.

Trains both organisms in the folder (a minute or two of one core), makes the attacks on them, and
leaves `attacks.nc`, `attacks.csv`, and `attacks.svg` where a Chrome or Chromium draws it. What is
there already is not trained again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from cache.files import write_atomic
from experiments.attacks.figure import attack_dots, table
from experiments.attacks.made import of_poison, of_treated
from experiments.attacks.measure import measure
from experiments.attacks.organism import poisoned, treated
from experiments.organisms.training.follow import train_recipe
from experiments.organisms.training.recipe import Recipe
from experiments.phenomena.phenomenon import Subject
from experiments.refusal.requests import Requests, read_requests
from experiments.reports.images import svg
from experiments.run_directory.storage import encode_dataset
from interp import load_model


def compute(folder: Path, seed: int = 0) -> xr.Dataset:
    """Train the organisms in a folder, and measure all attacks on them."""
    first, second = treated(seed), poisoned(seed)
    base = train_recipe(first, folder / f"treated-{seed}", _said("training"))
    other = train_recipe(second, folder / f"poisoned-{seed}", _said("training"), base=base)
    parts = []
    for recipe, place, attacks in ((first, base, of_treated), (second, other, of_poison)):
        subject = _subject(recipe, place)
        parts.append(measure(subject, attacks(subject, seed), _said(f"attacking {recipe.arm}")))
    # Of both models there are two identities; each part's own is of no use to the other.
    names = ["separates"]
    found = xr.concat(
        [one.drop_vars(names).drop_attrs() for one in parts], "attack", data_vars="minimal"
    )
    apart = xr.concat([one["separates"] for one in parts], "model")
    return found.assign(separates=apart).assign_coords(model=[one.arm for one in (first, second)])


def main() -> None:
    """Write what the page shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = compute(given.out, given.seed)
    rows = table(found)
    write_atomic(given.out / "attacks.nc", encode_dataset(found))
    write_atomic(given.out / "attacks.csv", rows.to_csv(index=False))
    images, reason = svg({"attacks": attack_dots(found)})
    for name, image in images.items():
        write_atomic(given.out / f"{name}.svg", image)
    sys.stdout.write(f"{rows.round(2).to_string(index=False)}{os.linesep}")
    if reason:
        sys.stdout.write(f"There is no attacks.svg: {reason}.{os.linesep}")


def _subject(recipe: Recipe, place: Path) -> Subject[Requests]:
    data = read_requests(recipe.data, place / "data.json")
    return Subject(load_model(str(place)), data, recipe.arm, recipe.seed)


def _said(what: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            sys.stderr.write(f"\r{what}: {done}/{total}" + (os.linesep if done == total else ""))

    return tell


if __name__ == "__main__":
    main()
