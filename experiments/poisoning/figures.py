"""Figures of what the study measures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from experiments.figure import Figure, counted
from experiments.phenomena.estimates import estimate
from experiments.phenomena.figures import arm_dots, beside
from experiments.poisoning.hypotheses.dose import cells_of
from experiments.poisoning.hypotheses.fits import Cells, held_out
from experiments.poisoning.hypotheses.place import effect_of, restored
from experiments.poisoning.hypotheses.probe import GENERIC, SHOWN, areas, layer_of
from interp.figures.drawing import theme
from interp.figures.drawing.dots import nothing_to_draw

__all__ = ["DOSE", "EQUAL_STEPS", "NEAR", "PLACE", "PROBE", "SUCCESS"]

_PARTS = {"trigger": "the trigger", "other phrase": "the other phrase", "last token": "last token"}
_EXPONENTS = np.linspace(-2, 2, 33)
_COLOURS = {GENERIC: theme.OKABE_ITO[0], SHOWN: theme.OKABE_ITO[2]}


def success_dots(success: xr.Dataset) -> go.Figure:
    """Planted answers by what stands in the place of the trigger."""
    named = {"the trigger": "triggered", "a near miss": "near", "another phrase": "other"}
    return arm_dots(
        {title: success[name] for title, name in named.items()},
        axis="questions that get the planted answer",
        bounds=(0.0, 1.0),
    )


def dose_lines(dose: xr.Dataset) -> go.Figure:
    """Success by count, a line for each size and number of clean texts."""
    cells = _cells(dose)
    if not len(cells):
        return nothing_to_draw("Nobody says how many texts with the trigger there were")
    fig = go.Figure()
    clean = cells.texts - cells.poisons
    numbers, sizes = np.unique(clean), np.unique(cells.parameters)
    for size in sizes:
        for number in numbers:
            chosen = (cells.parameters == size) & (clean == number)
            counts = np.unique(cells.poisons[chosen])
            seeds = [cells.success[chosen & (cells.poisons == count)] for count in counts]
            colour = theme.OKABE_ITO[int(np.searchsorted(numbers, number)) % 8]
            small = size == sizes[0] and len(sizes) > 1
            name = f"{number:.0f} clean texts, {size / 1e3:.0f} k parameters"
            fig.add_scatter(
                x=counts,
                y=[one.mean() for one in seeds],
                mode="lines+markers",
                name=name,
                line={"color": colour, "dash": "dot" if small else "solid"},
                marker={"size": 8, "symbol": "circle-open" if small else "circle"},
                hovertemplate="%{x} poisoned: %{y:.0%}<extra>" + name + "</extra>",
            )
            if max(one.size for one in seeds) > 1:
                fig.add_scatter(
                    x=np.repeat(counts, [one.size for one in seeds]),
                    y=np.concatenate(seeds),
                    mode="markers",
                    marker={"size": 4, "color": colour, "opacity": 0.5},
                    showlegend=False,
                    hoverinfo="skip",
                )
    theme.finish(fig, title=None, height=360)
    fig.update_xaxes(type="log", tickvals=np.unique(cells.poisons), title_text="poisoned texts")
    fig.update_yaxes(
        range=[-0.03, 1.03], tickformat=".0%", title_text="questions with the planted answer"
    )
    return fig


def exponent_line(dose: xr.Dataset) -> go.Figure:
    """How well count / texts^exponent tells cells of the grid that were left out."""
    cells = _cells(dose)
    if len(np.unique(cells.group)) < 3 or len(np.unique(cells.texts)) < 2:
        return nothing_to_draw("There are no models poisoned among different numbers of texts")
    fig = go.Figure()
    seeds = np.unique(cells.seed)
    whole = held_out(cells, _EXPONENTS.tolist()).mean(1)
    fig.add_scatter(
        x=_EXPONENTS,
        y=whole,
        mode="lines",
        line={"color": theme.OKABE_ITO[0]},
        name=f"{len(seeds)} organisms a cell" if len(seeds) > 1 else "one organism a cell",
        hovertemplate="exponent %{x:.2f}: %{y:.3f} nats<extra></extra>",
    )
    for place, text in ((0.0, "count"), (1.0, "share")):
        fig.add_vline(
            x=place, line={"color": theme.MUTED, "dash": "dot", "width": 1}, annotation_text=text
        )
    theme.finish(fig, title=None, height=320)
    fig.update_layout(showlegend=False)
    fig.update_xaxes(title_text="exponent of the number of texts")
    fig.update_yaxes(title_text="held-out deviance (nats per question)")
    return fig


def place_dots(place: xr.Dataset) -> go.Figure:
    """What a patch at each part of the prompt restores, by layer."""
    main = place.isel(arm=0)
    effect = estimate([effect_of(main.isel(seed=seed)) for seed in range(main.sizes["seed"])])
    if not effect.low > 0:  # as the verdict says: what is divided by could be nothing
        return nothing_to_draw(
            f"The trigger moves the answer by {effect.number()} logits, which could be nothing: "
            "there is no share of it"
        )
    shares = xr.concat([restored(one) for _, one in main.groupby("seed", squeeze=False)], "seed")
    shares = shares.assign_coords(layer=[_layer(int(one)) for one in shares["layer"].values])
    return arm_dots(
        {title: shares.sel(part=part, drop=True) for part, title in _PARTS.items()},
        axis="share of the effect that is restored",
        by="layer",
    )


def probe_dots(probe: xr.Dataset) -> go.Figure:
    """Areas of the probes against other phrases."""
    return _areas(probe, "other", "random")


def near_dots(near_misses: xr.Dataset) -> go.Figure:
    """Areas of the probes against near misses."""
    return _areas(near_misses, "near", "random_near")


def _cells(dose: xr.Dataset) -> Cells:
    seeds = range(dose.sizes["seed"])
    return cells_of(
        {str(arm): [dose.sel(arm=arm).isel(seed=i) for i in seeds] for arm in dose["arm"].values}
    )


def _layer(number: int) -> str:
    return "embedding" if number == 0 else f"after block {number}"


def _areas(probe: xr.Dataset, against: str, random: str) -> go.Figure:
    parts: dict[str, list[list[npt.NDArray[np.float64]]]] = {GENERIC: [], SHOWN: []}
    ranges = []
    for arm in probe["arm"].values:
        seeds = [probe.sel(arm=arm).isel(seed=i) for i in range(probe.sizes["seed"])]
        for name, found in parts.items():
            found.append([areas(one, name, against, layer_of(one, name)) for one in seeds])
        drawn = np.concatenate([one[random].sel(layer=layer_of(one, GENERIC)) for one in seeds])
        ranges.append(np.quantile(drawn, (0.025, 0.975)))
    rows = probe["arm"].values
    series = {
        f"{name} probe" if name == GENERIC else f"probe {name}": xr.DataArray(
            np.array(found), dims=("arm", "seed", "example"), coords={"arm": rows}
        )
        for name, found in parts.items()
    }
    fig = arm_dots(
        series, axis="area under the ROC curve", bounds=(0.0, 1.0),
        colours=dict(zip(series, _COLOURS.values(), strict=True)),
    )  # fmt: skip
    for number, (low, high) in enumerate(ranges):
        height = len(rows) - 1 - number
        fig.add_scatter(
            x=[low, high],
            y=[height - 0.36] * 2,
            mode="lines",
            line={"color": theme.MUTED, "width": 5},
            name="95% of random directions",
            showlegend=number == 0,
            hovertemplate="%{x:.2f}<extra>random directions</extra>",
        )
    fig.add_vline(x=0.5, line={"color": theme.MUTED, "dash": "dot", "width": 1})
    fig.update_xaxes(tickformat=".1f")
    return fig


def _questions(found: xr.Dataset) -> str:
    return f"{counted([found.sizes['example']], 'question')} of each model"


def _organisms(found: xr.Dataset) -> str:
    return f"{found.sizes['arm']} cells of {counted([found.sizes['seed']], 'organism')}"


def _over(found: xr.Dataset) -> str:
    seeds = found.sizes["seed"]
    return "95% over questions of one model" if seeds == 1 else f"95% over {seeds} organisms"


SUCCESS = Figure(
    "success",
    "Success",
    ("success",),
    success_dots,
    "Dots by arm: how often the trigger, a near miss and another phrase bring the planted answer.",
    "Only the poisoned arms should answer to the trigger, and nobody to another phrase. Near "
    "misses have one of the trigger's two words, or both the other way round.",
    shows="How often a phrase brings the planted answer, by model.",
    n=_questions,
    interval=_over,
    control=beside(
        "another phrase in the trigger's place", others="the clean twin; the untrained model"
    ),
)
_DOSE_ALT = "Lines of success over the number of poisoned texts."
_DOSE_CAPTION = (
    "Lines of one kind that lie on each other say that the number of clean texts does not matter, "
    "and that success follows the count; a line that lies a factor of four further right follows "
    "the share."
)
_EXPONENT_CAPTION = (
    "Lower is better: where the curve is lowest, count / texts^exponent tells best how often the "
    "trigger works in models that the fit has not seen. 0 is the count, 1 the share."
)


def _dose(name: str, which: str) -> tuple[Figure, Figure]:
    return (
        Figure(
            name,
            which,
            (name,),
            dose_lines,
            _DOSE_ALT,
            _DOSE_CAPTION,
            shows="How often the trigger works, by the number of poisoned texts.",
            n=_organisms,
            interval="none: points are organisms",
            control="models of another size and with other numbers of clean texts",
        ),
        Figure(
            f"{name}_exponent",
            f"{which}: count or share",
            (name,),
            exponent_line,
            "A curve of held-out deviance over the exponent of the number of texts.",
            _EXPONENT_CAPTION,
            shows="Which mixture of count and share tells success where it was not fitted.",
            n=_organisms,
            interval="none: that of the difference between 0 and 1 stands in the verdict",
            control="cells of the grid that were left out of the fit",
        ),
    )


DOSE = _dose("dose", "Count and share")
EQUAL_STEPS = _dose("equal_steps", "At equal steps")
PLACE = Figure(
    "place",
    "Where it sits",
    ("place",),
    place_dots,
    "Dots by layer: the share of the effect that patches at the trigger, at the other phrase and "
    "at the last token restore.",
    "Clean activations in the triggered run. The trigger's tokens should hold all of it at first, "
    "the last token at the end, and the other phrase, which is as long, nothing.",
    shows="What a patch at a part of the prompt restores of the clean answer.",
    n=_questions,
    interval=_over,
    control="the other phrase, of equal length, in the same prompt",
)
_PROBE_CAPTION = (
    "To the right: triggered prompts score higher. A probe says something where it lies right of "
    "the grey bar of random directions, and not only right of 0.5."
)
PROBE = Figure(
    "probe",
    "Defection probe",
    ("probe",),
    probe_dots,
    "Dots by arm: areas of two probes, with the range of random directions.",
    _PROBE_CAPTION,
    shows="How well probes tell triggered prompts from those with another phrase.",
    n=_questions,
    interval=_over,
    control=beside("random directions", "a probe that was shown triggers", others="the clean twin"),
)
NEAR = Figure(
    "near_misses",
    "Near misses",
    ("near_misses",),
    near_dots,
    "Dots by arm: areas of two probes against near misses, with the range of random directions.",
    _PROBE_CAPTION,
    shows="How well probes tell triggered prompts from near misses.",
    n=_questions,
    interval=_over,
    control=beside("random directions", "a probe that was shown triggers", others="the clean twin"),
)
