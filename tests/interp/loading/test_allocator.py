"""Freed memory that is kept costs no page faults."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library"),
    pytest.mark.slow,
]

# Counts the pages that the system had to clear while blocks of many sizes came and went.
_PROBE = """
import random, resource, torch
{before}
def churn():
    chosen, kept = random.Random(0), []
    for _ in range(60):
        kept.append(torch.ones(chosen.choice([50_000, 300_000, 700_000, 3_000_000, 6_000_000])))
        if len(kept) > 4:
            kept.pop(chosen.randrange(4))
churn()
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""
_KEEP = "from interp.loading.allocator import keep_freed_memory; keep_freed_memory()"
_MANY = 20_000  # pages; all blocks together have about 118,000


@functools.cache
def run(before: str, **environment: str) -> int:
    out = subprocess.run(
        [sys.executable, "-c", _PROBE.format(before=before)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(out.stdout)


def test_freed_memory_is_used_again() -> None:
    assert run(_KEEP) < _MANY / 2
    assert run("") > _MANY


def test_what_a_user_has_set_stays() -> None:
    assert run(_KEEP, MALLOC_MMAP_THRESHOLD_="65536") > _MANY


def test_loading_a_model_does_it() -> None:
    load = "from interp import load_model; load_model('reversal-curse')"
    # What loading has left behind takes some of the kept memory, now more, now less.
    assert run(load) < run("") / 2
