"""The difference of two patching maps: its cells, its intervals, and what cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats as scipy_stats

from interp.errors import SiteError
from interp.figures import contrast_map
from interp.figures.contrast import shared_places
from tests.interp.figures.conftest import HOSTILE, cells, traces


def patched(
    values: np.ndarray, labels: list[str], facts: list[int] | None = None, site: str = "resid_pre"
) -> xr.Dataset:
    """A sweep whose corrupted run reads 1 everywhere."""
    n = len(values)
    return xr.Dataset(
        {
            "patched": (("example", "layer", "position"), values + 1.0),
            "clean": ("example", np.full(n, 9.0)),
            "corrupt": ("example", np.ones(n)),
        },
        coords={
            "layer": np.arange(values.shape[1]),
            "position": np.arange(len(labels)),
            "position_label": ("position", labels),
            "fact": ("example", list(range(n)) if facts is None else facts),
        },
        attrs={"site": site, "metric": "logit_diff", "unit": "logits", "direction": "denoising"},
    )


def test_places_are_found_by_their_names_and_examples_by_their_key() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(8, 2, 3)), rng.normal(size=(8, 2, 2))
    other[:, 0, 1] = one[:, 0, 0] - 4.0  # "name": clearly less, by four in each pair but noise
    other[:, 0, 1] += 0.1 * rng.normal(size=8)
    order = [3, 1, 0, 2, 7, 6, 5, 4]
    first = patched(one, ["name", "is", "end"])
    second = patched(other[order], ["end", "name"], facts=order)
    assert shared_places(first, second) == ["name", "end"]
    fig = contrast_map(first, second, key="fact")
    values = np.asarray(traces(fig, "values")[0].z, float)
    assert values.shape == (2, 2)
    difference = one[:, 0, 0] - other[:, 0, 1]
    assert values[0, 0] == pytest.approx(difference.mean())
    half = scipy_stats.t.ppf(0.975, 7) * difference.std(ddof=1) / np.sqrt(8)
    text = cells(fig)[(0, 0)]
    assert f"{difference.mean():.2f}" in text
    assert f"interval {difference.mean() - half:.1f}"[:-1] in text


def test_what_could_be_none_is_grey_and_keeps_its_numbers() -> None:
    rng = np.random.default_rng(1)
    noise = patched(rng.normal(size=(20, 1, 1)), ["end"])
    fig = contrast_map(noise, patched(rng.normal(size=(20, 1, 1)), ["end"]))
    assert np.isnan(np.asarray(traces(fig, "values")[0].z, float)).all()
    assert "95% interval" in cells(fig)[(0, 0)]
    few = patched(np.full((3, 1, 1), 5.0), ["end"])
    fig = contrast_map(few, patched(np.zeros((3, 1, 1)), ["end"]))
    assert np.isnan(np.asarray(traces(fig, "values")[0].z, float)).all()


def test_a_single_pair_is_shown_with_a_note() -> None:
    one = patched(np.full((1, 2, 1), 5.0), ["end"])
    fig = contrast_map(one, patched(np.zeros((1, 2, 1)), ["end"]))
    assert np.asarray(traces(fig, "values")[0].z, float).tolist() == [[5.0], [5.0]]
    assert "single pair" in str(fig.layout.annotations)
    assert "interval" not in cells(fig)[(0, 0)]


def test_places_are_text() -> None:
    fig = contrast_map(*(patched(np.ones((1, 1, 1)), [HOSTILE]) for _ in range(2)))
    assert "<img" not in fig.to_json().replace("\\u003c", "<")


def test_what_cannot_be_compared_is_refused() -> None:
    one = patched(np.ones((2, 1, 1)), ["end"])
    with pytest.raises(SiteError, match="same site"):
        contrast_map(one, patched(np.ones((2, 1, 1)), ["end"], site="mlp_out"))
    with pytest.raises(SiteError, match="no place in common"):
        contrast_map(one, patched(np.ones((2, 1, 1)), ["start"]))
    with pytest.raises(SiteError, match="One map has 2 pairs"):
        contrast_map(one, patched(np.ones((3, 1, 1)), ["end"]))
    with pytest.raises(SiteError, match="no example in common"):
        contrast_map(one, patched(np.ones((2, 1, 1)), ["end"], facts=[8, 9]), key="fact")
    with pytest.raises(SiteError, match="no coordinate"):
        contrast_map(one, one, key="number")
    with pytest.raises(SiteError, match="without named positions"):
        contrast_map(one.drop_vars("position_label"), one)
