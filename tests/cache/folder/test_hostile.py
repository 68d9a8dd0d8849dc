"""A store from somebody else: nothing leads out of it, blocks, or ends in a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import ActivationStore
from cache.errors import DamageError, StorageError
from cache.folder.owners import Owners, born, place
from cache.folder.witness import Witness
from cache.shards.sidecar import Sidecar, seal_json
from tests.cache.children import SITES, check_values, quiet
from tests.cache.fake import prompts
from tests.cache.hostile import (
    COLUMNS,
    ROWS,
    SOURCE,
    VALUES,
    bodies,
    change_index,
    links_and_specials,
    use,
)

pytestmark = [pytest.mark.usefixtures("ends"), pytest.mark.slow]


@pytest.fixture
def path(in_memory: Path) -> Path:
    """A store with three shards, beside a folder of somebody's files."""
    with ActivationStore(in_memory / "store") as store:
        for begin in (0, 2, 4):
            store.get(SOURCE(), ROWS[begin : begin + 2], SITES)
    (in_memory / "precious" / "folder").mkdir(parents=True)
    for name in ("a.safetensors", "a.json", ".partial-b", "store.json", "folder/c"):
        (in_memory / "precious" / name).write_text("precious")
    return in_memory / "store"


@pytest.fixture(autouse=True)
def _nothing_outside_changes(path: Path) -> Iterator[None]:
    def outside() -> dict[str, Any]:
        found = sorted((path.parent / "precious").rglob("*"))
        return {str(f): f.read_bytes() if f.is_file() else None for f in found}

    before = outside()
    yield
    assert outside() == before
    assert {entry.name for entry in path.parent.iterdir()} <= {"store", "precious", "elsewhere"}


def test_a_folder_of_the_store_that_is_a_link_is_refused(path: Path) -> None:
    outside = path.parent / "precious"
    for name in ("shards", "quarantine", "owners", "witnesses"):
        folder = path / name
        moved = path.parent / "elsewhere"
        if folder.exists():
            folder.rename(moved)
        folder.symlink_to(outside)
        with pytest.raises(StorageError, match=rf"/{name}' is a symbolic link, which is not foll"):
            ActivationStore(path)
        folder.unlink()
        if moved.exists():
            moved.rename(folder)
    assert not use(path)


def test_a_folder_of_shards_that_is_a_link_is_refused(path: Path) -> None:
    part = next((path / "shards").iterdir())
    shutil_target = path.parent / "elsewhere"
    part.rename(shutil_target)
    before = {f.name: f.read_bytes() for f in shutil_target.iterdir()}
    part.symlink_to(shutil_target)
    refused = use(path)
    assert refused
    assert all("is a symbolic link" in text for text in refused)
    assert {f.name: f.read_bytes() for f in shutil_target.iterdir()} == before


def test_a_link_that_comes_while_a_store_is_open_leads_nowhere(path: Path) -> None:
    with ActivationStore(path, budget="20kB") as store, quiet():
        shards = path / "shards"
        shards.rename(path.parent / "elsewhere")
        before = sorted((path.parent / "elsewhere").rglob("*"))
        shards.symlink_to(path.parent / "elsewhere")
        (path / "quarantine").symlink_to(path.parent / "precious")
        for work in (
            store.gc,
            store.verify,
            lambda: store.get(SOURCE(), prompts(2, seed=11), "z.0"),
            lambda: store.remove(SOURCE().space()),
        ):
            with pytest.raises(StorageError, match="is a symbolic link"):
                work()
        assert sorted((path.parent / "elsewhere").rglob("*")) == before


def test_the_store_itself_may_be_a_link(path: Path) -> None:
    link = path.parent / "elsewhere"
    link.symlink_to(path)
    source = SOURCE()
    with ActivationStore(link) as store:
        check_values(store, ROWS, source, SITES)
        assert not store.gc()
    assert source.runs == 0


@pytest.mark.parametrize(
    "kind",
    ["store.json", "store.lock", "index.sqlite", "index.sqlite-journal", "index.sqlite-wal"],
)
def test_what_stands_where_a_file_of_the_store_belongs(path: Path, kind: str) -> None:
    for put in links_and_specials(path):
        place = path / kind
        place.unlink(missing_ok=True)
        put(place)
        refused = use(path)
        if place.is_dir() and not place.is_symlink():
            assert refused
            place.rmdir()
        elif kind.startswith("index"):
            # It is a convenience, and made anew.
            assert not refused
        else:
            assert "symbolic link" in refused[0] or "regular file" in refused[0]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_what_stands_where_a_shard_belongs_is_damage(path: Path, suffix: str) -> None:
    for put in links_and_specials(path):
        place = sorted(path.glob(f"shards/*/*{suffix}"))[0]
        place.unlink()
        put(place)
        source = SOURCE()
        with quiet(), ActivationStore(path) as store:
            check_values(store, ROWS, source, SITES)
            store.verify(source)
            store.gc()
            assert not store.verify().findings
        assert 0 < source.runs <= 2 * len(SITES)
        assert not place.is_symlink()


def test_what_is_named_like_a_leftover_is_not_followed(path: Path) -> None:
    token = "0123456789abcdef"
    names = [f".partial-{token}-000001.safetensors", f".partial-{token}-index.sqlite", ".partial-x"]
    part = next((path / "shards").iterdir())
    for put in links_and_specials(path):
        for folder in (path, part):
            for name in names:
                put(folder / name)
        put(path / ".partial-x-store.json")
        (path / "owners").mkdir(exist_ok=True)
        put(path / "owners" / f"{token}.{place()}.{'9' * 10}.5")
        (path / "quarantine").mkdir(exist_ok=True)
        put(path / "quarantine" / "a.safetensors")
        (path / "witnesses").mkdir(exist_ok=True)
        put(path / "witnesses" / f"{'a' * 32}.json")
        with quiet(), ActivationStore(path) as store:
            source = SOURCE()
            check_values(store, ROWS, source, SITES)
            assert source.runs == 0
            store.gc()
        left = [p for p in path.rglob("*") if "partial" in p.name or p.name.startswith(token)]
        for folder in [*left, *path.glob("quarantine/*"), *path.glob("witnesses/*")]:
            # Folders, which are not ours, are left alone; of everything else nothing is.
            if folder.exists():
                assert folder.is_dir()
                assert not folder.is_symlink()
                folder.rmdir()


def test_a_marker_of_any_size_is_read_to_its_bound(path: Path) -> None:
    os.truncate(path / "store.json", 1 << 32)
    assert not use(path)
    assert (path / "store.json").stat().st_size < 4096


def test_a_process_number_that_is_none_is_nobody() -> None:
    assert born(9_999_999_999) == ""
    assert not Owners(Path("/nowhere")).alive()


# -- the index --------------------------------------------------------------------------------


@pytest.mark.parametrize("table", COLUMNS)
@pytest.mark.parametrize("is_open", [False, True])
def test_a_value_of_any_type_in_the_index(path: Path, table: str, is_open: bool) -> None:
    draw = random.Random(table)
    whole = (path / "index.sqlite").read_bytes()
    for column in COLUMNS[table]:
        for value in draw.sample(VALUES, 2 if is_open else 1):
            (path / "index.sqlite").write_bytes(whole)
            order = f"update or replace {table} set {column} = {value}"
            one = f"{order} where rowid = 2" if table == "shards" else order
            if not is_open:
                change_index(path, draw.choice([order, one]))
                use(path)
                with quiet(), ActivationStore(path) as store:
                    check_values(store, ROWS, SOURCE(), SITES)
                continue
            with quiet(), ActivationStore(path, budget="1MB") as store:
                check_values(store, ROWS[:2], SOURCE(), SITES)
                change_index(path, draw.choice([order, one]))
                for work in (
                    store.size,
                    store.usage,
                    lambda: [*store.stream("fake", SITES, batch_size=4, pool=4000)],
                    lambda: store.dataset("fake", "z.0", keys=store.keys("fake", ROWS))[0],
                    lambda: check_values(store, ROWS, SOURCE(), SITES),
                    store.gc,
                    lambda: check_values(store, ROWS, SOURCE(), SITES),
                ):
                    with contextlib.suppress(StorageError):
                        work()
                store.verify()
                check_values(store, ROWS, SOURCE(), SITES)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_shard_whose_name_leads_elsewhere_is_not_removed_there(path: Path, is_open: bool) -> None:
    (part,) = {p.parent for p in [next(path.glob("shards/*/*.json"))]}
    for name in ("../../../precious/a", str(path.parent / "precious" / "a"), "a", "../" * 3 + "x"):
        (part / name).parent.resolve()
        change = f"update shards set id = '{name}', used = 0 where number = 1"
        if not is_open:
            change_index(path, change)
        with quiet(), ActivationStore(path, budget="25kB") as store:
            if is_open:
                change_index(path, change)
            store.gc()
            store.remove(SOURCE().space())
            store.get(SOURCE(), ROWS[:2], SITES)


def test_a_space_that_is_described_in_another_way(path: Path) -> None:
    for described in ("[" * 100_000, "[]", "{}", '{"model": 1}', "nan", '{"model":1e999}'):
        change_index(path, "update spaces set described = '" + described + "'")
        with quiet(), ActivationStore(path) as store:
            change_index(path, "update spaces set described = '" + described + "'")
            assert [space.label for space in store.spaces()] == ["fake"]
            assert len(store.usage()) == len(SITES)


def test_definitions_that_were_not_made_here_are_not_run(path: Path) -> None:
    with ActivationStore(path) as store:
        store.size()
        change_index(
            path,
            "create trigger t after update on shards begin delete from rows; end",
            "create view v as select 1",
        )
        with quiet():
            store.close()
            store.usage()
        check_values(store, ROWS, SOURCE(), SITES)
    with contextlib.closing(sqlite3.connect(path / "index.sqlite")) as db:
        assert not db.execute(
            "select name from sqlite_master where type != 'table' and sql like '%create trigger%'"
        ).fetchall()


def test_a_journal_that_names_another_file_does_not_delete_it(path: Path) -> None:
    """SQLite deletes the file that a journal names as the one above it."""
    victim = path.parent / "precious" / "a.json"
    name = str(victim).encode()
    size = (path / "index.sqlite").stat().st_size // 4096
    header = struct.pack(">8sIIIII", bytes.fromhex("d9d505f920a163d7"), 0, 1, size, 512, 4096)
    tail = struct.pack(">I", (1 << 30) // 4096 + 1) + name
    tail += struct.pack(">II", len(name), sum(name)) + bytes.fromhex("d9d505f920a163d7")
    (path / "index.sqlite-journal").write_bytes(header.ljust(512, b"\0") + tail)
    assert not use(path)
    assert victim.read_text() == "precious"


# -- sidecars and cursors ---------------------------------------------------------------------


def test_a_sidecar_that_was_sealed_again_is_read_strictly(path: Path) -> None:
    content = next(path.glob("shards/*/*.json")).read_bytes()
    body = json.loads(content)["body"]
    right = Sidecar.decode(content)
    for changed in bodies(body):
        try:
            sealed = seal_json(changed)
        except ValueError:
            continue
        if sealed == content:
            continue
        try:
            found = Sidecar.decode(sealed)
        except DamageError:
            continue
        # What may be said is that other rows, or another site, stand there.
        assert found.layout.size > 0
        assert len(found.blocks) == len(right.blocks)


def test_a_sidecar_that_is_no_json_of_ours(path: Path) -> None:
    content = next(path.glob("shards/*/*.json")).read_bytes()
    for wrong in (
        b"[" * 1_000_000,
        b'{"body":' * 500_000,
        content.replace(b'"body":{', b'"body":{"id":"x",', 1),
        content.replace(b'{"body"', b'{"body":1,"body"', 1),
        b'{"body":NaN,"xxh3":""}',
        b'{"body":' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b"",
        b"{}",
        b"[]",
        b"1",
        bytes(17 << 20),
    ):
        with pytest.raises(DamageError):
            Sidecar.decode(wrong)


def test_a_sidecar_that_claims_more_than_its_file_has(path: Path) -> None:
    """Also where the index was made from it."""
    sidecar = next(path.glob("shards/*/*.json"))
    body = json.loads(sidecar.read_bytes())["body"]
    body["lengths"] = [5, 1 << 38]
    sidecar.write_bytes(seal_json(body))
    (path / "index.sqlite").unlink()
    assert all("fit" in text or "damaged" in text for text in use(path))


def test_an_index_that_claims_more_tokens_than_there_are_reserves_nothing(path: Path) -> None:
    with quiet(), ActivationStore(path) as store:
        change_index(path, "update shards set tokens = 1 << 55, rows = 1 << 54")
        for positions in (None, slice(1, None)):
            with pytest.raises(StorageError, match="does not fit shard"):
                store.stream("fake", SITES, batch_size=4, pool=4000, positions=positions)
            with pytest.raises(StorageError, match="does not fit shard"):
                store.dataset("fake", "z.0", keys=store.keys("fake", ROWS))


def test_a_cursor_of_any_type_is_a_sentence(path: Path) -> None:
    with ActivationStore(path) as store:
        stream = store.stream("fake", "z.0", batch_size=3)
        cursor = stream.state_dict()
        wrong: list[Any] = [None, [], "x", 5, {}, [cursor]]
        for key in cursor:
            for value in (None, "x", -1, 1 << 70, 1.5, [], {}, float("nan"), True):
                wrong.append({**cursor, key: value})
            wrong.append({name: value for name, value in cursor.items() if name != key})
        for state in wrong:
            for one in (stream, stream.loader(0)):
                with pytest.raises(StorageError):
                    one.load_state_dict(state)
        stream.load_state_dict(cursor)
        assert stream.epoch == 0


def test_a_witness_that_any_model_would_agree_with_is_none() -> None:
    space = SOURCE().space()
    witness = Witness(np.ones((2, 3, 4), dtype=np.float32), 0.25)
    content = witness.encode(space)
    assert Witness.decode(content, space).agrees(witness)
    body = json.loads(content)["body"]
    wrong: list[dict[str, Any]] = [
        {"tolerance": value} for value in (1e300, 1, -0.5, None, "0.1", [0.1], True)
    ]
    wrong += [{"shape": value} for value in ([-1, 3, 4], [24], [1 << 70, 1, 1], [2.0, 3, 4], "234")]
    wrong += [{"values": value} for value in ("", "!", 5, None)]
    for change in wrong:
        with pytest.raises(DamageError):
            Witness.decode(seal_json({**body, **change}), space)


def test_a_writer_whose_heartbeat_lies_in_the_future_holds_nobody_up(path: Path) -> None:
    """Its leases, and so whoever waits for these rows, would never end."""
    token = "0123456789abcdef"
    (path / "owners").mkdir(exist_ok=True)
    owner = path / "owners" / f"{token}.{'0' * 12}.1.1"
    owner.touch()
    os.utime(owner, (1 << 33, 1 << 33))
    rows = prompts(2, seed=12)
    with ActivationStore(path) as store, quiet():
        keys = [key.hex() for key in store.keys(SOURCE(), rows)]
        change_index(path, *(f"insert into leases values (x'{k}', '{token}.0')" for k in keys))
        check_values(store, rows, SOURCE(), SITES)
    assert not owner.exists()
