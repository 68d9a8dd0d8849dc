"""Direct logit attribution of one prompt: what each component adds to the answer's logit."""

from __future__ import annotations

import streamlit as st

from app import resources
from app.compute.engine import ModelSpec
from app.screen import parts
from app.text import markup, snippets
from interp.figures import attribution_map

_BY = {"component": "Attention and MLPs", "head": "Heads"}


def show(spec: ModelSpec, prompt: str, answer: str, foil: str | None, *, width: int) -> None:
    """A map, with the sum below it.

    Raises:
        PromptError: answer or foil fit the prompt in no way.
        ModelError: the model's logits are no sum of what its components write.
    """
    of = f"the logit of ‘{answer.strip()}’" + (
        "" if foil is None else f" minus that of ‘{foil.strip()}’"
    )
    parts.html(
        markup.heading(
            "Which components say it",
            f"Direct logit attribution: what each adds to {of} at the end, with the final norm’s "
            "scale held. What later components make of it is not counted.",
        )
    )
    by = st.segmented_control(
        "By",
        list(_BY),
        default="component",
        format_func=_BY.__getitem__,
        key="attribution-by",
        label_visibility="collapsed",
        required=True,
    )
    by = by or "component"
    result = resources.engine().attribution(spec, prompt, answer, foil, by)
    parts.figure(
        attribution_map(result, 0, width=width),
        "attribution",
        data=lambda: result.to_dataframe().reset_index(),
        code=snippets.attribution(spec, prompt, answer, foil, by),
        alt=f"What each component adds to {of}",
    )
