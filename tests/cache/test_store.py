"""What is stored comes back as it was computed, and is computed once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cache import ActivationStore
from cache.errors import StorageError
from cache.keys.space import DTYPES
from tests.cache.fake import WIDTHS, FakeSource, expected, prompts

SITES = list(WIDTHS)


def check(store: ActivationStore, source: FakeSource, rows: list[list[int]], dtype: str) -> None:
    found = store.get(source, rows, SITES, dtype=dtype)
    for site in source.sites(SITES):
        for number, ids in enumerate(source.rows(rows)):
            right = expected(source.model, ids, site).to(DTYPES[dtype])
            assert torch.equal(found[site.name][number, : len(ids)], right)
            assert found[site.name][number, len(ids) :].isnan().all()


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("shortest", [2, 9])
def test_round_trip_is_exact(tmp_path: Path, dtype: str, shortest: int) -> None:
    rows = prompts(40, shortest=shortest)
    with ActivationStore(tmp_path / "store") as store:
        check(store, FakeSource(), rows, dtype)
    source = FakeSource()
    with ActivationStore(tmp_path / "store") as store:
        check(store, source, rows, dtype)
        check(store, source, rows[::-1], dtype)
        check(store, source, [rows[7], rows[3], rows[7]], dtype)
    assert source.runs == 0


def test_small_shards_hold_the_same(tmp_path: Path) -> None:
    rows = prompts(50)
    with ActivationStore(tmp_path / "store", shard_size=4000) as store:
        check(store, FakeSource(), rows, "bfloat16")
        assert sum(usage.shards for usage in store.usage()) > 10
        check(store, FakeSource(), rows, "bfloat16")


def test_a_prompt_of_two_data_sets_is_stored_once(tmp_path: Path) -> None:
    source = FakeSource()
    first, second = prompts(20, seed=1), prompts(20, seed=2)
    with ActivationStore(tmp_path / "store") as store:
        store.get(source, first, SITES)
        store.get(source, [*second, *first[:10], second[0]], SITES)
        assert source.runs == 40
        assert store.missing(source, [*first, *second], SITES) == 0
        assert store.missing(source, prompts(1, seed=3), SITES) == 1


def test_only_the_sites_that_are_missing_are_computed(tmp_path: Path) -> None:
    rows = prompts(10)
    with ActivationStore(tmp_path / "store") as store:
        store.get(FakeSource(), rows, "resid_post.0")
        check(store, FakeSource(), rows, "float32")
        by_site = {usage.site: usage.rows for usage in store.usage()}
    assert by_site == dict.fromkeys(SITES, 10)


@pytest.mark.parametrize(
    "other",
    [FakeSource(model="b" * 32), FakeSource(dtype="float16"), FakeSource(policy="no bos")],
)
def test_another_model_precision_or_policy_is_another_key(
    tmp_path: Path, other: FakeSource
) -> None:
    rows = prompts(5)
    with ActivationStore(tmp_path / "store") as store:
        store.get(FakeSource(), rows, SITES)
        assert store.missing(other, rows, SITES) == 5
        store.get(other, rows, SITES)
        assert len(store.spaces()) == 2


def test_a_batch_of_one_length_is_mapped_and_edits_stay_private(tmp_path: Path) -> None:
    rows = prompts(6, shortest=4, longest=4)
    with ActivationStore(tmp_path / "store") as store:
        first = store.get(FakeSource(), rows, "z.0")["z.0"]
        first.zero_()
        second = store.get(FakeSource(), rows, "z.0")["z.0"]
        assert second.any()
        assert not store.verify().findings
        shared = store.rows(FakeSource(), rows, "z.0")["z.0"]
        assert shared[1].untyped_storage().data_ptr() == shared[0].untyped_storage().data_ptr()


def test_a_shard_can_be_read_with_safetensors_alone(tmp_path: Path) -> None:
    rows = prompts(8)
    with ActivationStore(tmp_path / "store") as store:
        found = store.rows(FakeSource(), rows, SITES)
    (path,) = (tmp_path / "store" / "shards").glob("*/*.safetensors")
    tensors = load_file(path)
    ordered = sorted(range(8), key=lambda i: len(rows[i]))
    assert tensors["tokens"].tolist() == [token for i in ordered for token in rows[i]]
    assert tensors["offsets"].tolist()[-1] == sum(map(len, rows))
    for site in SITES:
        assert torch.equal(tensors[site], torch.cat([found[site][i] for i in ordered]))


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    parts = [prompts(10, seed=seed, shortest=8, longest=8) for seed in range(4)]
    with ActivationStore(tmp_path / "store") as store:
        for part in parts[:3]:
            kept = store.get(FakeSource(), part, SITES)
        # Sidecars differ by a few bytes, since they hold the time.
        three = store.size() + 100
    with ActivationStore(tmp_path / "store", budget=three) as store:
        store.get(FakeSource(), parts[0], SITES)
        store.get(FakeSource(), parts[3], SITES)
        missing = [store.missing(FakeSource(), part, SITES) for part in parts]
        assert missing == [0, 10, 0, 0]
        assert store.size() <= three
    # A map that was given out before the eviction stays as it was.
    site = FakeSource().sites("z")[0]
    right = expected("a" * 32, FakeSource().rows(parts[2])[0], site)
    assert torch.equal(kept["z.0"][0], right)


def test_more_than_the_budget_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    with ActivationStore(tmp_path / "store", budget="100kB") as store:
        store.get(FakeSource(), prompts(10), SITES)
        with pytest.raises(StorageError, match="budget is 100 kB; raise"):
            store.get(FakeSource(), prompts(1000, seed=1), SITES)
        assert store.missing(FakeSource(), prompts(10), SITES) == 0


def test_removing_a_site_keeps_the_others(tmp_path: Path) -> None:
    rows = prompts(10)
    with ActivationStore(tmp_path / "store") as store:
        store.get(FakeSource(), rows, SITES)
        freed = store.remove(FakeSource().space(), ["z.0"])
        assert freed > 0
        assert store.missing(FakeSource(), rows, "z") == 10
        source = FakeSource()
        store.get(source, rows, "resid_post")
        assert source.runs == 0
        assert not store.verify().findings
        store.remove(FakeSource().space())
        assert store.usage() == []
        assert not list((tmp_path / "store" / "shards").glob("*/*"))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="holds other files"):
        ActivationStore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
