"""The difference of two patching maps: its cells, its intervals, and what cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats as scipy_stats

from interp.errors import SiteError
from interp.figures import contrast_map
from interp.figures.contrast import shared_examples, shared_places
from interp.stats import connected
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


def test_one_pair_in_two_models_has_its_own_tokens() -> None:
    """Where two pairs are asked, places have the names that both have."""
    values = np.full((1, 2, 2), 5.0)
    one, other = (
        patched(values + more, ["subject -1", "end"]).assign_coords(
            clean_token=(("example", "position"), [["Churchill", "is"]]),
            corrupt_token=(("example", "position"), [["Chandra", "is"]]),
        )
        for more in (0, 1)
    )
    fig = contrast_map(one, other)
    assert list(fig.layout.xaxis.ticktext) == ["Churchill", "is"]
    assert fig.layout.xaxis.title.text == "token"
    assert "‘Churchill’ (subject -1)" in cells(fig)[(0, 0)]
    another = other.assign_coords(clean_token=(("example", "position"), [["Cruise", "is"]]))
    fig = contrast_map(one, another)
    assert list(fig.layout.xaxis.ticktext) == ["subject -1", "is"]


def read(result: xr.Dataset, *columns: list[str]) -> xr.Dataset:
    """The same with tokens: one for each example in every column."""
    tokens = np.array(columns, dtype=object).T
    return result.assign_coords(
        clean_token=(("example", "position"), tokens),
        corrupt_token=(("example", "position"), tokens),
    )


def test_a_place_is_called_by_the_token_that_all_prompts_of_both_maps_have() -> None:
    labels = ["start -1", "subject -1", "end -1"]
    one, other = (patched(np.ones((2, 1, 3)), labels) for _ in range(2))
    first = read(one, ["<bos>", "<bos>"], ["Ann", "Bea"], ["is", "is"])
    second = read(other, ["<bos>", "<bos>"], ["Ann", "Bea"], ["was", "was"])
    fig = contrast_map(first, second)
    assert list(fig.layout.xaxis.ticktext) == ["&lt;bos&gt;", "subject -1", "end -1"]
    assert "‘&lt;bos&gt;’ (start -1)" in cells(fig)[(0, 0)]
    # Of one pair, either map of which names its own tokens, both have to be asked.
    fig = contrast_map(first.isel(example=[0]), second.isel(example=[0]))
    assert list(fig.layout.xaxis.ticktext) == ["&lt;bos&gt;", "Ann", "end -1"]
    assert list(contrast_map(one, second).layout.xaxis.ticktext) == labels


def by_head(result: xr.Dataset) -> xr.Dataset:
    renamed = result.drop_vars(["position_label"]).rename(position="head")
    return renamed.assign_attrs(site="z")


def test_heads_are_compared_by_their_number() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(8, 2, 4)), rng.normal(size=(8, 2, 4))
    one[:, 1, 2] += 9.0
    first = by_head(patched(one, list("abcd")))
    second = by_head(patched(other, list("abcd"))).isel(head=[2, 0])
    fig = contrast_map(first, second)
    values = np.asarray(traces(fig, "values")[0].z, float)
    assert values.shape == (2, 2)
    assert values[1, 1] == pytest.approx((one[:, 1, 2] - other[:, 1, 2]).mean())
    assert "head 2" in cells(fig)[(1, 1)]


def test_examples_are_told_apart_by_several_coordinates() -> None:
    rng = np.random.default_rng(4)
    one = patched(rng.normal(size=(6, 1, 1)), ["end"], [0, 0, 1, 1, 2, 2])
    one = one.assign_coords(answer=("example", ["x", "y", "x", "y", "x", "x"]))
    order = [5, 4, 1, 0, 3]
    other = one.isel(example=order)
    first, second = shared_examples(one, other, ("fact", "answer"))
    # What stands twice goes together in order; nothing is taken twice.
    assert (
        first["patched"].values.ravel().tolist()
        == one["patched"].values.ravel()[[0, 1, 3, 4, 5]].tolist()
    )
    assert second["fact"].values.tolist() == [0, 0, 1, 2, 2]
    assert second["answer"].values.tolist() == first["answer"].values.tolist()
    assert len({float(x) for x in second["patched"].values.ravel()}) == 5
    with pytest.raises(SiteError, match="no coordinate 'foil'"):
        shared_examples(one, other, ("fact", "foil"))


def test_means_of_other_examples_are_compared_as_independent_ones() -> None:
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(30, 1, 2)), rng.normal(size=(22, 1, 2))
    one[:, 0, 1] += 3.0
    other[5, 0, 0] = np.nan
    fig = contrast_map(
        patched(one, ["start", "end"]), patched(other, ["start", "end"]), paired=False
    )
    values = np.asarray(traces(fig, "values")[0].z, float)
    assert np.isnan(values[0, 0])
    assert values[0, 1] == pytest.approx(one[:, 0, 1].mean() - other[:, 0, 1].mean())
    assert "30 pairs in the first, 21 pairs in the second" in cells(fig)[(0, 0)]
    ends = scipy_stats.ttest_ind(one[:, 0, 1], other[:, 0, 1], equal_var=False)
    low, high = ends.confidence_interval(0.95)
    text = cells(fig)[(0, 1)].split("interval ")[1].split("<br>")[0]
    drawn = [float(end) for end in text.replace("−", "-").split(" to ")]
    np.testing.assert_allclose(drawn, [low, high], atol=0.1)
    few = patched(np.full((2, 1, 1), 5.0), ["end"])
    fig = contrast_map(few, patched(np.zeros((1, 1, 1)), ["end"]), paired=False)
    assert np.isnan(np.asarray(traces(fig, "values")[0].z, float)).all()


def test_places_are_text() -> None:
    fig = contrast_map(*(patched(np.ones((1, 1, 1)), [HOSTILE]) for _ in range(2)))
    assert "<img" not in fig.to_json().replace("\\u003c", "<")


def test_what_cannot_be_compared_is_refused() -> None:
    one = patched(np.ones((2, 1, 1)), ["end"])
    with pytest.raises(SiteError, match="same site"):
        contrast_map(one, patched(np.ones((2, 1, 1)), ["end"], site="mlp_out"))
    with pytest.raises(SiteError, match="same metric"):
        contrast_map(one, one.assign_attrs(metric="rank"))
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


def test_pairs_that_ask_the_same_count_once() -> None:
    rng = np.random.default_rng(3)
    other = patched(np.zeros((20, 1, 1)), ["end"])
    one = patched(3.0 + rng.normal(size=(20, 1, 1)), ["end"])
    for prompts, clear in ((20, True), (10, True), (2, False)):
        asked = [f"question {i % prompts}" for i in range(20)]
        fig = contrast_map(one.assign_coords(clean_prompt=("example", asked)), other)
        assert bool(np.isfinite(np.asarray(traces(fig, "values")[0].z, float)).all()) == clear
    # What is asked in either map, and what is so by others, belongs together.
    names = connected(["a", "a", "b", "c", "d", "e"], ["u", "v", "v", "w", "x", "w"])
    assert names[0] == names[1] == names[2]
    assert names[3] == names[5]
    assert len(set(names.tolist())) == 3
