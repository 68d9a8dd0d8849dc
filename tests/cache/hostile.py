"""What somebody may put into a store, and everything that can be done with one."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cache import ActivationStore
from cache.errors import StorageError
from tests.cache.children import SITES, check_values, quiet
from tests.cache.fake import FakeSource, prompts

ROWS = prompts(6, seed=4)
SOURCE = FakeSource


def use(path: Path) -> list[str]:
    """Do everything with a store; returns what it refused, each in one sentence.

    What it gives is right.
    """
    refused = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except StorageError as error:
            text = str(error)
            assert text.endswith(".")
            assert "\n" not in text
            refused.append(text)

    def stream(store: ActivationStore) -> None:
        # Only what was stored before is read, so that nothing is checked but that it ends.
        for _ in store.stream("fake", "resid_post.0", batch_size=3, pool=9000, info=True):
            pass
        dataset = store.dataset("fake", "z.0", positions=slice(1, None))
        _ = dataset[0], list(dataset.rows())

    def everything() -> None:
        with ActivationStore(path, budget="1MB") as store:
            attempt(lambda: stream(store))
            attempt(store.usage)
            attempt(store.spaces)
            attempt(lambda: check_values(store, ROWS, SOURCE(), SITES))
            attempt(lambda: store.verify(SOURCE()))
            attempt(store.gc)
            attempt(lambda: store.keys("fake", ROWS))
            attempt(lambda: store.remove(SOURCE().space(), ["z.0"]))
        with ActivationStore(path, budget="20kB") as store:
            attempt(store.gc)
        with ActivationStore(path) as store:
            attempt(lambda: check_values(store, ROWS, SOURCE(), SITES))

    with quiet():
        attempt(everything)
    return refused


def links_and_specials(path: Path) -> list[Callable[[Path], object]]:
    """What may stand where a file belongs."""
    outside = path.parent / "precious"

    def bound(place: Path) -> None:
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(place.parent):
            made.bind(place.name)

    return [
        lambda place: place.symlink_to(outside / "a.json"),
        lambda place: place.symlink_to(outside / "folder"),
        lambda place: place.symlink_to(outside / "missing"),
        lambda place: place.symlink_to("/dev/zero"),
        lambda place: place.symlink_to(place),
        os.mkfifo,
        bound,
        Path.mkdir,
    ]


VALUES = [
    "'abc'",
    "x'00ff'",
    "1e300",
    "-7",
    "9223372036854775807",
    "''",
    "0.5",
    "zeroblob(20000000)",
]
COLUMNS = {
    "shards": [
        "number",
        "id",
        "space",
        "content",
        "bytes",
        "rows",
        "tokens",
        "created",
        "used",
        "hits",
        "seal",
    ],
    "sites": ["shard", "site", "bytes"],
    "rows": ["key", "shard", "row"],
    "spaces": ["id", "described", "seal"],
}


def change_index(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path / "index.sqlite")
    # Of some columns SQLite itself sees to the type.
    with contextlib.suppress(sqlite3.IntegrityError), db:
        for statement in statements:
            db.execute(statement)
    db.close()


def bodies(body: dict[str, Any]) -> Iterator[Any]:
    """A sidecar's content with one thing changed, sealed again by whoever changed it."""
    wrong = [None, True, -1, 0, 1 << 80, -(1 << 80), 1e308, "", "x", [], {}, [[]], [None], ["x", 1]]
    for key in body:
        for value in wrong:
            yield {**body, key: value}
        yield {name: value for name, value in body.items() if name != key}
    for width in ([0], [-1], [1 << 60], [1 << 32] * 4, [2] * 100_000, [1.0], "24"):
        yield {**body, "sites": [["resid_post.0", width]]}
    for lengths in ([1 << 40] * 2, [0, 1], [1.5, 2], [1 << 62, 1 << 62], [True, True]):
        yield {**body, "lengths": lengths}
    for name in ("tokens", "offsets", "__metadata__", "__padding.1", "\ud800", "../../x"):
        yield {**body, "sites": [[name, [24]]]}
    yield {**body, "sites": body["sites"] * 2}
    yield {**body, "space": {**body["space"], "dtype": "float64"}}
    yield {**body, "space": {**body["space"], "label": ["x"]}}
    yield {**body, "id": "../../../precious/a"}
    yield [body]
    yield "body"
