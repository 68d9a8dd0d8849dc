"""Whatever bytes stand in a sidecar or a shard: they are read rightly, or refused in one way."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from cache import ActivationStore
from cache.errors import DamageError, StorageError
from cache.folder.recover import recover, recover_from_index
from cache.index.tables import describe
from cache.keys.space import DTYPES, SiteShape, Space
from cache.shards.layout import OFFSETS, PAGE, TOKENS, Layout
from cache.shards.reader import ShardReader
from cache.shards.sidecar import MOST_BYTES, Sidecar, seal_json
from cache.shards.writer import DATA, DESCRIPTION, ShardWriter, read_sidecar, shard_path
from tests.cache.children import SITES, end, start
from tests.cache.fake import FakeSource, prompts

ID = "0123456789abcdef-000001"
FAST = settings(max_examples=120, deadline=None, derandomize=True)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name not in (TOKENS, OFFSETS, "__metadata__") and "__padding" not in name
)
sites = st.lists(
    st.builds(SiteShape, names, st.lists(st.integers(1, 40), max_size=4).map(tuple)),
    min_size=1,
    max_size=4,
    unique_by=lambda site: site.name,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
spaces = st.builds(Space, texts, st.sampled_from(list(DTYPES)), texts, texts, texts)


@st.composite
def sidecars(draw: st.DrawFn) -> Sidecar:
    lengths = draw(st.lists(st.integers(1, 300), min_size=1, max_size=8))
    space, shapes = draw(spaces), tuple(draw(sites))
    layout = Layout.of(shapes, space.dtype, sum(lengths), len(lengths))
    keys = draw(st.lists(st.binary(min_size=16, max_size=16), unique=True, min_size=len(lengths)))
    blocks = random.Random(draw(st.integers(0, 9))).randbytes(16 * layout.n_blocks)
    created = draw(st.floats(allow_nan=False, allow_infinity=False))
    kept = b"".join(keys[: len(lengths)])
    return Sidecar(ID, space, shapes, np.array(lengths), kept, blocks, created)


VALID = Sidecar(
    ID,
    Space("m", "bfloat16", "t", "p", "l"),
    (SiteShape("a", (3,)),),
    np.array([2, 3]),
    bytes(range(32)),
    bytes(16),
    1.5,
)
BODY: dict[str, Any] = json.loads(VALID.encode())["body"]


def same(one: Sidecar, other: Sidecar) -> bool:
    arrays = np.array_equal(one.lengths, other.lengths)
    named = ("id", "space", "sites", "keys", "blocks", "created")
    labels = one.space.label == other.space.label
    return arrays and labels and all(getattr(one, n) == getattr(other, n) for n in named)


@pytest.mark.slow
@FAST
@given(sidecars())
def test_what_was_encoded_is_decoded(sidecar: Sidecar) -> None:
    assert same(Sidecar.decode(sidecar.encode()), sidecar)


@pytest.mark.slow
@FAST
@given(sidecars(), st.data())
def test_no_other_bytes_are_read_as_the_same(sidecar: Sidecar, data: st.DataObject) -> None:
    content = bytearray(sidecar.encode())
    place = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["replace", "insert", "delete", "cut", "repeat"]))
    byte = data.draw(st.integers(0, 255))
    if how == "replace":
        content[place] ^= byte or 1
    elif how == "insert":
        content.insert(place, byte)
    elif how == "delete":
        del content[place]
    elif how == "cut":
        del content[place:]
    else:
        content += content[place:]
    with pytest.raises(DamageError):
        Sidecar.decode(bytes(content))


@FAST
@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff\xfe{\x00}\x00")
@example(b"\xef\xbb\xbf" + VALID.encode())
@example(VALID.encode().decode().encode("utf-16"))
@example(VALID.encode().rstrip())
@example(b"[" * 200_000)
@example(b'{"body":' * 50_000)
@example(b'{"body":' + b"9" * 4301 + b"}")
@example(b'{"body":NaN,"xxh3":""}')
@example(b'{"body":{},"body":{},"xxh3":""}')
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(DamageError):
        Sidecar.decode(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@pytest.mark.slow
@FAST
@given(st.sampled_from(sorted(BODY)), json_values)
def test_a_sealed_sidecar_of_other_values_is_refused_or_consistent(name: str, value: Any) -> None:
    """Somebody may seal nonsense: the checksum is no protection against that."""
    try:
        content = seal_json({**BODY, name: value})
    except ValueError:
        return  # NaN has no JSON
    try:
        found = Sidecar.decode(content)
    except DamageError:
        return
    assert found.encode() == content
    assert len(found.keys) == 16 * found.n_rows
    assert len(found.blocks) == 16 * found.layout.n_blocks


@pytest.mark.parametrize(
    "change",
    [
        {"format": "obverse-activations-2"},
        {"id": "../../etc/passwd"},
        {"id": ID + "\n"},
        {"id": 5},
        {"space": {**BODY["space"], "dtype": "float64"}},
        {"space": {**BODY["space"], "dtype": ["float32"]}},
        {"space": {**BODY["space"], "model": "\ud800"}},
        {"space": {**BODY["space"], "more": ""}},
        {"sites": []},
        {"sites": [["a", [3]], ["a", [3]]]},
        {"sites": [["tokens", [3]]]},
        {"sites": [["__metadata__", [3]]]},
        {"sites": [["__padding.0", [3]]]},
        {"sites": [["\ud800", [3]]]},
        {"sites": [["a", [0]]]},
        {"sites": [["a", [-3]]]},
        {"sites": [["a", [True]]]},
        {"sites": [["a", [3.0]]]},
        {"sites": [["a", [1 << 33]]]},
        {"sites": [["a", [1 << 31, 1 << 31]]]},
        {"sites": [["a", [1, 1, 1, 1, 1]]]},
        {"lengths": []},
        {"lengths": [2]},
        {"lengths": [2, 0]},
        {"lengths": [2, -1]},
        {"lengths": [2, True]},
        {"lengths": [2, "3"]},
        {"lengths": [2, 1 << 63]},
        {"lengths": [2, 10**4000]},
        {"lengths": [1 << 40, 1 << 40]},
        {"keys": BODY["keys"] + "===="},
        {"keys": "ä"},
        {"keys": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
        {"blocks": ""},
        {"blocks": BODY["blocks"] * 2},
        {"created": "1.5"},
        {"created": None},
        {"created": 10**400},
        {"more": 1},
    ],
    ids=lambda change: str(change)[:40],
)
def test_nonsense_under_a_right_seal_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DamageError):
        Sidecar.decode(seal_json({**BODY, **change}))


def test_petabytes_are_claimed_and_none_is_taken(tmp_path: Path) -> None:
    """By a limit on the memory of a process, and by counting what Python takes."""
    claims = [
        {"lengths": [1 << 39, 1 << 39]},
        {"lengths": [1 << 39, 1 << 39], "sites": [["a", [1 << 32]]]},
        {"sites": [["a", [1 << 32]], ["b", [1 << 32]]]},
    ]
    contents = [seal_json({**BODY, **claim}) for claim in claims]
    huge = shard_path(tmp_path, ID, DESCRIPTION)
    huge.parent.mkdir(parents=True)
    huge.touch()
    os.truncate(huge, 1 << 43)
    long_header = tmp_path / "data"
    long_header.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")

    def refuse_all() -> None:
        for content in contents:
            with pytest.raises(DamageError):
                Sidecar.decode(content)

    def work() -> None:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (size + 3 * MOST_BYTES, -1))
        refuse_all()
        with pytest.raises(DamageError, match="larger than 16 MiB"):
            read_sidecar(tmp_path, ID)
        source = FakeSource()
        described = describe(VALID, 1)
        assert recover_from_index(long_header, source.space(), described, source) is None

    assert not end(start(work))
    tracemalloc.start()
    refuse_all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.slow
@FAST
@given(sites, st.sampled_from(list(DTYPES)), st.lists(st.integers(1, 50), min_size=1, max_size=5))
@example([SiteShape("a", ()), SiteShape('"\\\n', (1,))], "float32", [1])
def test_a_layout_is_what_safetensors_reads(
    shapes: list[SiteShape], dtype: str, lengths: list[int]
) -> None:
    layout = Layout.of(shapes, dtype, sum(lengths), len(lengths))
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.write(layout.header)
        file.truncate(layout.size)
        file.flush()
        with safe_open(file.name, "np" if dtype != "bfloat16" else "pt") as opened:
            for name, field in layout.fields.items():
                part = opened.get_slice(name)
                assert part.get_shape() == list(field.shape)
                assert part.get_dtype() == field.code
            others = set(opened.keys()) - set(layout.fields)
            assert all(name.startswith("__padding.") for name in others)
    begins = [field.begin for field in layout.fields.values()]
    assert all(begin % PAGE == 0 for begin in begins)
    assert max(field.end for field in layout.fields.values()) == layout.size


def shard(root: Path) -> Sidecar:
    """A committed shard of a few rows."""
    source = FakeSource()
    rows = source.rows(prompts(4, seed=1))
    with ShardWriter(root, ID, source.space(), source.sites(SITES), rows) as writer:
        for _, values in source.activations(rows, source.sites(SITES)):
            writer.append(values)
        return writer.commit()


@pytest.fixture(scope="module")
def root() -> Any:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        yield Path(name)


def read_all(root: Path, sidecar: Sidecar) -> None:
    """Everything that a reader can be asked."""
    reader = ShardReader(root, sidecar)
    for site in sidecar.sites:
        reader.tensor(site.name)
        reader.vector(site.name, int(sidecar.lengths.sum()) - 1)
        reader.vectors(site.name, [0, 1])
    for row in range(sidecar.n_rows):
        reader.ids(row)


@pytest.mark.slow
@settings(FAST, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), data=st.data())
def test_arbitrary_data_are_refused(root: Path, content: bytes, data: st.DataObject) -> None:
    sidecar = shard(root)
    path = shard_path(root, ID, DATA)
    right = path.read_bytes()
    read_all(root, sidecar)
    mutate: Callable[[], bytes] = data.draw(
        st.sampled_from(
            [
                lambda: content,
                lambda: content + right[len(content) :],
                lambda: right[: -len(content) or None] + content,
                lambda: right[:100] + content + right[100 + len(content) :],
                lambda: right + content,
                lambda: right[: len(right) - len(content)],
            ]
        )
    )
    path.write_bytes(mutate())
    if path.read_bytes() == right:
        return
    with pytest.raises(DamageError):
        read_all(root, sidecar)
    # What can still be told of the rows is right, whatever stands in the file.
    source = FakeSource()
    keys = sidecar.row_keys()
    for lost in (
        recover(path, sidecar),
        recover_from_index(path, sidecar.space, describe(sidecar, 1), source),
    ):
        if lost is not None:
            assert set(sidecar.space.keys(lost.rows)) <= set(keys)
            assert set(lost.sites) == set(sidecar.sites)


@pytest.mark.slow
@settings(FAST, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), extra=st.integers(0, 2))
def test_a_sidecar_that_claims_other_rows_reads_nothing(
    root: Path, lengths: list[int], extra: int
) -> None:
    """A right seal and right checksums of another layout: the header gives it away, or the size."""
    true = shard(root)
    shapes = (*true.sites, SiteShape("more", (extra + 1,)))[: len(true.sites) + extra // 2]
    keys = random.Random(len(lengths)).randbytes(16 * len(lengths))
    claim = Sidecar(ID, true.space, shapes, np.array(lengths), keys, true.blocks, 0.0)
    if claim.layout.header == true.layout.header:
        return
    assert claim.layout.n_blocks == true.layout.n_blocks == 1
    with pytest.raises(DamageError):
        read_all(root, claim)


@pytest.mark.parametrize("name", ["tokens", "offsets", "__metadata__", "__padding.3"])
def test_names_that_a_shard_needs_cannot_be_sites(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the names of sites"):
        Layout.of([SiteShape(name, (1,))], "float32", 1, 1)
    with pytest.raises(ValueError, match="cannot be the names of sites"):
        Layout.of([SiteShape("a", (1,))] * 2, "float32", 1, 1)


def test_rows_that_cannot_be_told_apart_are_not_written(tmp_path: Path) -> None:
    source = FakeSource()
    rows = source.rows([[1, 2], [1, 2]])
    for wrong in (rows, source.rows([[1], []])):
        with pytest.raises(ValueError, match="a row is there twice, or has no tokens"):
            ShardWriter(tmp_path, ID, source.space(), source.sites(SITES), wrong)
    assert list(tmp_path.iterdir()) == []


def test_what_is_asked_for_twice_is_stored_once(tmp_path: Path) -> None:
    source = FakeSource()
    with ActivationStore(tmp_path / "store") as store:
        found = store.get(source, [[1, 2], [3, 4], [1, 2]], ["z", "z.0", "resid_post"])
        assert set(found) == set(SITES)
        assert source.runs == 2
        assert store.verify().findings == ()
        for nothing in ([], [[]], [[1], []]):
            with pytest.raises(StorageError, match="leave empty ones out"):
                store.get(source, nothing, SITES)
        with pytest.raises(StorageError, match="name one, such as"):
            store.get(source, [[1]], [])


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    class Large(FakeSource):
        def activations(self, rows: Any, sites: Any) -> Any:
            for count, values in super().activations(rows, sites):
                yield count, {name: value * 1e6 for name, value in values.items()}

    with ActivationStore(tmp_path / "store") as store:
        with pytest.raises(StorageError, match=r"float16, which ends at 65,504; store them as"):
            store.get(Large(), [[1, 2]], SITES, dtype="float16")
        assert not list((tmp_path / "store" / "shards").glob("*/*"))
        found = store.get(Large(), [[1, 2]], SITES, dtype="bfloat16")["z.0"]
        assert math.isfinite(float(found.abs().max()))
        assert float(found.abs().max()) > 65504
