"""The distance of a Jacobian lens from the identity, over the noise in it."""

from __future__ import annotations

import pytest
import torch

from interp import JacobianLens, logit_lens, logits
from interp.errors import ArgumentError, PromptError
from interp.figures import lead_lines, spread_lines, trajectory_lines
from tests.interp.figures.conftest import HOSTILE, assert_safe, traces
from tests.interp.tiny import Tiny

EYE = torch.eye(4)
NOTES = {"standard_error": {"0": 0.5, "1": 0.25, "2": None}}
LENS = JacobianLens({0: 3 * EYE, 1: EYE}, 2, NOTES, embedding=2 * EYE.flip(0))


def test_distances_and_noise_are_in_lengths_of_the_identity() -> None:
    fig = spread_lines({"mine": LENS.spread()})
    (line,) = traces(fig, "mine")
    # The flipped identity is at right angles to the identity.
    assert list(line.y) == pytest.approx([5**0.5, 2.0, 0.0])
    (shade,) = traces(fig, "mine, noise alone")
    assert [y for y in shade.y if y is not None] == pytest.approx([1.0, 0.75, 0.0, 0.0])
    assert "noise 0.75" in line.text[1]
    assert "noise" not in line.text[2]
    bare = spread_lines({"bare": JacobianLens({0: EYE}, 1).spread()})
    assert [trace.name for trace in bare.data] == ["bare"]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(PromptError, match="no lens to draw"):
        spread_lines({})
    with pytest.raises(ArgumentError, match=r"a result of JacobianLens.spread"):
        spread_lines({"a": LENS.spread().drop_vars("distance")})
    with pytest.raises(ArgumentError):
        trajectory_lines({"a": LENS.spread()})


def test_hostile_names_are_text() -> None:
    assert_safe(spread_lines({HOSTILE: LENS.spread()}))


@pytest.mark.slow
def test_an_answer_leads_by_as_much_as_its_logit_is_higher(llama: Tiny) -> None:
    prompt = "we saw Ann near Rome and then"
    lens = logit_lens(llama.model, [prompt], [[" Gus", " Ida"]])
    fig = lead_lines({HOSTILE: lens})
    assert_safe(fig)
    own = logits(llama.model, [prompt])[0]
    ids = [int(llama.model.encode([text])[0][0][-1]) for text in (" Gus", " Ida")]
    (line,) = [trace for trace in fig.data if trace.mode == "lines+markers"]
    assert line.y[-1] == pytest.approx(float(own[ids[0]] - own[ids[1]]), abs=1e-4)
    with pytest.raises(PromptError, match="an answer and a foil"):
        lead_lines({"one": logit_lens(llama.model, [prompt], [" Gus"])})
