"""A counter tells how many are done, and never more than there are."""

from __future__ import annotations

from interp.progress import counter


def test_what_is_done_adds_up_to_all_and_no_further() -> None:
    told: list[tuple[int, int]] = []
    count = counter(lambda done, total: told.append((done, total)), 5)
    for more in (2, 0, 2, 9):
        count(more)
    assert told == [(2, 5), (2, 5), (4, 5), (5, 5)]
    counter(None, 5)(1)  # nobody asked
