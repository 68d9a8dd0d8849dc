"""Open shards for reading; what goes wrong is said as one sentence for the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cache.errors import DamageError, GoneError
from cache.shards.reader import ShardReader
from cache.shards.sidecar import Sidecar
from cache.shards.writer import read_sidecar
from cache.training.plan import Plan

__all__ = ["index_error", "open_shard", "opening", "planned_sidecar"]


def planned_sidecar(plan: Plan, shard: int) -> Sidecar:
    """The sidecar of one of a plan's shards.

    Raises:
        DamageError: it is damaged, or the index, from which the plan was made, says otherwise.
        GoneError: it was evicted meanwhile.
        StorageError: it cannot be read.
    """
    name = plan.shard(shard)
    with opening(plan.root, name):
        sidecar = read_sidecar(plan.root, name)
    if sidecar.content != plan.contents[shard].tobytes() or sidecar.space != plan.space:
        raise index_error(plan, shard)
    return sidecar


def open_shard(plan: Plan, shard: int) -> ShardReader:
    """A reader of one of a plan's shards; raises what `planned_sidecar` does."""
    sidecar = planned_sidecar(plan, shard)
    with opening(plan.root, sidecar.id):
        return ShardReader(plan.root, sidecar)


def index_error(plan: Plan, shard: int) -> DamageError:
    """What to say where the index and a sidecar, which is the truth, do not agree."""
    return DamageError(
        f"The index of '{plan.root}' does not fit shard {plan.shard(shard)}; run `obverse cache "
        "verify`, and open the data again."
    )


@contextlib.contextmanager
def opening(root: Path, shard: str) -> Iterator[None]:
    """Turn an error of the block into one that names the shard, and says what to do."""
    try:
        yield
    except DamageError as error:
        raise DamageError(
            f"Shard {shard} of '{root}' is damaged ({error}); run `obverse cache verify`, and "
            "open the data again."
        ) from error
    except GoneError as error:
        raise GoneError(
            f"Shard {shard} of '{root}' was evicted or removed meanwhile; open the data again, "
            "with a larger budget if more is needed at once."
        ) from error
