"""Small results as the instruments return them, with numbers that are easy to follow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

HOSTILE = "<img src=x onerror=alert(1)>"

MakeLens = Callable[..., xr.Dataset]
MakeSweep = Callable[..., xr.Dataset]


def traces(fig: go.Figure, name: str) -> list[Any]:
    return [trace for trace in fig.data if trace.name == name]


def cells(fig: go.Figure) -> dict[tuple[int, int], str]:
    """What each click target stands for, and its hover text."""
    target = traces(fig, "cells")[0]
    keys = [tuple(int(i) for i in pair) for pair in target.customdata]
    return dict(zip(keys, target.text, strict=True))  # type: ignore[arg-type]


def assert_safe(fig: go.Figure) -> None:
    """No markup but our own anywhere in the figure."""
    text = json.dumps(fig.to_plotly_json(), default=lambda o: np.asarray(o).tolist())
    tags = set(re.findall(r"<[^<>]*>", text))
    assert tags <= {"<b>", "</b>", "<br>", "<extra>", "</extra>"}, tags
    assert "onerror" in text  # the token is there, as text


@pytest.fixture
def make_lens() -> MakeLens:
    def make(
        tokens: tuple[str, ...] = (" Tom", " Cruise", "'s"),
        n_layers: int = 2,
        examples: int = 1,
        top: str = " Mary",
    ) -> xr.Dataset:
        dims = ("example", "layer", "position")
        shape = (examples, n_layers + 1, len(tokens))
        cells = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        probability = np.stack([0.5 + cells / 1000, cells / 1000], axis=-1)
        return xr.Dataset(
            {
                "top_token": ((*dims, "k"), np.full((*shape, 2), top, dtype=object)),
                "top_prob": ((*dims, "k"), probability.astype(np.float32)),
                "entropy": (dims, cells / 10),
                "answer_rank": (dims, cells.astype(np.int64)),
                "answer_logprob": (dims, -cells),
            },
            coords={
                "layer": np.arange(n_layers + 1),
                "position": np.arange(len(tokens)),
                "token": (("example", "position"), np.array([tokens] * examples, dtype=object)),
                "prompt": ("example", ["".join(tokens)] * examples),
                "answer": ("example", [" Mary Lee"] * examples),
            },
        )

    return make


@pytest.fixture
def make_sweep() -> MakeSweep:
    """Corrupted −3, clean 5; `share` [example, layer, column] of the way between.

    With `times` the pairs come so often, with effects of 8 on average, so that there are shares.
    """

    def make(
        share: np.ndarray,
        axis: str = "position",
        labels: tuple[str, ...] | None = None,
        tokens: tuple[str, ...] | None = None,
        times: int = 1,
    ) -> xr.Dataset:
        share = np.tile(share, (times, 1, 1))
        n, n_layers, n_columns = share.shape
        labels = labels or tuple(f"end -{n_columns - i}" for i in range(n_columns))
        clean, corrupt = np.full(n, 5.0, np.float32), np.full(n, -3.0, np.float32)
        clean += np.repeat(np.linspace(-1, 1, times) if times > 1 else [0.0], n // times)
        patched = corrupt[:, None, None] + share * (clean - corrupt)[:, None, None]
        coords: dict[str, object] = {"layer": np.arange(n_layers)}
        if axis == "position":
            text = np.array([tokens or [f" t{i}" for i in range(n_columns)]] * n, dtype=object)
            coords["position"] = np.arange(n_columns)
            coords["position_label"] = ("position", list(labels))
            coords["clean_token"] = coords["corrupt_token"] = (("example", "position"), text)
        else:
            coords[axis] = list(labels) if axis == "span" else np.arange(n_columns)
        return xr.Dataset(
            {
                "patched": (("example", "layer", axis), patched.astype(np.float32)),
                "clean": ("example", clean),
                "corrupt": ("example", corrupt),
            },
            coords=coords,
            attrs={"site": "resid_pre", "metric": "logit_diff", "unit": "logits"},
        )

    return make
