"""Units that wait for others, that rather share a worker, and that tell how far they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.errors import ExecutionError
from interp.execute import Executor, Unit, execute, tell
from interp.execute.waiting import Waiting
from tests.interp import executing

TWO = Executor("processes", 2)


def test_a_unit_waits_until_what_it_names_is_done() -> None:
    waiting = Waiting([Unit("a", 0), Unit("b", 0, after=("a",)), Unit("c", 0)])
    assert [waiting.ready, len(waiting)] == [2, 3]
    taken = [waiting.take(), waiting.take(), waiting.take()]
    assert [unit and unit.id for unit in taken] == ["a", "c", None]
    waiting.done("c")
    assert waiting.take() is None
    waiting.done("a")
    last = waiting.take()
    assert last is not None
    assert last.id == "b"
    waiting.put_back(last)
    assert waiting.take() is last


def test_what_is_not_among_them_is_waited_for_no_longer() -> None:
    assert Waiting([Unit("b", 0, after=("a",))]).ready == 1


def test_a_worker_keeps_to_its_group_and_takes_the_last_of_another() -> None:
    units = [Unit(f"{group}{i}", 0, group=group) for group in "xyz" for i in range(2)]
    waiting = Waiting(units)
    begun = [("", ""), ("", "x"), ("x", "y"), ("x", "y"), ("z", "xy"), ("z", "xy")]
    order = [waiting.take(mine, elsewhere) for mine, elsewhere in begun]
    assert [unit and unit.id for unit in order] == ["x0", "y0", "x1", "z0", "z1", "y1"]


def test_a_unit_that_waits_for_what_comes_later_is_refused() -> None:
    for missing in ("b", "nobody"):
        with pytest.raises(ExecutionError, match=f"waits for '{missing}'"):
            execute([Unit("a", 1, after=(missing,)), Unit("b", 2)], executing.start, Executor())


@pytest.mark.slow
@pytest.mark.parametrize("executor", [Executor(), TWO], ids=str)
def test_the_order_holds_wherever_units_run(tmp_path: Path, executor: Executor) -> None:
    """The second looks for what the first has left, and would fail without it."""
    units = [
        Unit("late", ("leave", tmp_path / "mark")),
        Unit("free", ("square", 3)),
        Unit("next", ("look", tmp_path / "mark"), after=("late",)),
    ]
    assert dict(execute(units, executing.start_marks, executor)) == {
        "late": 1,
        "free": 9,
        "next": 1,
    }


@pytest.mark.slow
@pytest.mark.parametrize("executor", [Executor(), TWO], ids=str)
def test_units_tell_how_far_they_are(executor: Executor) -> None:
    seen: list[tuple[str, int, int]] = []
    units = [Unit(name, ("tell", 3)) for name in "ab"]
    found = execute(units, executing.start_marks, executor, told=lambda *said: seen.append(said))
    assert dict(found) == {"a": 3, "b": 3}
    # A worker tells now and then, of this short work at least the beginning.
    assert {("a", 1, 3), ("b", 1, 3)} <= set(seen)
    assert all(total == 3 for _, _, total in seen)
    tell(1, 2)  # outside of a unit nobody hears it
