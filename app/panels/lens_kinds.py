"""Which lens layers are read through, and fitting one where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
import xarray as xr

from app import resources
from app.compute import lenses
from app.compute.engine import ModelSpec
from app.compute.work import Work
from app.screen import parts, switch
from app.text import markup, sentences
from app.text.snippets import Through
from cache.errors import ObverseError
from experiments.numbers import duration

if TYPE_CHECKING:
    from app.compute.lenses import Lens

KINDS = {"logit": "Logit lens", "tuned": "Tuned lens", "jacobian": "Jacobian lens"}
_ABOUT = {
    "logit": "The residual stream after each block, read as the next token (nostalgebraist 2020).",
    "tuned": "Each block’s stream, translated by a map that was trained to foretell the model’s "
    "own prediction (Belrose et al. 2023).",
    "jacobian": "Each block’s stream, carried to the end by the mean Jacobian over prompts "
    "(Gurnee et al. 2026).",
}
_COMMANDS = {"tuned": "obverse tune-lens", "jacobian": "obverse fit-lens"}
_WORKS = "lens-fits"
_EVERY = 0.5  # s


@dataclass(frozen=True)
class Chosen:
    """A lens to read through.

    Attributes:
        kind: "logit", "tuned" or "jacobian".
        lens: None for the logit lens.
        folder: where it lies, if it does.
        texts: what it was fitted on here, where it lies nowhere.
    """

    kind: str
    lens: Lens | None = None
    folder: str | None = None
    texts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return KINDS[self.kind]

    @property
    def through(self) -> Through:
        """The same for the code beside a figure."""
        return Through(self.kind, self.folder, self.texts)

    def key(self) -> tuple[object, ...]:
        """What tells it from others of its kind."""
        return (self.kind, self.folder, hash(self.texts))


LOGIT = Chosen("logit")


def choose(spec: ModelSpec, texts: tuple[str, ...], run: Path | None) -> Chosen | None:
    """The choice; None where the lens is not there, which is then said with what to do.

    Args:
        texts: what one could be fitted on.
        run: the directory of the run that is open.
    """
    kind = switch.choose("lens", KINDS, "Lens")
    parts.html(f'<div class="ob-small">{markup.esc(_ABOUT[kind])}</div>')
    if kind == "logit":
        return LOGIT
    try:
        return _found(spec, kind, texts, run)
    except ObverseError as error:
        parts.html(markup.hint(str(error)))
        return None


def _found(spec: ModelSpec, kind: str, texts: tuple[str, ...], run: Path | None) -> Chosen | None:
    engine = resources.engine()
    about = engine.about(spec)
    folders = lenses.places(kind, about.name, run, spec.source)
    place = lenses.there(kind, folders)
    if place is not None:
        lens = engine.compute(
            spec, ("lens file", kind, place), lambda m: lenses.load(m, kind, place)
        )
        return Chosen(kind, lens, place.folder)
    works: dict[object, Work[Lens]] = st.session_state.setdefault(_WORKS, {})
    name = (spec, about.fingerprint, kind, hash(texts))
    work = works.get(name)
    if work is not None:
        stand = work.wait(0.0)
        if stand.result is not None and not stand.running:
            return Chosen(kind, stand.result, None, texts)
        if stand.running:
            _progress(kind, work)
            return None
        if stand.error is not None:
            parts.error(stand.error)
    _missing(spec, kind, texts, run, name, folders)
    return None


def _missing(
    spec: ModelSpec,
    kind: str,
    texts: tuple[str, ...],
    run: Path | None,
    name: object,
    folders: list[Path],
) -> None:
    """What is not there, where it was looked for, and how to get it."""
    engine, what = resources.engine(), KINDS[kind].lower()
    places = ", ".join(f"<code>{markup.esc(folder)}</code>" for folder in folders)
    by_hand = f"<code>{_COMMANDS[kind]} --text corpus.txt --model {markup.esc(spec.source)}</code>"
    if not texts:
        parts.html(
            f'<div class="ob-empty"><b>There is no {what} of this model.</b><br>It was looked for '
            f"in {places}. Fit one on a text with {by_hand}.</div>"
        )
        return
    key = ("lens seconds", kind, hash(texts))
    seconds = engine.compute(spec, key, lambda model: lenses.seconds(model, kind, texts))
    n = len(lenses.chosen(kind, texts))
    if seconds > lenses.LONGEST:
        parts.html(
            f'<div class="ob-empty"><b>There is no {what} of this model.</b><br>Fitting one would '
            f"take about {duration(seconds)}, too "
            f"long for this page: use {by_hand}.</div>"
        )
        return
    parts.html(
        f'<div class="ob-empty"><b>There is no {what} of this model yet.</b><br>It can be fitted '
        f"on {n} of the examples, each with its answer. It learns what the model says, and never "
        "what is right.</div>"
    )

    def start() -> None:
        # Kept with the run, so that it is there next time, and goes on where it was stopped.
        folder = None if run is None else lenses.own_place(run, kind)
        works = st.session_state.setdefault(_WORKS, {})
        works[name] = engine.in_steps(
            spec, ("fitted", kind, texts), lenses.fit(kind, texts, folder), gives_way=True
        )

    st.button(f"Fit the {what}", key=f"fit-{kind}", type="primary", on_click=start)


def _progress(kind: str, work: Work[Lens]) -> None:
    def again() -> None:
        stand = work.stand
        if not stand.running:
            st.rerun()
        share = min(1.0, stand.done / max(1, stand.total))
        text = f"Fitting the {KINDS[kind].lower()}{sentences.time_left(stand.seconds_left)}"
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.progress(share, text)
            st.button("Cancel", key=f"cancel-fit-{kind}", on_click=work.stop)

    st.fragment(again, run_every=_EVERY)()


def read(spec: ModelSpec, chosen: Chosen, prompt: str, answer: str | None) -> xr.Dataset:
    """One prompt through the lens, with ten tokens for each cell."""
    engine = resources.engine()
    if chosen.lens is None:
        return engine.lens(spec, prompt, answer)
    from interp.lens.logit import logit_lens

    return engine.compute(
        spec,
        ("lens", *chosen.key(), prompt, answer),
        lambda model: logit_lens(
            model, [prompt], None if answer is None else [answer], lens=chosen.lens, k=10
        ),
    )
