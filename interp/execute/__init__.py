"""Many independent units of work: in this process, in several, or on a Ray cluster.

Every executor gives the same results, put together by the ids of the units.
"""

from interp.execute.run import Workers, execute
from interp.execute.settings import Executor, Kind, Unit
from interp.execute.telling import tell

__all__ = ["Executor", "Kind", "Unit", "Workers", "execute", "tell"]


def __dir__() -> list[str]:
    return sorted(__all__)
