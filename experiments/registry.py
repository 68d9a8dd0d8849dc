"""The studies that installed packages bring along, found through an entry-point group.

    [project.entry-points."obverse.studies"]
    my-study = "my_package.study:STUDY"

Their names are told without importing one. What cannot be imported, or is there twice, is an error
of that study alone.
"""

from __future__ import annotations

import difflib
import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from experiments.errors import StudyError
from experiments.run_directory.shapes import Shapes
from experiments.study import Study

__all__ = ["GROUP", "find_study", "shapes_of", "study_names"]

GROUP = "obverse.studies"
"""The entry-point group that studies are found through."""

# A study's name is that of a folder, too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")


def study_names() -> list[str]:
    """The names of the studies, in alphabetical order. Imports none."""
    return sorted({point.name for point in entry_points(group=GROUP) if _NAME.match(point.name)})


def find_study(name: str) -> Study[Any]:
    """Import a study by its name.

    Raises:
        StudyError: there is none, with the nearest name; it is there twice; or its package cannot
            be imported or brings something else.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points or not _NAME.match(name):
        raise StudyError(f"Unknown study '{name}'; {_hint(name)}")
    if len({point.value for point in points}) > 1:
        packages = " and ".join(sorted(_package(point) for point in points))
        raise StudyError(
            f"There are {len(points)} studies of the name '{name}', of {packages}; uninstall all "
            "but one of these packages."
        )
    package = _package(points[0])
    try:
        study = points[0].load()
    except (Exception, SystemExit) as error:  # another package's code may fail in any way
        raise StudyError(
            f"The study '{name}' of {package} cannot be imported ({_why(error)}); repair or "
            "uninstall that package."
        ) from error
    if not isinstance(study, Study) or study.name != name:
        found = f"the study '{study.name}'" if isinstance(study, Study) else "no study"
        raise StudyError(
            f"What {package} brings as the study '{name}' is {found}; repair or uninstall that "
            "package."
        )
    return study


def shapes_of(name: str) -> Shapes:
    """The shapes of the results that a study declares; none for one that cannot be used here."""
    try:
        return find_study(name).results
    except StudyError:
        return {}


def _hint(name: str) -> str:
    names = study_names()
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    if names:
        return f"there are: {', '.join(names)}."
    return "no study is installed; install obverse anew with 'pip install'."


def _why(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        return " ".join(f"{kind}: {error}".split()).rstrip(".")
    except Exception:  # it does not even say what it is
        return kind


def _package(point: EntryPoint) -> str:
    return f"'{point.value}'" if point.dist is None else f"the package '{point.dist.name}'"
