"""What the model writes after a prompt, as it is and with a direction added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import streamlit as st

from app import state
from app.compute import continuation
from app.compute.continuation import Steering
from app.compute.engine import About, ModelSpec
from app.screen import live, parts
from app.selection import LONGEST_TEXT, MOST_DOSE, MOST_WRITTEN, Writing
from app.text import markup

_USUAL = Writing(16)
FORM = {f"write-{name}": name for name in asdict(_USUAL)}
"""The fields of the form, by their keys."""


def show(spec: ModelSpec, about: About, prompts: Mapping[str, str]) -> None:
    """A form; texts appear when they are asked for.

    Args:
        prompts: by their titles; all are written on.
    """
    parts.html(
        markup.heading(
            "What it writes",
            "Greedy. Steering adds, at every token that is written, the stream of one text’s last "
            "token minus that of another’s (Turner et al. 2023).",
        )
    )
    _form(about)
    writing = state.view().writing
    if writing is None:
        return
    steering = None
    if writing.toward.strip() and writing.away.strip():
        steering = Steering(
            writing.toward, writing.away, min(writing.after, about.n_layers - 1), writing.dose
        )
    elif writing.toward.strip() or writing.away.strip():
        parts.html(markup.hint("Steering needs both texts; the plain one is written alone."))
    ways: dict[str, Steering | None] = {"As it is": None}
    if steering is not None:
        ways["Steered"] = steering
    going = {
        (title, way): live.wait_for(continuation.request(spec, prompt, writing.tokens, steer))
        for title, prompt in prompts.items()
        for way, steer in ways.items()
    }
    live.draw(
        [live.One(one) for one in going.values()],
        lambda: _texts(prompts, list(ways), going),
        doing="Writing",
        height=120,
    )


def _texts(
    prompts: Mapping[str, str],
    ways: Sequence[str],
    going: Mapping[tuple[str, str], live.Waiting[str]],
) -> None:
    """What is written already, a column for each prompt."""
    for (title, prompt), column in zip(
        prompts.items(), st.columns(len(prompts), gap="large"), strict=True
    ):
        with column:
            if len(prompts) > 1:
                parts.html(f'<div class="ob-small"><b>{markup.esc(title)}</b></div>')
            for way in ways:
                _text(way, prompt, going[title, way])


def _text(way: str, prompt: str, one: live.Waiting[str]) -> None:
    parts.html(f'<div class="ob-small">{way}</div>')
    stand = one.stand
    if stand.running:
        live.bar(one, "Writing")
    elif stand.error is not None:
        parts.error(stand.error)
    elif stand.result is None:
        live.again(one, "Write it again")
    else:
        parts.html(
            f'<div class="ob-sentence">{markup.esc(prompt)}<b>{markup.esc(stand.result)}</b></div>'
        )


def _form(about: About) -> None:
    # What fields start with stands in their state, so that what is being typed is not lost.
    now = state.view().writing or _USUAL
    for key, name in FORM.items():
        if key not in st.session_state:
            st.session_state[key] = getattr(now, name)
    st.session_state["write-after"] = min(st.session_state["write-after"], about.n_layers - 1)

    def submitted() -> None:
        given = {name: st.session_state[key] for key, name in FORM.items()}
        state.change(writing=Writing(**given | {"dose": round(float(given["dose"]), 6)}))

    with st.form("write", border=False):
        left, middle, right, last = st.columns([3, 3, 1, 1], vertical_alignment="bottom")
        left.text_input(
            "Steer toward (may be left empty)", key="write-toward", max_chars=LONGEST_TEXT
        )
        middle.text_input("and away from", key="write-away", max_chars=LONGEST_TEXT)
        right.number_input("After block", 0, about.n_layers - 1, key="write-after")
        last.number_input("Dose", -MOST_DOSE, MOST_DOSE, key="write-dose")
        left.slider("Tokens", 1, MOST_WRITTEN, key="write-tokens")
        st.form_submit_button("Write", on_click=submitted)
