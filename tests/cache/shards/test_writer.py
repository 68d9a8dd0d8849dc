"""A shard that is given up while a thread still writes it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cache.errors import StorageError
from cache.shards.writer import ShardWriter
from tests.cache.fake import FakeSource, prompts

ID = "0123456789abcdef-000001"
SITES = ("resid_post", "q")


@pytest.mark.parametrize("direct", [False, True])
def test_what_is_being_written_ends_before_the_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    source = FakeSource(batch=400)
    rows = source.rows(prompts(400, seed=1))
    sites = source.sites(SITES)
    ((_, values),) = source.activations(rows, sites)
    names = sorted(values)
    begun, go_on = threading.Event(), threading.Event()
    written: list[int] = []

    def pwrite(file: int, data: Any, begin: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go_on.wait(30.0)
        written.append(original(file, data, begin))
        return written[-1]

    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    with ThreadPoolExecutor(2) as threads:
        with ShardWriter(tmp_path, ID, source.space(), sites, rows, direct=direct) as writer:
            writing = threads.submit(writer.append, {name: values[name] for name in names[:1]})
            assert begun.wait(30.0)
            before = len(written)
            threads.submit(lambda: (threading.Event().wait(0.2), go_on.set()))
        # It was waited for, with the file still open; what comes later is refused.
        assert len(written) > before
        writing.result(30.0)
        with pytest.raises(StorageError, match="was given up; run it again"):
            writer.append({name: values[name] for name in names[1:]})
    assert not [path for path in (tmp_path / "shards").rglob("*") if path.is_file()]
