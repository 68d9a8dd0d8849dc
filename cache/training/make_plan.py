"""Find out which tokens of a store are used: from its index, and from sidecars where need be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cache.errors import GoneError, StorageError
from cache.folder.folder import Folder
from cache.keys.space import SiteShape, Space
from cache.shards.writer import DATA, shard_path
from cache.training.places import Places, Shards, find_places, find_shards
from cache.training.plan import (
    Numbers,
    Other,
    Plan,
    Positions,
    Row,
    index_error,
    reading,
    sidecar_of,
)

__all__ = ["make_plan"]


def make_plan(
    folder: Folder,
    space: Space,
    sites: Sequence[str],
    positions: Positions,
    keys: Sequence[bytes] | None = None,
    where: Callable[[Row], bool] | None = None,
) -> Plan:
    """The tokens of the rows that are stored at all of `sites`.

    Reads the index; and sidecars only where the number of tokens does not follow from it: of shards
    of which not all rows are used, and for slices of positions other than simple ones.

    Args:
        keys: only these rows, numbered in this order.
        where: only rows for which it is true.

    Raises:
        StorageError: there are none, or some of `keys` are not stored.
        DamageError: a sidecar is damaged.
    """
    shards = folder.catalogue.ask(find_shards, space, sites)
    if not shards.holds.any(axis=0).all():
        raise StorageError(
            f"'{folder.root}' holds nothing any more of a site that it held; try again."
        )
    _check_tokens(folder, shards)
    numbers = None if keys is None else {key: at for at, key in reversed([*enumerate(keys)])}
    named = None if numbers is None else list(numbers)
    places = folder.catalogue.ask(find_places, shards, space, sites, named)
    first, others = _to_read(shards, places)
    plan = Plan(
        root=folder.root,
        space=space,
        sites=tuple(_shapes(folder, shards, sites)),
        positions=positions,
        shards=shards.ids,
        contents=shards.contents,
        holds=shards.holds,
        rows=shards.rows,
        tokens=shards.tokens,
        chosen={},
        numbers={},
        first_row=np.zeros(len(shards.ids), dtype=np.int64),
        others=others,
    )
    if numbers is None:
        plan = _all_rows(plan, places, first)
    else:
        plan = _these_rows(plan, places, first, numbers)
    if where is not None:
        plan = _filtered(plan, where)
    plan = replace(plan, tokens=_counted(plan, shards))
    if not plan.n_tokens:
        raise StorageError(
            f"No tokens of '{folder.root}' are left by what was asked for; choose other rows or "
            "positions."
        )
    return plan


def _to_read(shards: Shards, places: Places) -> tuple[Numbers, npt.NDArray[np.void]]:
    """Which places a row is read from [·], and where else to look for sites that lack there."""
    if len(places.begins) == 1:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=Other)
    first = places.begins[:-1]
    complete = np.ones(len(first), dtype=np.bool_)
    for has in shards.holds.T:
        complete &= np.logical_or.reduceat(has[places.shard], first)
    leader = np.repeat(first, np.diff(places.begins))
    of_others = (np.arange(len(leader)) != leader) & np.repeat(complete, np.diff(places.begins))
    of_others &= (shards.holds.sum(axis=1) < shards.holds.shape[1])[places.shard[leader]]
    others = np.empty(int(of_others.sum()), dtype=Other)
    others["shard"], others["row"] = (
        places.shard[leader[of_others]],
        places.row[leader[of_others]],
    )
    others["other"], others["other_row"] = places.shard[of_others], places.row[of_others]
    others.sort(order=["shard", "row", "other"])
    return first[complete], others


def _all_rows(plan: Plan, places: Places, first: Numbers) -> Plan:
    """All rows but those that were found to be read elsewhere, or nowhere."""
    dropped = np.ones(len(places.row), dtype=np.bool_)
    dropped[first] = False
    chosen = {}
    rows = plan.rows.copy()
    for shard, gone in _by_shard(places, np.flatnonzero(dropped)):
        rows[shard] -= len(gone)
        if rows[shard]:
            _check(plan, shard, places, gone)
            kept = np.ones(int(plan.rows[shard]), dtype=np.bool_)
            kept[places.row[gone]] = False
            chosen[shard] = np.flatnonzero(kept)
    return replace(plan, rows=rows, chosen=chosen, first_row=np.cumsum(rows) - rows)


def _these_rows(plan: Plan, places: Places, first: Numbers, numbers: Mapping[bytes, int]) -> Plan:
    """The rows that are named, with their numbers."""
    if len(first) < len(numbers):
        raise StorageError(
            f"'{plan.root}' lacks {len(numbers) - len(first):,} of {len(numbers):,} rows at "
            f"{', '.join(site.name for site in plan.sites)}; harvest them, or leave them out."
        )
    chosen, numbered = {}, {}
    rows = np.zeros_like(plan.rows)
    for shard, found in _by_shard(places, first):
        _check(plan, shard, places, found)
        in_order = found[np.argsort(places.row[found])]
        chosen[shard] = places.row[in_order]
        numbered[shard] = np.array([numbers[key.tobytes()] for key in places.keys[in_order]])
        rows[shard] = len(found)
    return replace(plan, rows=rows, chosen=chosen, numbers=numbered)


def _filtered(plan: Plan, where: Callable[[Row], bool]) -> Plan:
    """Of the rows so far those for which `where` is true; their numbers stay."""
    chosen, numbers, rows = {}, {}, np.zeros_like(plan.rows)
    for shard in np.flatnonzero(plan.rows).tolist():
        reader = plan.reader(shard)
        of_shard = plan.chosen.get(shard, np.arange(reader.sidecar.n_rows))
        first = int(plan.first_row[shard])
        named = plan.numbers.get(shard, np.arange(first, first + len(of_shard)))
        kept = []
        for number, row in zip(named.tolist(), of_shard.tolist(), strict=True):
            with reading(plan.root, plan.shard(shard)):
                ids = reader.ids(row)
            kept.append(bool(where(Row(number, reader.sidecar.key(row), ids))))
        chosen[shard], numbers[shard] = of_shard[kept], named[kept]
        rows[shard] = len(chosen[shard])
    return replace(plan, rows=rows, chosen=chosen, numbers=numbers)


def _counted(plan: Plan, shards: Shards) -> Numbers:
    """How many tokens are used of each shard."""
    tokens = np.zeros_like(plan.rows)
    simple = plan.positions.total(shards.tokens, shards.rows)
    if simple is not None:
        tokens = np.where(plan.rows > 0, simple, 0)
    for shard in np.flatnonzero(plan.rows).tolist() if simple is None else list(plan.chosen):
        lengths = plan.sidecar(shard).lengths
        if shard in plan.chosen:
            lengths = lengths[plan.chosen[shard]]
        tokens[shard] = plan.positions.ranges(lengths)[1].sum()
    return tokens


def _check(plan: Plan, shard: int, places: Places, found: Numbers) -> None:
    """That rows stand where the index says, of which the sidecar is the judge."""
    keys = np.frombuffer(plan.sidecar(shard).keys, dtype=places.keys.dtype)
    rows = places.row[found]
    if (
        len(keys) != plan.rows[shard]
        or rows.max() >= len(keys)
        or (keys[rows] != places.keys[found]).any()
    ):
        raise plan.index_error(shard)


def _check_tokens(folder: Folder, shards: Shards) -> None:
    """That no shard has more tokens than fit into its file, whatever the index says of it.

    Else what is reserved for them would know no bound. The largest one stands for all.
    """
    largest = int(shards.tokens.argmax())
    shard = str(shards.ids[largest], "ascii")
    with reading(folder.root, shard):
        path = shard_path(folder.root, shard, DATA)
        try:
            size = path.lstat().st_size
        except OSError as error:
            raise GoneError(f"Shard {shard} of '{folder.root}' is gone.") from error
    if 4 * int(shards.tokens[largest]) > size:
        raise index_error(folder.root, shard)


def _shapes(folder: Folder, shards: Shards, sites: Sequence[str]) -> Iterator[SiteShape]:
    for number, name in enumerate(sites):
        shard = str(shards.ids[int(shards.holds[:, number].argmax())], "ascii")
        found = sidecar_of(folder.root, shard).sites
        yield next(site for site in found if site.name == name)


def _by_shard(places: Places, chosen: Numbers) -> Iterator[tuple[int, Numbers]]:
    """The places of each shard."""
    order = chosen[np.argsort(places.shard[chosen], kind="stable")]
    numbers, begins = np.unique(places.shard[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, begins[1:])[: len(numbers)], strict=True)
