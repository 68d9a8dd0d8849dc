"""Fill an activation store from a corpus: many tokens, in one go or in several."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache.arguments import typed
from cache.folder.fill import fill, lacking
from cache.folder.witness import HasWitness, compare
from cache.folder.writing import Part, write_apart
from cache.keys.space import Space
from cache.shards.layout import bytes_per_token
from cache.store import ActivationStore
from interp.errors import ModelError
from interp.execute import Executor, Unit, Workers, execute
from interp.execute.recipe import on_model
from interp.model.model import Model
from interp.progress import Progress, counter
from interp.prompts.corpus import read_rows
from interp.sites import Site

__all__ = ["Harvest", "bytes_of_token", "harvest"]


def __dir__() -> list[str]:
    return sorted(__all__)


# A harvest is committed in so many parts or more, but in files that are neither tiny nor huge.
_PARTS = 32
_SMALLEST = 128 << 20
_CONTEXT = 256


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
    progress: Progress | None = None,
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
    count = counter(progress, total)
    start = time.monotonic()
    if absent:
        count(total - to_run)
        size = min(store.room.shard_size, max(_SMALLEST, to_run * per_token // _PARTS))
        write = _Writer(model, store, executor or Executor(), count)
        rows_to_run = {key: named[key] for key in absent}
        fill(replace(store.room, shard_size=size), write, space, rows_to_run, shapes)
        count(total)
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
class _Unit:
    """A part, wherever the model is.

    Attributes:
        root: the store's folder.
        done: called with how many tokens were run; only where the part is not sent away.
        committer: a thread that commits while the next part runs; likewise.
    """

    root: Path
    part: Part
    done: Callable[[int], None] | None
    committer: ThreadPoolExecutor | None

    def __call__(self, model: Model) -> str | Future[str]:
        """Run the rows, and commit a shard, which somebody must enter into the index."""
        source, space = model.activation_source(), self.part.space
        if source.space(space.dtype) != space:
            raise ModelError(f"A worker loaded another model than {space.label}; stop it.")
        if isinstance(source, HasWitness):
            compare(self.root, source.witness(), space)
        return write_apart(self.root, source, self.part, self.done, self.committer)


@dataclass(frozen=True)
class _Writer:
    """Computes parts wherever the executor says; see `cache.folder.writing.Write`."""

    model: Model
    store: ActivationStore
    executor: Executor | Workers
    count: Callable[[int], None]

    def __call__(
        self, parts: Sequence[Part], keep: Collection[str]
    ) -> Generator[tuple[Part, str], None, None]:
        if not parts:
            return
        folder = self.store.folder
        here = self.executor.kind == "serial"
        committer = ThreadPoolExecutor(1, "obverse-commit") if here else None
        done = self.count if here else None
        named = {hashlib.sha256(b"".join(part.keys)).hexdigest()[:32]: part for part in parts}
        units = [
            Unit(name, _Unit(folder.root.absolute(), part, done, committer))
            for name, part in named.items()
        ]
        run = execute(units, on_model(self.model, self.executor), self.executor)
        try:
            for name, shard in _committed(run):
                folder.adopt(shard)
                yield named[name], shard
                self.store.room.make(0, keep)
                if not here:
                    self.count(named[name].n_tokens)
        finally:
            if committer:
                committer.shutdown()
            # What killed workers left, and what was committed after the last part came in.
            folder.tidy()


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
