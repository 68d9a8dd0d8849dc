"""The models in memory, and what is free."""

from __future__ import annotations

import streamlit as st

from app import resources
from app.screen import parts
from app.text import markup
from cache.sizes import show_size
from experiments.numbers import count


def show() -> None:
    """A line for each model, with a button that forgets it."""
    parts.html(
        markup.heading(
            "Models in memory",
            "The last two that were used stay; a third one takes the place of the older one.",
        )
    )
    for one in resources.models().loaded():
        size = f"{count(one.n_parameters)} parameters, {show_size(one.bytes)} in {one.dtype}"
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            parts.html(markup.item(one.spec.source, f"{size} on {one.device}"))
            st.button(
                "Forget",
                key=f"forget-{one.spec}",
                on_click=resources.models().release,
                args=(one.spec,),
                help="It is loaded again when it is next needed.",
            )
    if not resources.models().loaded():
        parts.html(markup.hint("None; a page that needs one loads it."))
    parts.html(markup.hint(" ".join(_free())))


def _free() -> list[str]:
    import torch

    from interp.model.memory import available_memory

    told = []
    free = available_memory()
    if free is not None:
        told.append(f"{show_size(free)} of this computer's memory are free.")
    for index in range(torch.cuda.device_count()):
        left, whole = torch.cuda.mem_get_info(index)
        told.append(f"{show_size(left)} of {show_size(whole)} are free on cuda:{index}.")
    return told
