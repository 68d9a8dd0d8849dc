"""Which unit comes next: units that wait for others, and units that rather share a worker."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from interp.execute.settings import Unit

__all__ = ["Waiting"]


class Waiting:
    """Units that nobody has taken yet.

    Args:
        units: in the order in which they are taken where nothing else counts.
            Whom they wait for and does not stand among them was done before.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units = list(units)
        self._open = {unit.id for unit in self._units}

    def __len__(self) -> int:
        return len(self._units)

    @property
    def ready(self) -> int:
        """How many of them wait for no other unit."""
        return sum(map(self._is_ready, self._units))

    def take(self, group: str = "", elsewhere: Collection[str] = ()) -> Unit | None:
        """The next unit that can be begun; None where all wait for others.

        Args:
            group: of what this worker did last: its next unit comes first.
            elsewhere: groups that other workers have begun. Only where nothing else is left a unit
                of these is taken: the last one, which its own worker would come to last.
        """
        ready = [unit for unit in self._units if self._is_ready(unit)]
        mine = (unit for unit in ready if unit.group and unit.group == group)
        free = (unit for unit in ready if not unit.group or unit.group not in elsewhere)
        found = next(mine, None) or next(free, None) or (ready[-1] if ready else None)
        if found is not None:
            self._units.remove(found)
        return found

    def put_back(self, unit: Unit) -> None:
        """It was taken and not done."""
        self._units.insert(0, unit)

    def done(self, id: str) -> None:
        """Units that wait for it wait no longer."""
        self._open.discard(id)

    def _is_ready(self, unit: Unit) -> bool:
        return self._open.isdisjoint(unit.after)
