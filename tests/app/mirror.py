"""A small study of which two runs can be compared: its maps are numbers that are known."""

from __future__ import annotations

from pathlib import Path

from experiments.records import RunRecord
from experiments.registry import find_study
from experiments.runner import run_study
from tests.app.material import HOSTILE
from tests.experiments.packages import install

N = 12
CODE = f"""
from dataclasses import dataclass

from experiments.errors import StudyError
from experiments.study import Study, Verdict

N, HOSTILE = {N}, {HOSTILE!r}


@dataclass(frozen=True)
class Config:
    other: int = 0  # so many prompts are other ones
    more: float = 0.0  # what the patch of the last cell does more
    blocks: int = 2

    @classmethod
    def preset(cls, name):
        return cls()


def items(config):
    import pandas as pd

    names = [f"new {{i}}" if i < config.other else f"{{HOSTILE}} {{i}}" for i in range(N)]
    return pd.DataFrame({{
        "item": range(N),
        "kind": ["all"] * N,
        "ask_prompt": [f"{{name}} is" for name in names],
        "ask_answer": [" so"] * N,
        "ask_rank": [0 if i < 6 + 4 * config.more else 3 for i in range(N)],
        "ask_correct": [i < 6 + 4 * config.more for i in range(N)],
    }})


def patched(config, rng, axis):
    import numpy as np
    import xarray as xr

    table = items(config)
    change = np.arange(N)[:, None, None] + rng.normal(size=(N, config.blocks, 3)) / 10
    change[:, -1, -1] += config.more
    coords = {{
        "clean_prompt": ("example", table["ask_prompt"]),
        "corrupt_prompt": ("example", ["that is"] * N),
        "answer": ("example", ["so"] * N),
        "foil": ("example", ["not"] * N),
        "item": ("example", range(N)),
        "kind": ("example", ["all"] * N),
        "layer": range(config.blocks),
        axis: range(3),
    }}
    if axis == "position":
        coords["position_label"] = ("position", ["start -1", "name -1", "end -1"])
        tokens = np.full((N, 3), "x", dtype=object)
        read = ("example", "position"), tokens
        coords |= {{"clean_token": read, "corrupt_token": read}}
    site = "z" if axis == "head" else "resid_pre"
    return xr.Dataset(
        {{
            "patched": (("example", "layer", axis), change - 5.0),
            "clean": ("example", np.full(N, 9.0)),
            "corrupt": ("example", np.full(N, -5.0)),
        }},
        coords,
        {{
            "instrument": "activation patching, exact",
            "site": site,
            "metric": "logit_diff",
            "unit": "logits",
            "direction": "denoising",
        }},
    )


def lens(config, rng):
    import numpy as np
    import xarray as xr

    ranks = rng.integers(0, 50, (N, config.blocks + 1))
    coords = {{"kind": ("example", ["all"] * N), "layer": range(config.blocks + 1)}}
    return xr.Dataset(
        {{"answer_rank": (("example", "layer"), ranks.astype(np.int64))}},
        coords,
        {{"instrument": "logit lens", "d_vocab": 100}},
    )


def run(config, context):
    context.table("items", lambda progress: items(config))
    for axis, site in (("position", "resid_pre"), ("head", "z")):
        name = f"patching_ask_{{site}}"
        context.dataset(name, lambda progress: patched(config, context.rng(name), axis))
    context.dataset("lens_ask", lambda progress: lens(config, context.rng("lens")))
    outcome = "supported" if config.more else "rejected"
    told = dict(statement=HOSTILE, estimate=config.more, low=-1.0, high=3.0, unit="logits", n=N)
    return [Verdict(id="M1", claim=f"More {{HOSTILE}}.", outcome=outcome, control="none", **told)]


def explorer():
    from experiments.explorer import Examples, Page, Way

    return Page(
        examples=Examples(
            one="item", many="items", table="items", key="item", group="kind",
            ways=(Way("ask", "Asked", "#0072B2"),), columns=(), search=("ask_prompt",),
            first=lambda table: 0, heading=lambda row: (str(row["ask_prompt"]), ""),
            measure=lambda model, progress: None, pair=None,
        )
    )


STUDY = Study("mirror", "Mirror", "Whether two runs differ.", Config, run, explorer=explorer)
"""


def install_mirror(folder: Path) -> None:
    install(folder, "mirror", {"mirror": "mirror_study:STUDY"}, {"mirror_study": CODE})


def mirrored(out: Path, seed: int = 0, **settings: object) -> RunRecord:
    """A run of it."""
    study = find_study("mirror")
    return run_study(study, type(study.configure("quick"))(**settings), seed=seed, out=out)
