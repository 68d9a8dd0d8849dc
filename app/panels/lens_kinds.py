"""Which lens layers are read through, and fitting one where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
import xarray as xr

from app import resources, state
from app.compute import lenses
from app.compute.background.jobs import Job
from app.compute.background.request import Request
from app.compute.engine import ModelSpec
from app.link import to_query
from app.screen import live, parts, switch
from app.text import markup
from app.text.lens_snippets import Through
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
_ASKED = "lens-asked"
_EVERY = 0.5  # s


def _within(kind: str) -> str:
    """The name of a lens within a sentence: Jacobi keeps his capital."""
    return KINDS[kind] if kind == "jacobian" else KINDS[kind].lower()


@dataclass(frozen=True)
class Chosen:
    """A lens to read through.

    Attributes:
        kind: "logit", "tuned" or "jacobian".
        lens: None for the logit lens.
        folder: where it lies, if it does.
        texts: what it was fitted on here, where it lies nowhere.
        written: when the one in the folder was written.
        seen: whether it was fitted on the study's own examples.
    """

    kind: str
    lens: Lens | None = None
    folder: str | None = None
    texts: tuple[str, ...] = ()
    written: int = 0
    seen: bool = False

    @property
    def name(self) -> str:
        return KINDS[self.kind]

    @property
    def through(self) -> Through:
        """The same for the code beside a figure."""
        return Through(self.kind, self.folder, self.texts)

    def key(self) -> tuple[object, ...]:
        """What tells it from others of its kind, and from one that lay in its folder before."""
        return (self.kind, self.folder, hash(self.texts), self.written)

    @property
    def note(self) -> str:
        """What has to be known of it beside what it shows."""
        if not self.seen:
            return ""
        return f" The {_within(self.kind)} was fitted on the study’s examples and their answers."


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


Side = tuple[ModelSpec, Path | None]
"""A model, and the directory of the run that it is of."""


def common(sides: Mapping[str, Side]) -> dict[str, Chosen]:
    """The choice among the lenses that all sides have, and for each side the one that is chosen.

    Args:
        sides: by what they are called.
    """
    there: dict[str, dict[str, Chosen]] = {"logit": dict.fromkeys(sides, LOGIT)}
    said = []
    for kind in ("tuned", "jacobian"):
        there[kind] = {}
        for name, (spec, run) in sides.items():
            try:
                found = _on_disk(spec, kind, run) or _in_memory(spec, kind)
            except ObverseError as error:
                found = None
                said.append(f"{name}: {error}")
            if found is not None:
                there[kind][name] = found
        without = [name for name in sides if name not in there[kind]]
        if without:
            have = "have" if len(without) > 1 else "has"
            said.append(f"{' and '.join(without)} {have} no {_within(kind)}.")
    offered = {kind: KINDS[kind] for kind in KINDS if len(there[kind]) == len(sides)}
    kind = switch.choose("lens", offered, "Lens")
    if said:
        said.append(
            "One is fitted on the page of an example or of a prompt, where layers are read."
        )
        parts.html(markup.hint(" ".join(said)))
    parts.html(f'<div class="ob-small">{markup.esc(_ABOUT[kind])}</div>')
    return there[kind]


def _on_disk(spec: ModelSpec, kind: str, run: Path | None) -> Chosen | None:
    """The lens that lies where it is looked for."""
    engine = resources.engine()
    place = lenses.there(kind, lenses.places(kind, engine.about(spec).name, run, spec.source))
    if place is None:
        return None
    lens = engine.compute(spec, ("lens file", kind, place), lambda m: lenses.load(m, kind, place))
    seen = run is not None and place.folder == str(lenses.own_place(run, kind))
    return Chosen(kind, lens, place.folder, written=place.written, seen=seen)


def _in_memory(spec: ModelSpec, kind: str) -> Chosen | None:
    """The lens that was last fitted here, where it is kept nowhere."""
    fingerprint = resources.engine().about(spec).fingerprint
    for job in resources.jobs().finished():
        key = job.request.key
        mine = (job.request.spec, job.fingerprint) == (spec, fingerprint)
        if mine and key[:2] == ("lens", kind) and job.whole and job.stand.result is not None:
            return Chosen(kind, job.stand.result, None, tuple(key[2]), seen=True)  # type: ignore[arg-type]
    return None


def _found(spec: ModelSpec, kind: str, texts: tuple[str, ...], run: Path | None) -> Chosen | None:
    on_disk = _on_disk(spec, kind, run)
    if on_disk is not None:
        return on_disk
    about = resources.engine().about(spec)
    folders = lenses.places(kind, about.name, run, spec.source)
    # Kept with the run, so that it is there next time, and goes on where it was stopped.
    own = None if run is None else lenses.own_place(run, kind)
    request = lenses.request(spec, kind, texts, own)
    job = resources.jobs().find(request)
    if job is not None and job.fingerprint != about.fingerprint:
        job = None  # of the model that lay in this folder before
    if job is not None and job.whole and job.stand.result is not None:
        return Chosen(kind, job.stand.result, None, texts, seen=True)
    if job is not None and job.running:
        _progress(kind, job)
        return None
    _missing(request, kind, texts, folders)
    return None


def _missing(
    request: Request[Lens], kind: str, texts: tuple[str, ...], folders: list[Path]
) -> None:
    """What is not there, where it was looked for, and how to get it."""
    engine, spec, what = resources.engine(), request.spec, _within(kind)
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

    failed = st.session_state.get(_ASKED)
    if (
        isinstance(failed, Job)
        and failed.request.written == request.written
        and failed.stand.error is not None
    ):
        parts.error(failed.stand.error)

    def start() -> None:
        link = to_query(state.view())
        st.session_state[_ASKED] = resources.jobs().ask(request, live.session(), link=link)

    st.button(f"Fit the {what}", key=f"fit-{kind}", type="primary", on_click=start)


def _progress(kind: str, job: Job[Lens]) -> None:
    waiting = live.Waiting(job)

    def again() -> None:
        if not waiting.stand.running:
            st.rerun()
        live.bar(waiting, f"Fitting the {_within(kind)}", key=f"fit-{kind}")

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
