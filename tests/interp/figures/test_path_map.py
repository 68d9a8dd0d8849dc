"""The map of path patching: senders in their cells, the embedding in the note."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp.errors import SiteError
from interp.figures import path_map
from tests.interp.figures.conftest import HOSTILE, assert_safe, cells, traces

SENDERS = ("input", "a0.h0", "a0.h1", "m0", "a1.h1")


def make(
    direction: str = "noising", senders: tuple[str, ...] = SENDERS, **attrs: str
) -> xr.Dataset:
    places: Any = {
        "input": (-1, -1),
        "a0.h0": (0, 0),
        "a0.h1": (0, 1),
        "m0": (0, -1),
        "a1.h1": (1, 1),
    }
    chosen = [places[name] for name in senders]
    patched = 10.0 * np.arange(2)[:, None] + np.arange(len(senders))
    return xr.Dataset(
        {
            "patched": (("example", "sender"), patched),
            "clean": ("example", [4.0, 16.0]),
            "corrupt": ("example", [0.0, 2.0]),
        },
        coords={
            "sender": list(senders),
            "layer": ("sender", [layer for layer, _ in chosen]),
            "head": ("sender", [head for _, head in chosen]),
        },
        attrs={
            "receivers": "a1.h0.q",
            "through": "nothing",
            "metric": "logit_diff",
            "unit": "logits",
            "direction": direction,
            **attrs,
        },
    )


def test_each_sender_stands_in_its_cell_with_its_change() -> None:
    fig = path_map(make())
    values = traces(fig, "values")[0]
    # Means over pairs: patched 5 + sender, clean 10.
    np.testing.assert_allclose(values.z, [[-4.0, -3.0, -2.0], [np.nan, -1.0, np.nan]])
    assert (values.zmin, values.zmax) == (-4, 4)
    assert list(fig.layout.xaxis.ticktext) == ["0", "1", "MLP"]
    assert list(fig.layout.yaxis.ticktext) == ["0", "1"]
    hover = cells(fig)
    assert hover[1, 1] == (
        "<b>a1.h1</b> → a1.h0.q<br>moves logit diff by <b>−1.00</b> logits"
        "<br>from 10.00 to 9.00<br>2 pairs"
    )
    assert hover[1, 0] == "no such sender"


def test_denoising_counts_from_the_corrupted_run() -> None:
    fig = path_map(make("denoising"))
    np.testing.assert_allclose(traces(fig, "values")[0].z, [[5.0, 6.0, 7.0], [np.nan, 8.0, np.nan]])
    assert "Clean outputs in the corrupted run" in fig.layout.annotations[0].text


def test_one_pair_can_be_chosen() -> None:
    fig = path_map(make(), example=1)
    np.testing.assert_allclose(
        traces(fig, "values")[0].z, [[-5.0, -4.0, -3.0], [np.nan, -2.0, np.nan]]
    )
    assert "1 pair" in cells(fig)[0, 0]
    with pytest.raises(SiteError, match="no pair 2"):
        path_map(make(), example=2)


def test_the_embedding_and_the_way_stand_in_the_notes() -> None:
    notes = [note.text for note in path_map(make()).layout.annotations]
    assert notes == [
        "Corrupted outputs in the clean run, into a1.h0.q, directly.",
        "The embedding moves it by −5.00 logits.",
    ]
    through = path_map(make(senders=("m0",), through="m0, m1")).layout.annotations
    assert [note.text for note in through] == [
        "Corrupted outputs in the clean run, into a1.h0.q, directly or through m0, m1."
    ]


def test_the_embedding_alone_is_refused() -> None:
    with pytest.raises(SiteError, match="at least one"):
        path_map(make(senders=("input",)))


def test_hostile_names_are_text() -> None:
    fig = path_map(make(metric=HOSTILE, unit=HOSTILE, receivers=HOSTILE, through=HOSTILE))
    assert_safe(fig)
