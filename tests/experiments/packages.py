"""Packages of other people that bring studies, as a package manager leaves them in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DICE = """
from dataclasses import dataclass

from experiments.errors import StudyError
from experiments.study import Study, Verdict


@dataclass(frozen=True)
class Config:
    throws: int = 12

    @classmethod
    def preset(cls, name):
        if name not in ("quick", "full"):
            raise StudyError(f"Unknown preset '{name}'; choose 'quick' or 'full'.")
        return cls(12 if name == "quick" else 60)


def run(config, context):
    import pandas as pd

    def throw(progress):
        pips = context.rng("dice").integers(1, 7, config.throws)
        return pd.DataFrame({"throw": range(config.throws), "pips": pips})

    mean = float(context.table("dice", throw)["pips"].mean())
    context.document("report.html", "<p>Dice</p>")
    return [
        Verdict(
            id="D1",
            claim="Dice are fair.",
            outcome="undecided",
            statement=f"The mean is {mean:.2f} pips.",
            estimate=mean,
            low=None,
            high=None,
            unit="pips",
            n=config.throws,
            control="none",
        )
    ]


def explorer():
    from dice_figures import bars
    from experiments.explorer import Figure, Page

    return Page(figures=(Figure("pips", "Pips", ("dice",), bars, "How often each number came"),))


STUDY = Study(
    "dice",
    "Dice",
    "Whether dice are fair.",
    Config,
    run,
    {"dice": {"throw": "integer", "pips": "integer"}},
    explorer,
)
"""

FIGURES = """
import plotly.graph_objects as go


def bars(dice):
    counts = dice["pips"].value_counts()
    return go.Figure(go.Bar(x=counts.index.tolist(), y=counts.tolist(), name="throws"))
"""


def install(
    folder: Path, package: str, studies: Mapping[str, str], modules: Mapping[str, str]
) -> Path:
    """A package with its entry points (name: "module:attribute") and its modules' code."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in studies.items()]
    (about / "entry_points.txt").write_text("\n".join(["[obverse.studies]", *lines]) + "\n")
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    return folder


def install_dice(folder: Path) -> Path:
    """A package with one small study."""
    modules = {"dice_study": DICE, "dice_figures": FIGURES}
    return install(folder, "dice-games", {"dice": "dice_study:STUDY"}, modules)
