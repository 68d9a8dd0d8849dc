"""Files written in pieces: what stands in them, and their checksums, past the page cache too."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from cache.shards import output
from cache.shards.layout import BLOCK, PAGE
from cache.shards.output import Output


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what is written past the page cache, which small pieces are here, too."""
    monkeypatch.setattr(output, "WORTHWHILE", PAGE)
    monkeypatch.setattr(output, "STAGED", 16 * PAGE)
    sizes: list[int] = []
    write = output.Direct.write

    def noted(self: output.Direct, content: memoryview, begin: int) -> int:
        sizes.append(write(self, content, begin))
        return sizes[-1]

    monkeypatch.setattr(output.Direct, "write", noted)
    return sizes


def pieces(size: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Where the pieces of a file begin and end: of very different lengths."""
    borders = {0, size, *rng.integers(0, size, 12).tolist()}
    borders |= {int(at) // PAGE * PAGE for at in rng.integers(0, size, 12)}
    at = sorted(borders)
    return list(itertools.pairwise(at))


def check(path: Path, content: bytes, order: list[tuple[int, int]], *, direct: bool) -> None:
    file = Output(path, len(content), direct=direct)
    for begin, end in order:
        file.write(content[begin:end], begin)
    found = file.sync()
    file.close()
    assert path.read_bytes() == content
    blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    assert found == b"".join(xxhash.xxh3_128_digest(block) for block in blocks)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("order", ["forwards", "backwards", "mixed"])
def test_what_is_written_stands_there(
    tmp_path: Path, past: list[int], direct: bool, seed: int, order: str
) -> None:
    rng = np.random.default_rng(seed)
    content = rng.bytes(int(rng.integers(2 * BLOCK, 4 * BLOCK)))
    parts = pieces(len(content), rng)
    if order == "backwards":
        parts.reverse()
    elif order == "mixed":
        rng.shuffle(parts)
    check(tmp_path / "file", content, parts, direct=direct)
    if not direct:
        assert past == []
    elif hasattr(os, "O_DIRECT"):
        assert sum(past) > len(content) / 2


def test_what_is_not_written_is_zero_and_counts(tmp_path: Path, past: list[int]) -> None:
    file = Output(tmp_path / "file", 2 * BLOCK + 5, direct=True)
    file.write(b"\1" * BLOCK, 100)
    found = file.sync()
    file.close()
    content = (tmp_path / "file").read_bytes()
    assert content == bytes(100) + b"\1" * BLOCK + bytes(BLOCK - 95)
    assert found[:16] == xxhash.xxh3_128_digest(content[:BLOCK])


@pytest.mark.parametrize("how", ["refused", "short", "refused later", "cannot be opened"])
def test_where_the_page_cache_cannot_be_passed(
    tmp_path: Path, past: list[int], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    rng = np.random.default_rng(0)
    content = rng.bytes(3 * BLOCK + 17)
    real_write, real_open, calls = os.pwrite, os.open, 0

    def pwrite(descriptor: int, data: Any, place: int) -> int:
        nonlocal calls
        if not is_direct(descriptor):
            return real_write(descriptor, data, place)
        calls += 1
        if how == "short":
            return real_write(descriptor, data[:PAGE], place)
        if how == "refused" or calls > 2:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(descriptor, data, place)

    def open_(path: Any, flags: int, *args: Any) -> int:
        if how == "cannot be opened" and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, *args)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "open", open_)
    check(tmp_path / "file", content, pieces(len(content), rng), direct=True)
    assert calls > 0 or how == "cannot be opened"


def is_direct(descriptor: int) -> bool:
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags:"))
    return bool(int(flags.split()[1], 8) & os.O_DIRECT)


def test_an_error_of_the_disk_is_told(
    tmp_path: Path, past: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Output(tmp_path / "file", BLOCK, direct=True)

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match="Input/output"):
        file.write(bytes(BLOCK), 0)
    file.close()


def test_nothing_is_left_where_there_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"too large|No space"):
        Output(tmp_path / "file", 1 << 60)
    assert list(tmp_path.iterdir()) == []
