"""Fill an activation store from a corpus: many tokens, in one go or in several."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cache.arguments import typed
from cache.folder.fill import check_space, cut, fill, lacking
from cache.folder.owners import Owner
from cache.folder.witness import HasWitness, compare
from cache.keys.source import ActivationSource
from cache.keys.space import Ids, SiteShape, Space
from cache.shards.layout import bytes_per_token
from cache.shards.writer import ShardWriter
from cache.store import ActivationStore
from interp.errors import ModelError
from interp.execute import Executor, Unit, Workers, execute
from interp.execute.recipe import on_model
from interp.model.model import Model
from interp.prompts.corpus import read_rows
from interp.sites import Site

__all__ = ["Harvest", "bytes_of_token", "harvest"]

# A harvest is committed in so many parts or more, but in files that are neither tiny nor huge.
_PARTS = 32
_SMALLEST = 128 << 20
_CONTEXT = 256
_WRITTEN_BEHIND = 2  # batches that wait to be written


@dataclass(frozen=True)
class Harvest:
    """What a harvest has stored.

    Attributes:
        space: what the activations are of.
        sites: where they were taken.
        keys: the rows' names in the store: `store.stream(…, keys=harvest.keys)` reads these alone.
        tokens: in all rows.
        computed: of these, tokens that were run now; the others were there.
        bytes: of the activations of all rows.
        seconds: that the runs took.
    """

    space: Space
    sites: tuple[str, ...]
    keys: tuple[bytes, ...] = field(repr=False)
    tokens: int
    computed: int
    bytes: int
    seconds: float


@typed
def harvest(
    model: Model,
    texts: Path | str | Iterable[str],
    sites: str | Site | Iterable[str | Site],
    store: ActivationStore,
    *,
    tokens: int | None = None,
    context: int | None = None,
    dtype: str | None = None,
    executor: Executor | Workers | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Harvest:
    """Store the activations of a corpus; what is there already is not computed again.

    It can be stopped at any moment: what was committed stays, and the same call goes on with the
    rest. Which rows are run together depends on the corpus and the store alone, so each executor
    stores the same numbers.

    Args:
        model: the model.
        texts: a file (.txt, .jsonl, .parquet; see `interp.prompts.corpus.read_rows`), or documents.
        sites: "resid_post" for every layer, "resid_post.3" for one, several of these. Layers above
            the deepest are not run.
        store: where to put them.
        tokens: how many; all if left out.
        context: tokens in a row; 256, or as many as the model takes, if left out.
        dtype: to store them as "float32", "float16" or "bfloat16"; the model's own if left out.
        executor: where the model runs; here if left out. `Workers` are kept for the next call.
            They write to the store's folder themselves, so that all machines must see it under the
            same path.
        progress: called with (tokens stored, tokens in all).

    Raises:
        StorageError: it cannot fit, told before anything is run; or the disk cannot be written.
        PromptError: there is no text, or the model does not take rows of this length.
        SiteError: there is no such site.
    """
    source = model.activation_source()
    space, shapes = source.space(dtype), tuple(source.sites(sites))
    store.admit(source, space, keep=True)
    length = min(_CONTEXT, model.n_ctx) if context is None else context
    rows = read_rows(model, texts, context=length, tokens=tokens)
    named = dict(zip(space.keys(rows), rows, strict=True))
    names = [site.name for site in shapes]
    found = store.folder.catalogue.find(list(named), names)
    absent = lacking(list(named), found)
    per_token = bytes_per_token(shapes, space.itemsize)
    total = sum(len(ids) for ids in rows)
    to_run = sum(len(named[key]) for key in absent)
    if absent:
        store.check_writable()
        store.room.check(to_run * per_token, f"{to_run:,} tokens at {len(shapes)} sites")
    meter = _Meter(total - to_run, total, progress)
    start = time.monotonic()
    if absent:
        _run(model, store, space, shapes, named, absent, executor or Executor(), meter)
    return Harvest(
        space,
        tuple(names),
        tuple(named),
        total,
        to_run,
        total * sum(site.numbers for site in shapes) * space.itemsize,
        time.monotonic() - start,
    )


@typed
def bytes_of_token(
    model: Model, sites: str | Site | Iterable[str | Site], dtype: str | None = None
) -> int:
    """Bytes that one token takes in a store at all of `sites`, when stored as `dtype`."""
    source = model.activation_source()
    return bytes_per_token(source.sites(sites), source.space(dtype).itemsize)


@dataclass(frozen=True)
class _Part:
    """Rows that become one shard, wherever the model is.

    Attributes:
        root: the store's folder.
        done: called with how many tokens were run; only where the part is not sent away.
        committer: a thread that commits while the next part runs; likewise.
    """

    root: Path
    space: Space
    sites: tuple[SiteShape, ...]
    rows: tuple[Ids, ...]
    done: Callable[[int], None] | None = None
    committer: ThreadPoolExecutor | None = None

    def __call__(self, model: Model) -> str | Future[str]:
        """Run the rows, and commit a shard, which somebody must enter into the index."""
        source = model.activation_source()
        if source.space(self.space.dtype) != self.space:
            raise ModelError(f"A worker loaded another model than {self.space.label}; stop it.")
        if isinstance(source, HasWitness):
            compare(self.root, source.witness(), self.space)
        owner = Owner(self.root / "owners")
        with ExitStack() as undo:
            undo.callback(owner.leave, clean=True)
            shard = owner.new_shard()
            writer = undo.enter_context(
                ShardWriter(self.root, shard, self.space, self.sites, self.rows, direct=True)
            )
            self._write(source, writer)
            check_space(source, self.space)
            undo.pop_all()
        if self.committer:
            return self.committer.submit(_commit, writer, owner)
        return _commit(writer, owner)

    def _write(self, source: ActivationSource, writer: ShardWriter) -> None:
        """Run the rows; while some run, those before are written."""
        before = 0
        with ThreadPoolExecutor(1, "obverse-write") as thread:
            pending: deque[Future[None]] = deque()
            for n_rows, values in source.activations(self.rows, self.sites):
                if len(pending) == _WRITTEN_BEHIND:
                    pending.popleft().result()
                pending.append(thread.submit(writer.append, values))
                if self.done:
                    self.done(sum(map(len, self.rows[before : before + n_rows])))
                before += n_rows
            for last in pending:
                last.result()


def _commit(writer: ShardWriter, owner: Owner) -> str:
    try:
        with writer:
            return writer.commit().id
    finally:
        # Its name stays until the shard is in the index, so that it is not forgotten if nobody
        # lives to enter it.
        owner.leave(clean=False)


@dataclass
class _Meter:
    """Counts tokens."""

    count: int
    total: int
    progress: Callable[[int, int], None] | None

    def add(self, tokens: int) -> None:
        self.count = min(self.total, self.count + tokens)
        if self.progress:
            self.progress(self.count, self.total)


def _run(
    model: Model,
    store: ActivationStore,
    space: Space,
    sites: Sequence[SiteShape],
    rows: dict[bytes, Ids],
    absent: dict[bytes, tuple[str, ...]],
    executor: Executor | Workers,
    meter: _Meter,
) -> None:
    folder = store.folder
    meter.add(0)
    here = executor.kind == "serial"
    size = _part_size(store, space, sites, [rows[key] for key in absent])
    committer = ThreadPoolExecutor(1, "obverse-commit") if here else None
    with folder.lease(list(absent)) as held:
        # Some may have been committed between the look-up and the lease.
        wanted = lacking(held, folder.catalogue.find(held, [site.name for site in sites]))
        keys_of: dict[str, list[bytes]] = {}
        units = []
        for shapes, keys in cut(space, sites, rows, wanted, size):
            part = _Part(
                folder.root.absolute(),
                space,
                tuple(shapes),
                tuple(rows[key] for key in keys),
                meter.add if here else None,
                committer,
            )
            name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
            keys_of[name] = keys
            units.append(Unit(name, part))
        made: list[str] = []
        try:
            for unit, shard in _committed(execute(units, on_model(model, executor), executor)):
                made.append(folder.adopt(shard).id)
                store.room.make(0, made)
                if not here:
                    meter.add(sum(len(rows[key]) for key in keys_of[unit]))
        finally:
            if committer:
                committer.shutdown()
            # What killed workers left, and what was committed after the last part came in.
            folder.tidy()
    # Rows that another process was computing: wait for it, or do it if it died.
    fill(
        folder,
        store.room,
        model.activation_source(),
        space,
        {key: rows[key] for key in absent},
        sites,
        shard_size=size,
        keep=made,
    )
    meter.add(meter.total)


def _committed(parts: Iterable[tuple[str, str | Future[str]]]) -> Iterator[tuple[str, str]]:
    """Units and their shards; one part runs while the one before it is committed."""
    before: tuple[str, Future[str]] | None = None
    for unit, shard in parts:
        if isinstance(shard, str):
            yield unit, shard
            continue
        if before:
            yield before[0], before[1].result()
        before = unit, shard
    if before:
        yield before[0], before[1].result()


def _part_size(
    store: ActivationStore, space: Space, sites: Sequence[SiteShape], rows: Sequence[Ids]
) -> int:
    size = sum(map(len, rows)) * bytes_per_token(sites, space.itemsize)
    return min(store.shard_size, max(_SMALLEST, size // _PARTS))
