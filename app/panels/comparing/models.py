"""What lies between two models of one shape: activations, and which modules matter."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app import resources
from app.compute import comparing
from app.compute.background import swaps as of_swaps
from app.panels.comparing.reading import Reading
from app.runs import Run
from app.screen import live, parts
from app.screen.told import Told
from app.text import markup, sentences, two_snippets
from app.text.rows import rows
from cache.errors import ObverseError
from interp.figures import difference_map, swap_lines

_SITES = {
    "resid_post": "Residual stream after each block",
    "attn_out": "What attention writes",
    "mlp_out": "What MLPs write",
}


def activations(first: Reading, second: Reading) -> None:
    """How far the models' activations lie apart on the prompt.

    Raises:
        ModelError: they are not of one shape, or read with other tokenizers.
    """
    with st.spinner("Reading both models …", show_time=True):
        result = comparing.activations(resources.engine(), first.spec, second.spec, first.prompt)
    parts.html(
        markup.heading(
            "How far activations lie apart",
            "The length of B’s activation minus A’s, as a share of A’s, on the same tokens.",
        )
    )
    # The stream has the page's width, and what is written to it stands below.
    places = [st.container(), *st.columns(2, gap="large")]
    for number, (name, title) in enumerate(_SITES.items()):
        with places[number]:
            parts.html(f'<div class="ob-small">{markup.esc(title)}</div>')
            parts.figure(
                difference_map(
                    result, 0, site=name, width=parts.width(1) if number == 0 else parts.width(2)
                ),
                f"compare-activations-{name}",
                data=lambda name=name: rows(result.sel(site=name)),  # type: ignore[misc]
                code=two_snippets.activations(first.spec, second.spec, first.prompt, name),
                alt=f"How far the models' activations lie apart: {title.lower()}",
                told=Told(
                    shows="How far the two models’ activations lie apart at each token.",
                    n="1 prompt",
                    interval="none: one prompt",
                    control="none; two trainings of one model lie apart, too",
                ),
            )


def swaps(first: Reading, second: Reading, runs: Sequence[Run | None]) -> None:
    """Which module of the one model makes the other one answer as it does; a job.

    Args:
        runs: of both states, where they are of one; the result is kept with the first.
    """
    if first.answer is None:
        parts.html(markup.hint("Module swaps read an answer; the question has none."))
        return
    asked = first.prompt, first.answer, first.foil
    try:
        request = of_swaps.request(resources.engine(), first.spec, second.spec, asked)
    except ObverseError as error:
        parts.html(markup.hint(str(error)))
        return
    # Kept with the run of either model, that of A first.
    run = next((run for run in runs if run is not None), None)
    found = live.results({"": request}, "Swapping modules", run, height=420)
    if found is None or found[0] is None:
        return
    result = found[0]
    metric = comparing.metric_of(first.foil)
    answer = sentences.token(first.answer)
    read = (
        f"the log-probability of the first token of {answer}"
        if first.foil is None
        else f"the logit of the first token of {answer} minus that of {sentences.token(first.foil)}"
    )
    parts.html(
        markup.heading(
            "Which modules carry the difference",
            f"Each module of the one model is put into the other one, alone and cumulatively; read "
            f"is {read}, as a change from the model that receives.",
        )
    )
    for into, title, column in zip(
        ("base", "tuned"),
        ("Modules of B put into A", "Modules of A put into B"),
        st.columns(2, gap="large"),
        strict=True,
    ):
        with column:
            parts.html(f'<div class="ob-small">{markup.esc(title)}</div>')
            parts.figure(
                swap_lines(
                    result,
                    into="base" if into == "base" else "tuned",
                    names=("A", "B"),
                    width=parts.width(2),
                ),
                f"compare-swaps-{into}",
                data=lambda: rows(result),
                code=two_snippets.swaps(first.spec, second.spec, asked, metric, into),
                alt=f"{title}: by how much the answer moves",
                told=Told(
                    shows="How far parts of one model move the answer of the other, in the order "
                    "of the computation: the embedding (emb), attention (A0) and MLP (M0) of each "
                    "block, the final norm, the unembedding (unemb).",
                    n="1 prompt",
                    interval="none: one prompt",
                    control="dotted: both models as they are",
                ),
            )
