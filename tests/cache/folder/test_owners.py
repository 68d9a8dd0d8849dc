"""Who writes, and whether they live: told from names, process tables and clocks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cache.errors import StorageError
from cache.folder.owners import LIFETIME, Membership, Owner, Owners
from tests.cache.children import end, kill, start

TOKEN = "0123456789abcdef"


def the_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def parts(folder: Path) -> list[str]:
    return the_file(folder).name.split(".")


def test_an_owner_lives_until_it_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "owners"
    owners = Owners(folder)
    assert owners.alive() == set()
    owner = Owner(folder)
    assert owners.alive() == {owner.token}
    assert owners.dead() == []
    assert owner.is_current
    owner.leave(clean=True)
    assert owners.alive() == set()
    assert owners.dead() == []
    assert not owner.is_current


def test_who_leaves_in_disorder_is_dead_at_once(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    owner.leave(clean=False)
    assert Owners(tmp_path).dead() == [the_file(tmp_path)]


def test_who_has_begun_something_does_not_leave_in_order(tmp_path: Path) -> None:
    class Work:
        is_open = True

    work = Work()
    for expected_files in (1, 0):
        owner = Owner(tmp_path)
        owner.began(work)
        owner.leave(clean=True)
        assert len(list(tmp_path.iterdir())) == expected_files
        for file in tmp_path.iterdir():
            file.unlink()
        work.is_open = False


def test_shards_of_an_owner_bear_its_token(tmp_path: Path) -> None:
    owner, other = Owner(tmp_path), Owner(tmp_path)
    names = [owner.new_shard(), owner.new_shard(), other.new_shard()]
    assert len(set(names)) == 3
    assert [name.partition("-")[0] for name in names] == [owner.token] * 2 + [other.token]
    owner.leave(clean=True)
    other.leave(clean=True)


def test_a_killed_process_is_dead_at_once(tmp_path: Path) -> None:
    def work() -> None:
        Owner(tmp_path)
        signal.pause()

    child = start(work)
    while not list(tmp_path.iterdir()):
        pass
    assert len(Owners(tmp_path).alive()) == 1
    os.kill(child, signal.SIGKILL)
    # Before its parent has asked how it ended, it is a zombie.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert Owners(tmp_path).dead() == [the_file(tmp_path)]
    end(child)
    assert Owners(tmp_path).dead() == [the_file(tmp_path)]


def test_a_process_that_has_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    token, place, pid, born = parts(tmp_path)
    assert int(pid) == os.getpid()
    (tmp_path / f"{TOKEN}.{place}.{pid}.{int(born) - 1}").touch()
    owners = Owners(tmp_path)
    assert owners.alive() == {token}
    assert [path.name[:16] for path in owners.dead()] == [TOKEN]
    owner.leave(clean=True)


def test_another_place_is_judged_by_age_alone(tmp_path: Path) -> None:
    # A process of this number and birth lives here, which says nothing about another machine.
    owner = Owner(tmp_path)
    _, place, pid, _ = parts(tmp_path)
    owner.leave(clean=True)
    elsewhere = "f" * 12 if place != "f" * 12 else "e" * 12
    path = tmp_path / f"{TOKEN}.{elsewhere}.{pid}.1"
    path.touch()
    assert Owners(tmp_path).alive() == {TOKEN}
    stat = path.stat()
    os.utime(path, (stat.st_atime, stat.st_mtime - LIFETIME / 2))
    assert Owners(tmp_path).alive() == {TOKEN}
    os.utime(path, (stat.st_atime, stat.st_mtime - LIFETIME - 1))
    assert Owners(tmp_path).dead() == [path]


def test_other_files_are_no_owners(tmp_path: Path) -> None:
    for name in ("notes.txt", f"{TOKEN}.{'f' * 12}.x.1", f"{TOKEN}.{'f' * 12}.1.1.1", ".hidden"):
        (tmp_path / name).touch()
    assert Owners(tmp_path).alive() == set()
    assert Owners(tmp_path).dead() == []


def test_only_dead_owners_are_discharged(tmp_path: Path) -> None:
    owner, left = Owner(tmp_path), Owner(tmp_path)
    left.leave(clean=False)
    owners = Owners(tmp_path)
    owners.discharge(owner.token)
    owners.discharge(left.token)
    assert [path.name[:16] for path in tmp_path.iterdir()] == [owner.token]
    owner.leave(clean=True)


def test_membership_is_entered_once_and_anew_after_being_taken_for_dead(tmp_path: Path) -> None:
    membership = Membership(tmp_path)
    assert not list(tmp_path.iterdir())
    owner = membership.owner
    assert membership.owner is owner
    assert membership.is_own(owner.token)
    the_file(tmp_path).unlink()
    other = membership.owner
    assert other.token != owner.token
    membership.leave(clean=True)
    assert not list(tmp_path.iterdir())
    assert not membership.is_own(other.token)


def test_a_child_enters_under_a_name_of_its_own(tmp_path: Path) -> None:
    membership = Membership(tmp_path)
    token = membership.owner.token

    def work() -> None:
        assert membership.owner.token != token
        membership.leave(clean=True)

    assert not end(start(work))
    assert membership.owner.token == token
    membership.leave(clean=True)


def test_an_owner_that_is_forgotten_leaves(tmp_path: Path) -> None:
    membership = Membership(tmp_path)
    _ = membership.owner
    del membership
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "owners").write_text("")
    with pytest.raises(StorageError, match=r"is not a folder; .*choose another path\.$"):
        Owner(tmp_path / "owners")
    with pytest.raises(StorageError, match=r"is not a folder; remove it"):
        Owners(tmp_path / "owners").alive()


def test_kill_is_noticed_by_the_tests_themselves() -> None:
    child = start(signal.pause)
    kill(child)
    with pytest.raises(AssertionError, match="ended with"):
        end(start(lambda: 1 / 0))
