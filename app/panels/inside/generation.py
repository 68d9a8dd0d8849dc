"""What the model writes after a prompt, as it is and with a direction added."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app import resources
from app.compute.continuation import Steering
from app.compute.engine import About, ModelSpec
from app.screen import parts
from app.text import markup
from cache.errors import ObverseError

_MOST = 64


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
    of = tuple(prompts.values())
    with st.form("write", border=False):
        left, middle, right, last = st.columns([3, 3, 1, 1], vertical_alignment="bottom")
        toward = left.text_input("Steer toward (may be left empty)", key="steer-toward")
        away = middle.text_input("and away from", key="steer-away")
        layer = right.number_input("After block", 0, about.n_layers - 1, key="steer-layer")
        dose = last.number_input("Dose", -20.0, 20.0, 2.0, key="steer-dose")
        n = left.slider("Tokens", 1, _MOST, 16, key="write-tokens")
        if st.form_submit_button("Write"):
            # Kept with the prompts that it is of: others show nothing that is not their own.
            st.session_state["to-write"] = (of, toward, away, int(layer), float(dose), int(n))
    asked = st.session_state.get("to-write")
    if asked is None or asked[0] != of:
        return
    _, toward, away, layer, dose, n = asked
    steering = Steering(toward, away, layer, dose) if toward.strip() and away.strip() else None
    if (toward.strip() or away.strip()) and steering is None:
        parts.html(markup.hint("Steering needs both texts; the plain one is written alone."))
    for (title, prompt), column in zip(
        prompts.items(), st.columns(len(prompts), gap="large"), strict=True
    ):
        with column:
            if len(prompts) > 1:
                parts.html(f'<div class="ob-small"><b>{markup.esc(title)}</b></div>')
            _one(spec, prompt, n, steering)


def _one(spec: ModelSpec, prompt: str, n: int, steering: Steering | None) -> None:
    for title, steer in (("As it is", None), ("Steered", steering)):
        if title == "Steered" and steer is None:
            continue
        try:
            with resources.progress("Writing") as tell:
                text = resources.engine().continued(spec, prompt, n, steer, tell)
        except ObverseError as error:
            parts.error(error)
            continue
        parts.html(
            f'<div class="ob-small">{title}</div><div class="ob-sentence">{markup.esc(prompt)}'
            f"<b>{markup.esc(text)}</b></div>"
        )
