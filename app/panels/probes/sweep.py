"""A sweep of probes over the layers, while it is made and when it is done."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from app import resources, state
from app.compute import probing
from app.compute.background import probes as jobs
from app.compute.engine import ModelSpec
from app.compute.probing import Swept
from app.runs import Run
from app.screen import follow, live, parts
from app.screen.shown import Shown
from app.screen.told import Check, Told
from app.text import markup, probes, sentences, snippets
from experiments.labelled import LEAST, Labelled
from experiments.numbers import percent
from experiments.registry import study_names
from interp.figures.drawing.numbers import plain
from interp.kinds import site_kind

if TYPE_CHECKING:
    import xarray as xr

NAME = "probe-lines"
_BEFORE = "embedding"
_WIDTHS = (80, 110, 56, 112, 60)  # px of the table's columns
_TOLD = 6  # classes that are named
_MOST_ROWS = 13  # of the table, which scrolls where there are more layers
# Of prompts; beyond it, as `probes` warns too, a probe is tested on what it has learned.
_SAME = 0.1


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Attributes:
    work: what is computed.
    """

    work: live.Waiting[Swept]


def show(
    spec: ModelSpec,
    asked: Labelled,
    site: str,
    *,
    many: str,
    where: str,
    code: str,
    run: Run | None = None,
) -> None:
    """Fit probes, and draw what there is of them while they are fitted.

    Args:
        many: what the examples are called.
        where: at which token the model is read.
        code: Python that makes the figure.
        run: the run that is open.
    """
    if asked.left_out:
        few = ", ".join(f"‘{name}’ ({n})" for name, n in asked.left_out[:_TOLD])
        more = len(asked.left_out) - _TOLD
        few += f" and {more} more" if more > 0 else ""
        parts.html(markup.hint(f"Left out, with fewer than {LEAST} different {many}: {few}."))
    about = resources.engine().about(spec)
    request = jobs.request(spec, asked, site)
    key = (spec, request.written)
    wanted = (
        about.n_parameters <= live.SMALL
        or st.session_state.get("probe-run") == key
        or resources.jobs().find(request) is not None
        or (run is not None and resources.is_kept(request, run))
    )
    if not wanted:
        parts.html(
            '<div class="ob-empty"><b>These probes are fitted when you say so.</b><br>'
            f"{len(asked):,} prompts are read by {markup.esc(about.name)}, and about 150 probes "
            f"fitted at each of {about.n_layers} layers.</div>"
        )
        st.button(
            "Fit the probes", key="probe-start", type="primary", on_click=_wanted, args=(key,)
        )
        return
    work = live.wait_for(request, run)
    draw = functools.partial(_drawn, work, asked, axis(site, about.n_layers), many, where, code)
    live.draw([Sweep(work)], draw, doing="Reading the prompts", height=460)


def axis(site: str, n_layers: int) -> tuple[list[str], str]:
    """What the layers of a sweep are called, and all of them."""
    numbers = [str(layer) for layer in range(n_layers)]
    kind = site_kind(site)
    if kind.part == "before":
        return [_BEFORE, *numbers], "residual stream after block"
    return numbers, "heads of block" if kind.per_head else kind.label


def code_of_table(spec: ModelSpec, shown: Shown, label: str, way: str, subject: bool) -> str:
    """Python that makes the figure of a study's examples."""
    n_layers, site = resources.engine().about(spec).n_layers, state.view().site
    table = None if shown.run is None else (shown.run.record.path, shown.examples.table)
    return snippets.probes_of_table(
        spec,
        _study(shown),
        table,
        label,
        way,
        subject,
        probing.sites(site, n_layers),
        axis(site, n_layers),
    )


def code_of_lists(spec: ModelSpec, asked: Labelled) -> str:
    """Python that makes the figure of two lists."""
    n_layers, site = resources.engine().about(spec).n_layers, state.view().site
    names = probing.sites(site, n_layers)
    return snippets.probes_of_lists(spec, asked, names, axis(site, n_layers))


def _study(shown: Shown) -> str:
    """The study whose examples these are."""
    if shown.run is not None:
        return shown.run.record.study
    return next(n for n in study_names() if resources.page(n)[0].examples is shown.examples)


def _wanted(key: object) -> None:
    st.session_state["probe-run"] = key


def _drawn(
    work: live.Waiting[Swept],
    asked: Labelled,
    layers: tuple[list[str], str],
    many: str,
    where: str,
    code: str,
) -> None:
    _progress(work)
    live.tell(work)
    swept = work.stand.result
    if swept is None or swept.report is None:
        if not work.stand.running and work.stand.error is None:
            parts.html('<div class="ob-empty">Nothing was fitted.</div>')
        return
    report = swept.report
    names, title = layers
    _note(report)
    left, right = st.columns([5, 4], gap="medium")
    said = told(swept, asked, many)
    with left:
        _figure(swept, said, names, title, code)
    with right:
        parts.html(markup.heading("Layer by layer", f"{len(asked):,} {many}, held out in 5 parts"))
        if said.wrong:  # a table has an export of its own, and its sentence a verdict
            parts.html(markup.hint("A check at the left is red: nothing is said of any layer."))
            return
        follow.words("probe-said", lambda: _below(swept, title, names, many, where))
        shown = _table(report, names[: report.sizes["site"]])
        st.dataframe(
            shown,
            hide_index=True,
            height="content" if len(shown) <= _MOST_ROWS else 36 * _MOST_ROWS,
            column_config={
                name: st.column_config.TextColumn(width=width)
                for name, width in zip(shown.columns, _WIDTHS, strict=True)
            },
            alt="Accuracy, interval, control and selectivity of the probes at each layer",
        )


def _figure(
    swept: Swept,
    said: Told,
    names: list[str],
    title: str,
    code: str,
) -> None:
    from probes.figures import probe_lines  # it imports torch

    report = swept.report
    assert report is not None
    n = report.sizes["site"]
    fig = probe_lines(report, words=swept.words, names=names[:n], axis=title)
    fig.update_xaxes(range=[-0.5, len(names) - 0.5])
    places = [[layer, 0] for layer in range(n)]
    # What is clicked is a layer: the frame lies around all of it.
    fig.add_scatter(
        x=list(range(n)),
        y=[0.5] * n,
        customdata=places,
        mode="markers",
        marker={"opacity": 0},
        hoverinfo="skip",
        showlegend=False,
        name="layers",
    )
    fig.data = fig.data[-1:] + fig.data[:-1]
    fig.for_each_trace(lambda trace: trace.update(customdata=places), {"mode": "lines+markers"})

    def choose(place: tuple[int, int]) -> None:
        state.change(probe=dataclasses.replace(state.view().probe, point=place[0]))

    parts.figure(
        fig.update_layout(dragmode="zoom"),
        NAME,
        data=lambda: probing.rows(report),
        code=code,
        alt="Held-out accuracy of linear probes by layer, with control labels and chance",
        told=said,
    )
    follow.cells(NAME, lambda: None if _chosen(n) is None else (_chosen(n) or 0, 0), choose)


def _chosen(n: int) -> int | None:
    """The layer that is looked at, of so many."""
    point = state.view().probe.point
    return None if point is None or point >= n else point


def _below(swept: Swept, title: str, names: list[str], many: str, where: str) -> str:
    chosen = None if swept.report is None else _chosen(swept.report.sizes["site"])
    if chosen is None:
        return markup.hint("Click a layer in the figure to read its numbers.")
    return markup.sentence(_said(swept, chosen, title, names, many, where))


def told(swept: Swept, asked: Labelled, many: str) -> Told:
    """The line under the figure, with what was checked."""
    report = swept.report
    assert report is not None
    checked = probing.checked(report, asked)
    reached, wanted = checked.gradient
    apart, control = (
        "No name or prompt is in two of the five parts.",
        ("At no layer are random labels told better than by chance."),
    )
    if checked.apart:
        apart = f"‘{checked.apart[0]}’ is both learned from and tested on."
    if checked.control:
        control = f"Random labels are told better than by chance at {', '.join(checked.control)}."
    same = (
        f"{percent(swept.same)} of the prompts are, up to the token that is read, the same tokens "
        "as one that is about something else."
    )
    ended = f"The largest gradient at the end of a fit is {reached:.1g}, to be {wanted:.1g}."
    return Told(
        shows=f"How often a linear probe tells {' / '.join(asked.classes)} of {many} that it has "
        "not seen.",
        n=f"{len(asked):,} {many} ({asked.entities:,} held out as one each)",
        interval=f"95%, over {many}; those that belong together count as one",
        control="random and shuffled labels; the prompt’s words alone",
        checks=(
            Check("No name in both halves", not checked.apart, apart),
            Check("No prompt twice", swept.same <= _SAME, same),
            Check("Control at chance", not checked.control, control),
            Check("Fits ended", reached <= wanted, ended),
        ),
    )


def _said(swept: Swept, number: int, title: str, names: list[str], many: str, where: str) -> str:
    report = swept.report
    assert report is not None
    one = report.isel(site=number)
    beyond = probing.beyond_words(swept)
    stage = "At the embedding" if names[number] == _BEFORE else f"In the {title} {names[number]}"
    return probes.sentence(
        f"{stage}, at the {where}",
        many,
        report.sizes["example"],
        accuracy=_three(one, "accuracy"),
        control=float(one["control"]),
        selectivity=_three(one, "selectivity"),
        majority=float(report["majority"]),
        p=float(one["p_corrected"]),
        drift=bool(report.attrs["drift"]),
        words=None if swept.words is None else float(swept.words["accuracy"][0]),
        beyond=None if beyond is None else (float(beyond[number, 0]), float(beyond[number, 1])),
    )


def _three(one: xr.Dataset, name: str) -> tuple[float, float, float]:
    return float(one[name]), float(one[f"{name}_low"]), float(one[f"{name}_high"])


def _table(report: xr.Dataset, names: list[str]) -> pd.DataFrame:
    def ends(name: str) -> list[tuple[float, float]]:
        low, high = (report[f"{name}_{end}"].values.astype(float) for end in ("low", "high"))
        return list(zip(low, high, strict=True))

    accuracy = [
        percent(value)
        + (f" [{plain(100 * low, 0)}, {plain(100 * high, 0)}]" if math.isfinite(low) else "")
        for value, (low, high) in zip(report["accuracy"].values, ends("accuracy"), strict=True)
    ]
    selectivity = [
        plain(100 * value, 0)
        + (f" [{plain(100 * low, 0)}, {plain(100 * high, 0)}]" if math.isfinite(low) else "")
        for value, (low, high) in zip(
            report["selectivity"].values, ends("selectivity"), strict=True
        )
    ]
    return pd.DataFrame(
        {
            "after block" if names[0] == _BEFORE else "block": names,
            "accuracy": accuracy,
            "control": [percent(value) for value in report["control"].values],
            "selectivity": selectivity,
            "p": ["< .001" if p < 0.001 else f"{p:.3f}" for p in report["p_corrected"].values],
        }
    )


def _note(report: xr.Dataset) -> None:
    from probes.controls.shuffling import too_few

    few = too_few(float(report.attrs["arrangements"]), report.sizes["site"])
    if few:
        parts.html(markup.hint(few))
    if report.attrs["drift"]:
        parts.warning(
            "Examples that follow each other are alike, in labels and in what labels do not tell: "
            "p values may be too small, and nothing is called readable."
        )


def _progress(work: live.Waiting[Swept]) -> None:
    stand = work.stand
    if stand.error is not None:
        parts.error(stand.error)
    elif stand.running:
        left = sentences.time_left(stand.seconds_left)
        done = 0 if stand.total == 0 else stand.done / stand.total
        text = "Reading the prompts" if done < 0.5 else "Fitting probes layer by layer"
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.progress(min(1.0, done), f"{text}{left}")
            st.button("Cancel", key="probe-cancel", on_click=work.stop)
    elif stand.stopped:
        parts.html(
            markup.hint("It was cancelled: p values are corrected for the layers that are there.")
        )
        live.again(work, "Fit them all")
