"""Whatever happens to a file: it is found, named, never returned as data, and computed again."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cache import ActivationStore
from cache.errors import StorageError
from cache.index.queries import Index
from cache.keys.space import SiteShape
from tests.cache.changes import (
    CHANGES,
    delete,
    extend,
    flip,
    swap,
    truncate,
    zero_a_page,
)
from tests.cache.children import SITES, check_tidy, check_values, quiet
from tests.cache.fake import FakeSource, expected, prompts

pytestmark = pytest.mark.slow

ROWS = prompts(8, seed=1)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else evicts here, so that `verify` need not wait for it."""
    monkeypatch.setattr("cache.folder.verify.MOMENT", 0.0)


@pytest.fixture
def path(in_memory: Path) -> Path:
    """A store with three shards, the index of which is not young any more."""
    path = in_memory / "store"
    with ActivationStore(path, shard_size=5000) as store:
        store.get(FakeSource(), prompts(30, seed=2), SITES)
        store.remove(FakeSource().space())
        store.get(FakeSource(), ROWS, SITES)
        store.get(FakeSource(), ROWS, SITES)
        assert len(store.folder.catalogue.ask(Index.shards)) == 3
    return path


def files(path: Path, kind: str) -> list[Path]:
    return sorted(path.glob({"index": "index.sqlite"}.get(kind, f"shards/*/*.{kind}")))


@pytest.mark.parametrize("kind", ["safetensors", "json"])
@pytest.mark.parametrize("part", range(6))
def test_every_change_of_a_shard_is_found_named_and_repaired(
    path: Path, in_memory: Path, kind: str, part: int
) -> None:
    draw = random.Random(f"{kind} {part}")
    for change in CHANGES:
        damaged = in_memory / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(path, damaged)
        file = draw.choice(files(damaged, kind))
        before = {found: found.read_bytes() for found in files(damaged, kind)}
        change(file, draw)
        changed = [
            found.stem
            for found, content in before.items()
            if not found.exists() or found.read_bytes() != content
        ]
        if not changed:
            assert change in (zero_a_page,)  # a page of padding
            continue
        source = FakeSource()
        if draw.random() < 0.5:
            with ActivationStore(damaged) as store:
                report = store.verify(source)
                named = {finding.shard for finding in report.findings}
                # The data of a shard without a sidecar are a finding of their own.
                assert named - {""} == set(changed)
                assert report.repaired == source.runs
                if change is flip:
                    assert report.repaired > 0
                assert store.verify().findings == ()
                check_values(store, ROWS, source)
        else:
            with ActivationStore(damaged) as store:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    check_values(store, ROWS, source)
                said = " ".join(str(warning.message) for warning in caught)
                gone = [shard for shard in changed if shard not in said]
                # Without a sidecar nothing is known to be damaged; it is just not there.
                assert not gone or (kind, change) == ("json", delete)
                assert 0 < source.runs < len(ROWS) or len(changed) == 2
                store.verify()
                assert store.verify().findings == ()
        check_tidy(damaged, ["quarantine"])


def logical(path: Path) -> list[object]:
    """All that the index says, as SQLite itself reads it."""
    db = sqlite3.connect(path / "index.sqlite")
    db.text_factory = bytes
    try:
        tables = [
            db.execute(f"select * from {name} order by 1, 2, 3").fetchall()
            for name in ("spaces", "shards", "sites", "rows")
        ]
        leases = db.execute("select * from leases").fetchall()
        return [
            *tables,
            leases,
            db.execute("select sql from sqlite_master order by name").fetchall(),
        ]
    finally:
        db.close()


@pytest.mark.parametrize("part", range(6))
def test_every_change_of_the_index_is_found_or_changes_nothing(
    path: Path, in_memory: Path, part: int
) -> None:
    """A byte that SQLite does not use (free space, counters) may change; nothing else may."""
    draw = random.Random(f"index {part}")
    right = logical(path)
    unnoticed = found = 0
    places = [("header", place) for place in range(part, 100, 6)]
    changes = [change for change in CHANGES if change is not swap]
    for change in [*places, *changes, *[flip] * 10]:
        damaged = in_memory / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(path, damaged)
        file = damaged / "index.sqlite"
        if isinstance(change, tuple):
            content = bytearray(file.read_bytes())
            content[change[1]] ^= 1 << draw.randrange(8)
            file.write_bytes(content)
        else:
            change(file, draw)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with ActivationStore(damaged) as store:
                named = [f.message for f in store.verify().findings]
                named += [str(w.message) for w in caught if "index" in str(w.message)]
                if named:
                    found += 1
                else:
                    unnoticed += 1
                    store.folder.close()
                    assert logical(damaged) == right, change
                source = FakeSource()
                check_values(store, ROWS, source)
                assert source.runs == 0
                assert store.verify().findings == ()
        check_tidy(damaged)
    assert found > 8
    assert found + unnoticed > 30


def test_flips_in_what_a_table_holds_are_found(path: Path, in_memory: Path) -> None:
    """Each value that can be seen through SQL, changed through SQL: none goes unnoticed."""
    db = sqlite3.connect(path / "index.sqlite")
    tables = {
        table: [column[1] for column in db.execute(f"pragma table_info({table})")]
        for table in ("spaces", "shards", "sites", "rows")
    }
    db.close()
    for table, columns in tables.items():
        for column in columns:
            damaged = in_memory / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(path, damaged)
            db = sqlite3.connect(damaged / "index.sqlite", isolation_level=None)
            where = f"where {column} = (select max({column}) from {table})"
            (old,) = db.execute(f"select {column} from {table} {where}").fetchone()
            new = (
                old + 1
                if isinstance(old, int | float)
                else old[:-1] + (b"\x01" if isinstance(old, bytes) else "!")
            )
            db.execute(f"update {table} set {column} = ? {where}", [new])
            db.close()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with ActivationStore(damaged) as store:
                    findings = store.verify().findings
            assert findings or caught, f"{table}.{column}"
            with ActivationStore(damaged) as store:
                assert store.verify().findings == (), f"{table}.{column}"
                source = FakeSource()
                check_values(store, ROWS, source)
                assert source.runs == 0


@pytest.mark.parametrize("state", ["flipped", "empty", "deleted", "huge", "of nobody"])
def test_a_damaged_marker_is_written_again(path: Path, state: str) -> None:
    marker = path / "store.json"
    right = marker.read_bytes()
    if state == "deleted":
        marker.unlink()
    elif state == "huge":
        os.truncate(marker, 1 << 44)
    else:
        changed = {"flipped": right.replace(b'"version":1', b'"version":3'), "empty": b""}
        marker.write_bytes(changed.get(state, b'{"a": [1, 2'))
    with pytest.warns(UserWarning, match=r"store\.json' was .*; it is written again"):
        store = ActivationStore(path)
    source = FakeSource()
    check_values(store, ROWS, source)
    assert source.runs == 0
    assert marker.read_bytes() == right
    store.close()
    check_tidy(path)


def test_every_flipped_bit_of_the_marker_is_put_right(path: Path) -> None:
    marker = path / "store.json"
    right = marker.read_bytes()
    for place in range(len(right)):
        marker.write_bytes(right[:place] + bytes([right[place] ^ 2]) + right[place + 1 :])
        with quiet():
            ActivationStore(path).close()
        assert marker.read_bytes() == right


def test_a_store_of_another_version_is_refused(path: Path) -> None:
    from cache.shards.sidecar import seal_json

    other = seal_json({"format": "obverse-activations", "version": 2})
    (path / "store.json").write_bytes(other)
    with pytest.raises(StorageError, match="made by another version of Obverse; use that"):
        ActivationStore(path)
    assert (path / "store.json").read_bytes() == other


@pytest.mark.parametrize("how", ["noise", "of another store", "zeros"])
def test_a_stale_journal_does_not_change_what_is_stored(
    path: Path, in_memory: Path, how: str
) -> None:
    journal = path / "index.sqlite-journal"
    other = in_memory / "other"
    with ActivationStore(other) as store:
        store.get(FakeSource(), prompts(40, seed=9), SITES)
        if how == "of another store":
            # In the middle of a transaction the journal holds the pages as they were.
            db = sqlite3.connect(other / "index.sqlite", isolation_level=None)
            db.execute("pragma cache_size = 1")
            db.execute("begin immediate")
            db.execute("update rows set row = row + 1")
            db.execute("update shards set content = zeroblob(30000)")
            journal.write_bytes((other / "index.sqlite-journal").read_bytes())
            db.execute("rollback")
            db.close()
            assert journal.stat().st_size > 4096
    if how != "of another store":
        journal.write_bytes(os.urandom(9000) if how == "noise" else bytes(9000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ActivationStore(path) as store:
            findings = store.verify().findings
            source = FakeSource()
            check_values(store, ROWS, source)
            assert source.runs == 0
            assert store.verify().findings == ()
    assert bool(findings or caught) == (how == "of another store")
    with ActivationStore(path) as store:
        store.get(FakeSource(), prompts(1, seed=10), SITES)
    check_tidy(path)


def test_an_index_of_another_store_is_found(path: Path, in_memory: Path) -> None:
    with ActivationStore(in_memory / "other") as store:
        store.get(FakeSource(), prompts(5, seed=9), SITES)
    shutil.copy(in_memory / "other" / "index.sqlite", path)
    shards = {file.stem for file in files(path, "safetensors")}
    with ActivationStore(path) as store:
        messages = " ".join(finding.message for finding in store.verify().findings)
        assert all(f"{shard} was committed but not in the index" in messages for shard in shards)
        assert "has no sidecar" in messages
        source = FakeSource()
        check_values(store, ROWS, source)
        assert source.runs == 0
        assert store.verify().findings == ()


def test_rows_are_told_by_their_keys_where_only_some_are_damaged(in_memory: Path) -> None:
    """One changed token id loses one row; the model computes all the others again."""
    path = in_memory / "store"
    with ActivationStore(path) as store:
        store.get(FakeSource(), ROWS, SITES)
        (shard,) = store.folder.catalogue.ask(Index.shards)
        begin = store.folder.reader(shard).sidecar.layout.fields["tokens"].begin
    (data,) = files(path, "safetensors")
    content = bytearray(data.read_bytes())
    content[begin] ^= 1
    data.write_bytes(content)
    source = FakeSource()
    with ActivationStore(path) as store:
        (finding,) = store.verify(source).findings
        assert finding.message.endswith(f"{len(ROWS) - 1} of its rows were computed again")
        assert "1 damaged MiB of " in finding.message
        assert store.missing(source, ROWS, SITES) == 1
        source.runs = 0
        check_values(store, ROWS, source)
        assert source.runs == 1


def test_the_damaged_mebibyte_is_named(tmp_path: Path) -> None:
    """Only the blocks that are read are checked, and a report says what they belong to."""

    class Wide(FakeSource):
        def sites(self, sites: object) -> list[SiteShape]:
            return [SiteShape("a", (1 << 18,)), SiteShape("b", (1 << 18,))]

    source, rows = Wide(), [[1, 2, 3], [4, 5]]
    path = tmp_path / "store"
    with ActivationStore(path) as store:
        store.get(source, rows, "all")
        (shard,) = store.folder.catalogue.ask(Index.shards)
        field = store.folder.reader(shard).sidecar.layout.fields["b"]
    (data,) = files(path, "safetensors")
    with open(data, "r+b") as file:
        file.seek(field.end - 7)
        file.write(b"\x55")
    with ActivationStore(path) as store:
        assert torch.equal(
            store.rows(source, rows[1:], "all")["a"][0],
            expected(source.model, source.rows(rows)[1], source.sites("a")[0]),
        )
    block = (field.end - 7) >> 20
    with ActivationStore(path) as store:
        (finding,) = store.verify().findings
        assert "1 damaged MiB of b" in finding.message
        assert f"(number {block})" in finding.message


@pytest.mark.parametrize("change", [truncate, delete, extend])
def test_damage_while_the_store_is_open(
    path: Path, change: Callable[[Path, random.Random], None]
) -> None:
    """Reading a map beyond the end of its file would end the process."""
    with ActivationStore(path) as store:
        source = FakeSource()
        check_values(store, ROWS, source)
        file = files(path, "safetensors")[1]
        change(file, random.Random(4))
        with quiet():
            check_values(store, ROWS, source)
            # A deleted file stays readable to who has it open.
            assert (source.runs > 0) == (change is not delete)
            store.verify()
            check_values(store, ROWS, source)
        assert source.runs > 0
        assert store.verify().findings == ()


def test_many_damaged_shards_in_one_call(path: Path) -> None:
    with ActivationStore(path, shard_size=300) as store:
        rows = prompts(20, seed=7)
        store.get(FakeSource(), rows, SITES)
    for file in files(path, "safetensors"):
        flip(file, random.Random(file.name))
    with quiet(), ActivationStore(path) as store:
        source = FakeSource()
        check_values(store, rows, source)
        assert source.runs == len(rows)


def test_files_of_others_are_left_alone(path: Path) -> None:
    folder = files(path, "json")[0].parent
    strays = [folder / "notes.json", folder / "notes.safetensors", path / "shards" / "a.json"]
    moved = path / "shards" / "zz"
    moved.mkdir()
    strays.append(moved / files(path, "json")[0].name)
    for stray in strays:
        stray.write_text("mine")
    with ActivationStore(path) as store:
        assert store.verify().findings == ()
        store.gc()
        check_values(store, ROWS, FakeSource())
    assert all(stray.read_text() == "mine" for stray in strays)
