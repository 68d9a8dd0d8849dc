"""The stores of activations that are near: what they hold, and whether files and index agree."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app.screen import parts
from app.text import markup
from cache.errors import ObverseError
from cache.files import is_real
from cache.sizes import show_size
from experiments.numbers import count

if TYPE_CHECKING:
    from cache.index.queries import Usage
    from cache.store import ActivationStore

_DEPTH, _MOST_FOLDERS, _MOST_STORES = 3, 2000, 20
_SECONDS = 20  # that what was seen is told again


@dataclass(frozen=True)
class Seen:
    """What one look at a store has shown.

    Attributes:
        path: its folder.
        size: bytes of its activations.
        holds: a line for each model and kind of site.
        wrong: what is not as it should be; empty where nothing was found.
    """

    path: str
    size: int
    holds: tuple[str, ...]
    wrong: tuple[str, ...]


def show(root: Path) -> None:
    """Every store below the root, and the one that commands use when none is named."""
    parts.html(
        markup.heading(
            "Stores of activations",
            "A quick look: whether the index and the files agree. "
            "obverse cache verify compares every byte.",
        )
    )
    paths = find(root)
    if not paths:
        parts.html(
            markup.hint(f"There is none in {root}. Fill one with obverse harvest --cache FOLDER.")
        )
    for path in paths:
        seen = _look(str(path))
        state = "not intact" if seen.wrong else "index and files agree"
        parts.html(markup.item(seen.path, f"{show_size(seen.size)} · {state}", seen.holds))
        for problem in seen.wrong:
            parts.warning(problem)


def find(root: Path) -> list[Path]:
    """The stores at most three folders below the root, no link followed; and the usual one."""
    from cache.store import ENVIRONMENT

    usual = [Path(os.environ.get(ENVIRONMENT) or "activations")]
    found = {path.resolve(): path for path in (*_below(root, _DEPTH), *usual) if _is_store(path)}
    return list(found.values())[:_MOST_STORES]


def _below(root: Path, depth: int) -> Iterator[Path]:
    level, seen = [root], 0
    for _ in range(depth + 1):
        yield from level
        deeper: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    inner = sorted(one.path for one in entries if one.is_dir(follow_symlinks=False))
            except OSError:
                continue
            deeper += map(Path, inner)
        seen += len(deeper)
        level = deeper[: max(0, _MOST_FOLDERS - seen + len(deeper))]


def _is_store(folder: Path) -> bool:
    from cache.folder.marker import MARKER

    return is_real(folder / MARKER)


def look(path: str) -> Seen:
    """What is in a store. What cannot be read is told, and never raised."""
    from cache.store import ActivationStore

    try:
        with warnings.catch_warnings(record=True) as told, ActivationStore(path) as store:
            warnings.simplefilter("always")
            usage, size = store.usage(), store.size()
            wrong = [str(one.message) for one in told] + _disagreeing(store)
    except (ObverseError, OSError) as error:
        return Seen(path, 0, (), (str(error),))
    return Seen(path, size, tuple(_holds(usage)), tuple(wrong))


def _disagreeing(store: ActivationStore) -> list[str]:
    from cache.folder.listing import committed
    from cache.index.queries import Index
    from cache.shards.writer import DATA, shard_path

    known, there = set(store.folder.catalogue.ask(Index.shards)), set(committed(store.path))
    lost = {one for one in known if not is_real(shard_path(store.path, one, DATA))}
    said = []
    if lost | (known - there):
        n = len(lost | (known - there))
        said.append(f"{n:,} of {len(known):,} files of '{store.path}' are missing.")
    if there - known:
        said.append(f"{len(there - known):,} files of '{store.path}' are not in its index.")
    return said


def _holds(usage: list[Usage]) -> Iterator[str]:
    def kind(entry: Usage) -> tuple[str, str, str]:
        return entry.space.label, entry.space.dtype, entry.site.partition(".")[0]

    for (label, dtype, site), entries in groupby(sorted(usage, key=kind), kind):
        some = list(entries)
        size, tokens = sum(one.bytes for one in some), max(one.tokens for one in some)
        layers = f" at {len(some)} layers" if len(some) > 1 else ""
        yield f"{label}: {site}{layers}, {count(tokens)} tokens, {dtype}, {show_size(size)}"


_look: Callable[[str], Seen] = st.cache_data(
    look, ttl=_SECONDS, max_entries=_MOST_STORES, show_spinner=False
)
