from __future__ import annotations

import pytest

from cache.errors import StorageError
from cache.sizes import parse_size, show_size


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (1, 1),
        ("1", 1),
        ("200GB", 200 * 10**9),
        ("1.5 TiB", 3 * 2**39),
        (" 64 k ", 64_000),
        ("64kib", 65_536),
        ("0.5 KB", 500),
        ("2 pb", 2 * 10**15),
        ("10b", 10),
        ("9007199254740993", 9007199254740993),
        ("0.3 GB", 300_000_000),
    ],
)
def test_sizes_as_people_write_them(written: int | str, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written",
    [
        *["", "GB", "-1", "0", "0.2", "1,000", "1e9", "1 GiBs", "1 XB", "nan", "inf", "٣ GB"],
        *["9" * 400, "1.2.3GB", "i", "3 i", 0, -5, True, 1.5, None],
    ],
)
def test_what_is_no_size_is_refused_in_a_sentence(written: object) -> None:
    with pytest.raises(StorageError, match=r"is not a size; write it like '200GB' or '1\.5TiB'\.$"):
        parse_size(written)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1440, "1.44 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (123_456_789, "123 MB"),
        (1.4e9, "1.4 GB"),
        (5e12, "5 TB"),
        (2.5e15, "2.5 PB"),
    ],
)
def test_sizes_are_shown_in_the_unit_that_suits_them(size: float, shown: str) -> None:
    assert show_size(size) == shown
    if size:
        assert parse_size(shown) == pytest.approx(size, rel=0.005)
