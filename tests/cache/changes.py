"""Ways to change a file so that it is damaged."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path


def flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def truncate(file: Path, draw: random.Random) -> None:
    os.truncate(file, draw.randrange(file.stat().st_size))


def extend(file: Path, draw: random.Random) -> None:
    with open(file, "ab") as opened:
        opened.write(draw.randbytes(draw.choice([1, 16, 4096])))


def zero_a_page(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    page = draw.randrange(-(-len(content) // 4096)) * 4096
    content[page : page + 4096] = bytes(len(content[page : page + 4096]))
    file.write_bytes(content)


def repeat_a_part(file: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    place = draw.randrange(len(content))
    file.write_bytes(content[:place] + content[place // 2 :])


def delete(file: Path, draw: random.Random) -> None:
    file.unlink()


def swap(file: Path, draw: random.Random) -> None:
    """Exchange it for one of the same kind."""
    others = [other for other in file.parent.parent.glob(f"*/*{file.suffix}") if other != file]
    other = draw.choice(sorted(others))
    mine, its = file.read_bytes(), other.read_bytes()
    file.write_bytes(its)
    other.write_bytes(mine)


CHANGES: list[Callable[[Path, random.Random], None]] = [
    *[flip] * 5,
    *[truncate] * 2,
    extend,
    zero_a_page,
    repeat_a_part,
    delete,
    swap,
]
