"""Processes that die: forked children, killed where a test wants it, and what they must leave."""

from __future__ import annotations

import builtins
import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cache import ActivationStore
from cache.index.queries import Index
from cache.shards.layout import PAGE
from cache.shards.writer import read_sidecar
from tests.cache.fake import WIDTHS, FakeSource, expected

SITES = list(WIDTHS)
_PATIENCE = 60
_KILLED = 8  # one step of so many


def start(work: Callable[[], object]) -> int:
    """Run `work` in a child; returns its process id. The child exits with 0 if it ends well."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(_PATIENCE)  # a child that hangs must not outlive the test
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def end(child: int) -> bool:
    """Wait for a child; whether it was killed. Any other bad end fails the test."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, f"the child ended with {status:#x}; see above"
    return False


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    end(child)


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies at its `step`-th change of the disk; whether it came to it.

    A write dies halfway, everything else before it is done.
    """

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(_PATIENCE)

    def dying() -> None:
        _halt(die, at=step)
        work()

    return end(start(dying))


def every_step(
    work: Callable[[], object], prepare: Callable[[], object], path: Path
) -> Iterator[int]:
    """Put at `path` what `work` leaves if it is killed at each of its steps; yields the numbers.

    At some it is killed, after `prepare`. What it would leave at the others is copied while it is
    stopped there, which on the disk is the same: one child does for all of them.
    """
    copies = path.with_name("steps")
    prepare()
    killed = 0
    for step in range(1, 1 + _copy_every_step(work, path, copies)):
        if step % _KILLED == 1:
            prepare()
            killed += killed_at(step, work)
        else:
            shutil.rmtree(path, ignore_errors=True)
            if (copies / str(step)).exists():
                (copies / str(step)).rename(path)
        yield step
    assert killed


def _copy_every_step(work: Callable[[], object], path: Path, copies: Path) -> int:
    """Copy what is at `path` at each step of `work`, to its number; returns how many there are."""

    def stop() -> None:
        # This thread, so that it goes no further; the others stop with it.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def stopping() -> None:
        _halt(stop)
        work()

    child, steps = start(stopping), 0
    try:
        _, status = os.waitpid(child, os.WUNTRACED)
        while os.WIFSTOPPED(status):
            steps += 1
            if path.exists():
                shutil.copytree(path, copies / str(steps))
            os.kill(child, signal.SIGCONT)
            _, status = os.waitpid(child, os.WUNTRACED)
    except BaseException:
        kill(child)
        raise
    assert status == 0, f"the child ended with {status:#x}; see above"
    return steps


def _halt(halt: Callable[[], object], at: int | None = None) -> None:
    """Call `halt` at that change of the disk, or at each: halfway through a write, else before."""
    numbers = itertools.count(1)

    def tick(half: Callable[[], object] = lambda: None) -> bool:
        """Whether the first half was written."""
        if at not in (None, next(numbers)):
            return False
        half()
        halt()
        return True

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick()
            return function(*args, **kwargs)

        return call

    for name in ("replace", "unlink", "mkdir", "fsync", "posix_fallocate", "utime"):
        setattr(os, name, counted(getattr(os, name)))
    real_os_open, real_pwrite = os.open, os.pwrite

    def os_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and not str(path).endswith("store.lock"):
            tick()
        return real_os_open(path, flags, *args, **kwargs)

    os.open = os_open

    def pwrite(descriptor: int, data: Any, place: int) -> int:
        half = len(data) // 2 // PAGE * PAGE or len(data) // 2
        # Past the page cache the system takes whole pages only.
        tick(lambda: real_pwrite(descriptor, data[:half], place))
        return real_pwrite(descriptor, data, place)

    os.pwrite = pwrite
    real_open = builtins.open

    class Writing:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> Writing:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes) -> None:
            half = len(data) // 2
            written = tick(lambda: (self._file.write(data[:half]), self._file.flush()))
            self._file.write(data[half:] if written else data)

    def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        opened = real_open(file, mode, *args, **kwargs)
        return Writing(opened) if mode == "wb" else opened

    builtins.open = open_

    real_connect = sqlite3.connect

    def connect(*args: Any, factory: Any = sqlite3.Connection, **kwargs: Any) -> sqlite3.Connection:
        class Connection(factory):
            def execute(self, sql: str, *args: Any) -> Any:
                # Before a commit much of the journal is written; what comes before is in memory.
                if sql == "commit":
                    tick()
                done = super().execute(sql, *args)
                if sql == "commit":
                    tick()
                return done

        return real_connect(*args, factory=Connection, **kwargs)

    sqlite3.connect = connect


def check_values(
    store: ActivationStore, rows: list[list[int]], source: FakeSource, sites: Sequence[str] = SITES
) -> None:
    """Every value that the store gives is right."""
    found = store.get(source, rows, sites)
    for site in source.sites(sites):
        for number, ids in enumerate(source.rows(rows)):
            right = expected(source.model, ids, site)
            assert torch.equal(found[site.name][number, : len(ids)], right)


def check_left(
    path: Path, rows: list[list[int]], *, findings: str | None = None, also: Collection[str] = ()
) -> ActivationStore:
    """What must hold of a store after its processes died; returns it, closed.

    Opening it loses no sidecar; everything committed is found by the index and right; nothing
    else is left in the folder; `verify` finds nothing.

    Args:
        rows: that may be stored.
        findings: a part of what `verify` may find all the same.
        also: folders that may be there.
    """
    before = sidecars(path)
    source = FakeSource()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = ActivationStore(path)
        assert before <= sidecars(path), "opening lost what was committed"
        assert store.folder.catalogue.ask(Index.holders) == set(), "a lease has leaked"
        assert set(store.folder.catalogue.ask(Index.shards)) == {
            name[:-5] for name in sidecars(path)
        }
        for name in sidecars(path):
            sidecar = read_sidecar(path, name[:-5])
            names = [site.name for site in sidecar.sites]
            found = store.folder.catalogue.find(sidecar.row_keys(), names)
            assert all(len(of_site) == sidecar.n_rows for of_site in found.values())
        for finding in store.verify().findings:
            assert findings is not None, finding.message
            assert findings in finding.message
        keys = source.space().keys(source.rows(rows))
        stored = store.folder.catalogue.find(keys, SITES)
        for site in SITES:
            kept = [row for row, key in zip(rows, keys, strict=True) if key in stored[site]]
            if kept:
                check_values(store, kept, source, [site])
        assert source.runs == 0
        store.close()
    check_tidy(path, also)
    return store


def sidecars(path: Path) -> set[str]:
    """Names of the sidecars that are there."""
    return {found.name for found in path.glob("shards/*/[0-9a-f]*.json")}


def check_tidy(path: Path, also: Collection[str] = ()) -> None:
    """Only what belongs into a store that nobody uses is in its folder."""
    found = {str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file()}
    kept = {name for name in found if name.partition("/")[0] not in also}
    expected_names = {"store.json", "index.sqlite", "store.lock"}
    for name in sidecars(path):
        (place,) = path.glob(f"shards/*/{name}")
        stem = str(place.relative_to(path)).removesuffix(".json")
        expected_names |= {f"{stem}.json", f"{stem}.safetensors"}
    assert kept == expected_names, kept ^ expected_names


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that a test brings about on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
