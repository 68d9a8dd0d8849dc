"""A pass that is taken along ends, whatever happens to it or to the other one."""

from __future__ import annotations

import threading

import pytest

from interp.model.along import Along, taken_along


class Blocks:
    """Blocks of which one is here at a time; notes who used which, and what was brought."""

    def __init__(self) -> None:
        self.along: Along[str] | None = None
        self.here = -1
        self.brought: list[int] = []
        self.used: list[tuple[str, int]] = []

    def place(self, along: Along[str] | None) -> None:
        self.along = along

    def walk(self, who: str, n: int = 3) -> str:
        for block in range(n):
            if block != self.here and self.along is not None:
                self.along.before_bringing()
            if block != self.here:
                self.here = block
                self.brought.append(block)
            self.used.append((who, block))
        return who


def threads() -> int:
    return sum(thread.name == "along" for thread in threading.enumerate())


def test_two_passes_bring_each_block_once() -> None:
    blocks = Blocks()
    with taken_along(lambda: blocks.walk("other"), blocks.place) as along:
        blocks.walk("mine")
        assert along.result() == "other"
    assert blocks.brought == [0, 1, 2]
    assert blocks.used == [(who, n) for n in range(3) for who in ("mine", "other")]
    assert (blocks.along, threads()) == (None, 0)


def test_a_pass_that_is_longer_goes_on_alone() -> None:
    blocks = Blocks()
    with taken_along(lambda: blocks.walk("other", 5), blocks.place) as along:
        blocks.walk("mine", 2)
        assert along.result() == "other"
    assert blocks.brought == [0, 1, 2, 3, 4]


def test_its_error_is_raised_where_its_result_is_wanted() -> None:
    blocks = Blocks()

    def fails() -> str:
        blocks.walk("other", 1)
        raise ValueError("none")

    with taken_along(fails, blocks.place) as along:
        blocks.walk("mine")
        with pytest.raises(ValueError, match="none"):
            along.result()
    assert threads() == 0


@pytest.mark.parametrize("after", [0, 2])
def test_who_is_interrupted_leaves_no_pass_behind(after: int) -> None:
    blocks = Blocks()

    def interrupted() -> None:
        with taken_along(lambda: blocks.walk("other"), blocks.place):
            blocks.walk("mine", after)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (blocks.along, threads()) == (None, 0)
    assert ("other", 2) not in blocks.used
