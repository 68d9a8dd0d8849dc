"""What a process may take is what is free, or less where it is limited."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.model import limits

GIB = 1 << 30
resource = pytest.importorskip("resource")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 10 GiB free, no limits, and a process that takes 1 of 3 GiB."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {10 << 20} kB\n")
    (proc / "self" / "status").write_text(
        f"Name:\tpython\nVmSize:\t {3 << 20} kB\nVmData:\t {1 << 20} kB\n"
    )
    (proc / "self" / "cgroup").write_text("0::/\n")
    (tmp_path / "cgroup").mkdir()
    monkeypatch.setattr(limits, "PROC", proc)
    monkeypatch.setattr(limits, "CGROUPS", tmp_path / "cgroup")
    ulimit(monkeypatch)
    return tmp_path


def ulimit(monkeypatch: pytest.MonkeyPatch, **given: int) -> None:
    def getrlimit(which: int) -> tuple[int, int]:
        named = {resource.RLIMIT_AS: "size", resource.RLIMIT_DATA: "data"}
        return given.get(named[which], resource.RLIM_INFINITY), resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", getrlimit)


def group(folder: Path, limit: str, current: str, most: str, taken: int, **stat: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit).write_text(f"{most}\n")
    (folder / current).write_text(f"{taken}\n")
    (folder / "memory.stat").write_text("".join(f"{n} {v}\n" for n, v in stat.items()))


def test_without_limits_it_is_what_is_free() -> None:
    assert limits.available_memory() == 10 * GIB


def test_a_user_limit_leaves_what_was_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ulimit(monkeypatch, data=6 * GIB)
    assert limits.available_memory() == 5 * GIB
    ulimit(monkeypatch, data=6 * GIB, size=7 * GIB)
    assert limits.available_memory() == 4 * GIB
    ulimit(monkeypatch, size=2 * GIB)
    assert limits.available_memory() == 0
    ulimit(monkeypatch, data=60 * GIB)
    assert limits.available_memory() == 10 * GIB


def test_a_group_leaves_what_it_has_not_taken_but_for_files(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("0::/job/step\n")
    now = ("memory.max", "memory.current")
    group(machine / "cgroup" / "job" / "step", *now, "max", GIB, inactive_file=0)
    group(machine / "cgroup" / "job", *now, str(8 * GIB), 5 * GIB, inactive_file=2 * GIB)
    assert limits.available_memory() == 5 * GIB


def test_the_older_kind_of_group_is_read_too(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("2:cpu:/job\n4:memory,x:/job\n")
    before = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    stat = {"total_inactive_file": GIB}
    group(machine / "cgroup" / "memory" / "job", *before, str(4 * GIB), 2 * GIB, **stat)
    assert limits.available_memory() == 3 * GIB
    # In a container the path is that of the host.
    group(machine / "cgroup" / "memory", *before, str(4 * GIB), 3 * GIB, **stat)
    (machine / "proc" / "self" / "cgroup").write_text("4:memory:/machine/not-here\n")
    assert limits.available_memory() == 2 * GIB


def test_a_group_without_a_limit_is_none(machine: Path) -> None:
    """Of the older kind it says a number beyond all memory, the newer one a word."""
    (machine / "proc" / "self" / "cgroup").write_text("4:memory:/job\n")
    before = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    stat = {"total_inactive_file": 0}
    group(machine / "cgroup" / "memory", *before, str(3 * GIB), 2 * GIB, **stat)
    most = 9223372036854771712
    group(machine / "cgroup" / "memory" / "job", *before, str(most), most, **stat)
    assert limits.available_memory() == GIB


def test_what_cannot_be_read_is_no_limit(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("nonsense\n")
    ulimit(monkeypatch, data=6 * GIB)
    (machine / "proc" / "self" / "status").write_text("")
    assert limits.available_memory() == 10 * GIB
