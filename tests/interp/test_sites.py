"""Sites are written, read back and checked against what the model has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import Site
from interp.errors import SiteError
from interp.kinds import KINDS, site_kind
from interp.sites import check, expand, heads_at, hook_points
from tests.interp import reference
from tests.interp.tiny import N_HEADS, N_KEY_VALUE_HEADS, N_LAYERS, Tiny

PER_HEAD = ("q", "k", "v", "z", "pattern")


@pytest.mark.slow
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 200), st.none() | st.integers(0, 200))
def test_what_is_written_is_read_back(name: str, layer: int, head: int | None) -> None:
    site = Site(name, layer, head if name in PER_HEAD else None)
    assert Site.parse(str(site)) == site


def test_sites_are_written_as_documented() -> None:
    assert str(Site("z", 3, head=5)) == "z.3.h5"
    assert str(Site("resid_pre", 0)) == "resid_pre.0"
    assert Site.parse("mlp_act.12") == Site("mlp_act", 12)


@pytest.mark.parametrize(
    "text",
    [
        "resid_pre",
        "resid_pre.",
        "resid_pre.-1",
        "resid_pre.1.2",
        "z.1.5",
        "z.h1",
        "z.1.h1x",
        "",
        "Z.1",
    ],
)
def test_what_is_no_site_is_refused(text: str) -> None:
    with pytest.raises(SiteError, match="write it like"):
        Site.parse(text)


def test_a_head_only_where_there_are_heads() -> None:
    for name in KINDS:
        if name in PER_HEAD:
            assert Site(name, 0, head=1).kind.per_head
        else:
            with pytest.raises(SiteError, match="no heads"):
                Site(name, 0, head=1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("resid_per", "resid_pre"), ("atn_out", "attn_out"), ("patern", "pattern")],
)
def test_a_misspelt_site_is_answered_with_the_nearest(written: str, meant: str) -> None:
    with pytest.raises(SiteError, match=f"Did you mean '{meant}'"):
        site_kind(written)


def test_heads_of_keys_and_values_are_fewer_with_grouped_queries(tiny: Tiny) -> None:
    few = N_KEY_VALUE_HEADS if tiny.name == "llama" else N_HEADS
    expected = {"q": N_HEADS, "k": few, "v": few, "z": N_HEADS, "pattern": N_HEADS}
    assert {name: heads_at(tiny.model, name) for name in PER_HEAD} == expected
    assert (few < N_HEADS) == (tiny.name == "llama")


def test_a_name_stands_for_every_layer(tiny: Tiny) -> None:
    assert expand(tiny.model, "z") == [Site("z", layer) for layer in range(N_LAYERS)]
    assert expand(tiny.model, "z.1.h2") == [Site("z", 1, 2)]


def test_the_model_has_the_sites_that_its_architecture_has(tiny: Tiny) -> None:
    for name in KINDS:
        site = Site(name, N_LAYERS - 1)
        if name in (*reference.sites(tiny), "mlp_act", "pattern"):
            assert check(tiny.model, site) == site
        else:
            with pytest.raises(SiteError, match="in parallel"):
                check(tiny.model, site)
            assert (tiny.name, name) == ("neox", "resid_mid")


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site("z", N_LAYERS), "layers 0 to 2"),
        (Site("z", -1), "Layer -1"),
        (Site("z", 0, N_HEADS), "heads 0 to 3"),
        (Site("z", 0, -1), "Head -1"),
        (Site("v", 0, N_KEY_VALUE_HEADS), "heads 0 to 1"),
    ],
)
def test_layers_and_heads_out_of_range_are_refused(llama: Tiny, site: Site, message: str) -> None:
    with pytest.raises(SiteError, match=message):
        check(llama.model, site)


def test_each_site_has_a_hook_point_of_its_own(tiny: Tiny) -> None:
    sites = [Site(name, layer) for name in reference.sites(tiny) for layer in range(N_LAYERS)]
    points = hook_points(tiny.model, sites)
    assert len({id(point) for point in points.values()}) == len(sites)


def test_sites_sort_by_layer_within_a_kind() -> None:
    assert sorted([Site("z", 10), Site("z", 9)]) == [Site("z", 9), Site("z", 10)]
