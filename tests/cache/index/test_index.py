"""The index against a plain dictionary, and against files that are not what they should be."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import DamageError, StorageError
from cache.index.database import Database
from cache.index.queries import Index, Place
from cache.keys.space import SiteShape, Space
from cache.locks import StoreLock
from cache.shards.layout import Layout
from cache.shards.sidecar import Sidecar

SPACES = [Space(model, "float16", "t", "bos", f"model {model}") for model in "ab"]
SITES = [SiteShape("x", (4,)), SiteShape("y", (2, 2)), SiteShape("z", (1,))]


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def sidecar(
    number: int, rows: list[int], sites: list[SiteShape] = SITES, space: Space = SPACES[0]
) -> Sidecar:
    lengths = np.array([1 + row % 5 for row in rows])
    layout = Layout.of(sites, space.dtype, int(lengths.sum()), len(rows))
    keys = b"".join(map(key, rows))
    name = f"{'0' * 16}-{number:06x}"
    return Sidecar(
        name, space, tuple(sites), lengths, keys, bytes(16 * layout.n_blocks), 100.0 + number
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


@pytest.fixture
def index(path: Path, tmp_path: Path) -> Index:
    Index.make(path, []).close()
    return Index(path, StoreLock(tmp_path))


def test_it_answers_as_a_dictionary_would(index: Index) -> None:
    draw = random.Random(1)
    known: dict[str, Sidecar] = {}
    sizes: dict[str, int] = {}
    for number in range(60):
        if known and draw.random() < 0.3:
            gone = draw.sample(sorted(known), min(len(known), 2))
            index.forget([*gone, "unknown"])
            for name in gone:
                del known[name], sizes[name]
        new = sidecar(
            number,
            draw.sample(range(1300), draw.randrange(1, 40)),
            draw.sample(SITES, draw.randrange(1, 4)),
            draw.choice(SPACES),
        )
        size = draw.randrange(1, 10**9)
        index.add([(new, size), (new, size + 1)])
        known[new.id], sizes[new.id] = new, size
    asked = draw.sample(range(1300), 1200)  # more than one statement may take
    names = ["x", "y", "z", "nowhere"]
    found = index.find([key(row) for row in asked], names)
    for site in names:
        right = {}
        for one in known.values():  # the newest comes last
            if site in {of.name for of in one.sites}:
                for row, row_key in enumerate(one.row_keys()):
                    right[row_key] = Place(one.id, row)
        asked_keys = set(map(key, asked))
        assert found[site] == {k: place for k, place in right.items() if k in asked_keys}
    assert index.total() == sum(sizes.values())
    assert index.shards() == list(known)
    for space in SPACES:
        of_space = [one for one in known.values() if one.space == space]
        assert index.shards(space.id) == [one.id for one in of_space]
    for usage in index.usage():
        of = [
            one
            for one in known.values()
            if one.space == usage.space and usage.site in {site.name for site in one.sites}
        ]
        tokens = sum(int(one.lengths.sum()) for one in of)
        (width,) = {s.numbers for one in of for s in one.sites if s.name == usage.site}
        assert usage.space.label == of[0].space.label
        assert (usage.shards, usage.rows, usage.tokens) == (
            len(of),
            sum(one.n_rows for one in of),
            tokens,
        )
        assert usage.bytes == tokens * width * 2
        assert usage.created == min(one.created for one in of)
    assert {(usage.space.id, usage.site) for usage in index.usage()} == {
        (one.space.id, site.name) for one in known.values() for site in one.sites
    }
    for one in known.values():
        assert not index.disagrees(one, sizes[one.id])
        assert index.disagrees(one, sizes[one.id] + 1)
    assert not index.disagrees(sidecar(999, [1]), 5)
    index.check()
    index.forget(known)
    assert index.spaces() == []
    assert index.usage() == []


def test_what_was_used_longest_ago_comes_first(index: Index) -> None:
    index.add([(sidecar(number, [number]), 10) for number in range(4)])
    names = index.shards()
    index.note_use({names[0]: (500.0, 2), names[2]: (400.0, 1), "unknown": (1.0, 1)})
    index.note_use({names[0]: (450.0, 3)})
    assert [entry.shard for entry in index.oldest(9)] == [names[1], names[3], names[2], names[0]]
    assert max(usage.used for usage in index.usage()) == 500.0
    assert len(index.oldest(2)) == 2
    assert max(usage.hits for usage in index.usage()) == 6
    index.check()


def test_a_row_is_leased_to_one_holder(index: Index) -> None:
    first, second = [key(1), key(2)], [key(2), key(3)]
    assert index.claim(first, "a.0") == first
    assert index.claim(second, "b.0") == [key(3)]
    assert index.claim(first, "a.1") == []
    assert index.holders() == {"a.0", "b.0"}
    index.release(["b.0", "nobody"])
    assert index.claim([key(2), key(3)], "a.1") == [key(3)]
    index.release(["a.0", "a.1"])
    assert index.holders() == set()


def test_what_a_shard_is_said_to_hold(index: Index) -> None:
    one = sidecar(3, [7, 9])
    index.add([(one, 11)])
    found = index.describe(one.id)
    assert found is not None
    space, described = found
    assert space == one.space
    assert described.rows == ((key(7), 0), (key(9), 1))
    assert [name for name, _ in described.sites] == ["x", "y", "z"]
    assert index.describe("unknown") is None


def test_pages_of_a_selection(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.index.queries.ROWS_AT_ONCE", 3)
    index.add([(sidecar(1, list(range(8))), 1)])
    pages = list(index.select("select row from rows where row < ? order by row", [7]))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [row for page in pages for (row,) in page] == list(range(7))
    # It may be left in the middle, and used between two pages.
    for page in index.select("select row from rows"):
        index.add([(sidecar(2, [100]), 1)]) if page is None else index.total()
        break
    index.add([(sidecar(2, [100]), 1)])


def test_an_index_in_memory_is_the_same(index: Index) -> None:
    entries = [(sidecar(number, [number, number + 1]), number + 1) for number in range(5)]
    index.add(entries)
    memory = Index.make(None, entries)
    assert memory.usage() == index.usage()
    assert memory.find([key(1), key(2)], ["x"]) == index.find([key(1), key(2)], ["x"])
    memory.check()
    memory.close()
    assert memory.total() == index.total()
    with pytest.raises(AttributeError):
        memory.add([(sidecar(8, [1]), 1), ("nonsense", 1)])  # type: ignore[list-item]
    assert memory.total() == index.total()


def damage(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("pragma writable_schema = on")
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "drop table rows",
        "drop index rows_by_shard",
        "alter table shards rename column used to useful",
        "create table more (a)",
        "pragma user_version = 99",
        "pragma application_id = 99",
        "pragma journal_mode = wal",
        "update sqlite_master set sql = replace(sql, 'unique', '') where name = 'shards'",
        "update shards set used = 'late'",
        "update shards set hits = 7",
        "update spaces set described = '{}'",
        "delete from spaces",
        "insert into rows values (x'00', 77, 0)",
        "insert into sites values (77, 'x', 0)",
    ],
)
def test_what_does_not_fit_together_is_found(index: Index, path: Path, statement: str) -> None:
    index.add([(sidecar(1, [1, 2]), 5)])
    index.check()
    index.close()
    damage(path, statement)
    with pytest.raises(DamageError):
        index.check()


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 5000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_index_is_damage(path: Path, tmp_path: Path, content: bytes) -> None:
    path.write_bytes(content)
    index = Index(path, StoreLock(tmp_path))
    for work in (index.check_quickly, index.check, index.total, index.usage, index.holders):
        with pytest.raises(DamageError):
            work()
    with pytest.raises(DamageError):
        index.claim([b"k"], "h")


def test_a_missing_index_is_damage_and_does_not_come_back_empty(index: Index, path: Path) -> None:
    assert index.total() == 0
    path.unlink()
    with pytest.raises(DamageError, match="missing"):
        index.total()
    assert not path.exists()


def test_a_replaced_index_is_opened_anew(index: Index, path: Path) -> None:
    index.add([(sidecar(1, [1]), 5)])
    inode = index.inode
    fresh = path.with_name("fresh")
    Index.make(fresh, [(sidecar(2, [1]), 7)]).close()
    fresh.replace(path)
    assert index.total() == 7
    assert index.inode != inode


def test_a_large_index_is_checked_less_at_the_beginning(
    index: Index, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add([(sidecar(1, [1]), 5)])
    index.close()
    damage(path, "update shards set hits = 7")
    monkeypatch.setattr("cache.index.queries.QUICK", 0)
    index.check_quickly()
    monkeypatch.undo()
    with pytest.raises(DamageError, match="wrong about the use of shard"):
        index.check_quickly()


def test_what_the_system_refuses_is_a_sentence(
    index: Index, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.index.database.PATIENCE", 0.05)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("begin exclusive")
    with pytest.raises(StorageError, match="does not go on; end that process, and try again") as e:
        index.add([(sidecar(1, [1]), 5)])
    assert not isinstance(e.value, DamageError)
    db.execute("rollback")
    db.close()
    index.add([(sidecar(1, [1]), 5)])

    def refuse(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    index.close()
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", refuse)
        with pytest.raises(StorageError, match="check its permissions and the limit on open files"):
            index.total()
    assert index.total() == 5


def test_a_failed_change_changes_nothing(index: Index) -> None:
    index.add([(sidecar(1, [1]), 5)])
    with pytest.raises(AttributeError):
        index.add([(sidecar(2, [2]), 5), ("nonsense", 1)])  # type: ignore[list-item]
    assert index.total() == 5
    index.check()


def test_an_error_in_the_middle_of_a_question_holds_no_lock(
    index: Index, path: Path, tmp_path: Path
) -> None:
    """A traceback that somebody keeps keeps the cursor, too."""
    index.add([(sidecar(1, list(range(20))), 5)])
    database = Database(path, StoreLock(tmp_path))
    cursors = []

    def fail() -> None:
        with database.reading() as db:
            cursors.append(db.execute("select * from rows"))
            cursors[0].fetchone()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    other.execute("begin exclusive")
    other.execute("rollback")
    other.close()
    with database.reading() as db:
        assert db.execute("select count(*) from rows").fetchone()[0] >= 20
