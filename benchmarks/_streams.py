"""Other libraries' own ways to train on stored vectors, and the list of all that are measured."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks._stores import (
    Bits,
    Lmdb,
    Ours,
    Store,
    TensorStoreFew,
    TensorStorePrompts,
    ZarrDefault,
    ZarrPrompts,
)
from benchmarks.cache import WIDTH


class LitData(Store):
    """Vectors as blocks of numbers without headers, its quickest form, in files of 64 MB."""

    name, needs, random = "litdata", "litdata", False

    def _loader(self) -> Any:
        from litdata.streaming.item_loader import TokensLoader

        return TokensLoader(block_size=WIDTH)

    def write(self, bits: Bits) -> None:
        from litdata.streaming import Cache

        with contextlib.redirect_stdout(io.StringIO()):
            cache = Cache(str(self.folder), chunk_bytes="64MB", item_loader=self._loader())
            for number in range(self.prompts):
                part = bits[number * self.length : (number + 1) * self.length]
                cache[number] = torch.from_numpy(part.reshape(-1))
            cache.done()
            cache.merge()

    def open(self) -> None: ...

    def stream(self, size: int, count: int) -> Iterator[Any]:
        from litdata import StreamingDataLoader, StreamingDataset

        with contextlib.redirect_stdout(io.StringIO()):
            dataset = StreamingDataset(
                str(self.folder),
                item_loader=self._loader(),
                shuffle=True,
                drop_last=False,
            )
        return iter(StreamingDataLoader(dataset, batch_size=size, num_workers=0))


class Mosaic(Store):
    name, needs, random = "MosaicML Streaming", "streaming", False

    def write(self, bits: Bits) -> None:
        from streaming import MDSWriter

        columns = {"x": f"ndarray:int16:{WIDTH}"}
        with MDSWriter(out=str(self.folder), columns=columns, size_limit=64 << 20) as writer:
            for vector in bits:
                writer.write({"x": vector})

    def open(self) -> None: ...

    def stream(self, size: int, count: int) -> Iterator[Any]:
        from streaming import StreamingDataset

        dataset = StreamingDataset(
            local=str(self.folder),
            shuffle=True,
            batch_size=size,
            epoch_size=min(count, self.shape[0]),
        )
        loader = torch.utils.data.DataLoader(dataset, batch_size=size)
        return (batch["x"] for batch in loader)


EVERY: tuple[type[Store], ...] = (
    Store,
    Ours,
    Lmdb,
    TensorStorePrompts,
    TensorStoreFew,
    ZarrPrompts,
    ZarrDefault,
    LitData,
    Mosaic,
)


def installed(kind: type[Store]) -> bool:
    if not kind.needs or importlib.util.find_spec(kind.needs) is not None:
        return True
    print(f"{kind.needs} is not installed, so {kind.name} is left out.")
    return False
