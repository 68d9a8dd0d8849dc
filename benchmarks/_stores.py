"""The same vectors in Obverse's store and in other libraries, each used as its own pages advise.

Every class offers the same few calls, so that one loop measures them all: `write` (through the page
cache, as the library does it), `open` and `close`, `sequential`, `vector`, `batch`, `prompt`. The
others have no bfloat16 throughout, so all hold its bits as 16-bit integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cache import SITE, WIDTH, Vectors
from cache import ActivationStore

Bits = np.ndarray[Any, np.dtype[np.int16]]

FILE = 1 << 15  # vectors of one file (50 MB), or of one transaction
FEW = 16  # vectors of a chunk that is made for reading single ones
_STEP = 300  # between the first token ids of two prompts, so that no two prompts are alike


class Source(Vectors):
    """A model that computes nothing: prompt i has the i-th piece of given vectors."""

    def __init__(self, bits: Bits, length: int) -> None:
        self._values = torch.from_numpy(bits).view(torch.bfloat16)
        self._length = length

    def rows(self, prompts: Any) -> Sequence[Any]:
        return [np.arange(self._length, dtype=np.int32) + _STEP * int(i) for i in prompts]

    def activations(
        self, rows: Sequence[Any], sites: Any
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        places = [int(ids[0]) // _STEP for ids in rows]
        at = 0
        while at < len(places):
            # Neighbours together, a few at a time, as a model gives them.
            end = at + 1
            while end < min(len(places), at + 32) and places[end] == places[end - 1] + 1:
                end += 1
            first = places[at] * self._length
            yield end - at, {SITE: self._values[first : first + (end - at) * self._length]}
            at = end


class Store:
    """One library's way; this one is a plain file, mapped by NumPy: what no store can beat.

    Attributes:
        name: its column.
        needs: the package without which it is left out.
        keyed: whether a prompt can be added at any time and is found by a key of its own.
        random: whether vectors can be read by number.
    """

    name, needs = "plain file", ""
    keyed, random = False, True

    def __init__(self, folder: Path, shape: tuple[int, int], length: int) -> None:
        self.folder, self.shape, self.length = folder, shape, length
        self.prompts = shape[0] // length

    def write(self, bits: Bits) -> None:
        self.folder.mkdir()
        with open(self.folder / "vectors", "wb", buffering=0) as file:
            for begin, end in self.files():
                file.write(memoryview(bits[begin:end]).cast("B"))

    def open(self) -> None:
        self.bits: Any = np.memmap(self.folder / "vectors", np.int16, "r", shape=self.shape)

    def close(self) -> None:
        self.bits = None

    def sequential(self, out: Bits) -> None:
        for begin, end in self.files():
            out[begin:end] = self.bits[begin:end]

    def vector(self, index: int) -> Bits:
        return np.array(self.bits[index])

    def batch(self, indices: np.ndarray[Any, Any]) -> Bits:
        return np.asarray(self.bits[indices])

    def prompt(self, number: int, out: Bits) -> None:
        out[:] = self.bits[number * self.length : (number + 1) * self.length]

    def several(self, numbers: Sequence[int], out: Bits) -> None:
        """Prompts, in one call where the library has one [prompt, position, width]."""
        for place, number in enumerate(numbers):
            self.prompt(number, out[place])

    def add(self, bits: Bits, numbers: Sequence[int]) -> None:
        """Put prompts into a new store one by one, each on the disk before the next."""
        raise NotImplementedError

    def stream(self, size: int, count: int) -> Iterator[Any] | None:
        """Shuffled batches by the library's own means for training, if it has some.

        Args:
            count: how many vectors are enough.
        """
        return None

    def files(self) -> Iterator[tuple[int, int]]:
        """Where files begin and end; all are full ones."""
        return ((begin, begin + FILE) for begin in range(0, self.shape[0], FILE))


class Ours(Store):
    name, keyed = "Obverse", True

    def write(self, bits: Bits) -> None:
        self.source = Source(bits, self.length)
        with ActivationStore(self.folder, floor=0) as store:
            store.rows(self.source, range(self.prompts), SITE)

    def open(self) -> None:
        self.store = ActivationStore(self.folder, floor=0)
        self.dataset: Any = None

    def close(self) -> None:
        self.dataset = None
        self.store.close()
        del self.store

    def _numbered(self) -> Any:
        if self.dataset is None:
            keys = self.store.keys(self.source, range(self.prompts))
            self.dataset = self.store.dataset(self.source, SITE, keys=keys)
            # The store has an order of its own; where each prompt begins in it:
            numbers = np.array([row.number for row in self.dataset.rows()])
            self.begins = np.empty(self.prompts, np.int64)
            self.begins[numbers] = np.arange(self.prompts) * self.length
        return self.dataset

    def sequential(self, out: Bits) -> None:
        for number, row in enumerate(self.store.rows(self.source, range(self.prompts), SITE)[SITE]):
            out[number * self.length : (number + 1) * self.length] = _numpy(row)

    def vector(self, index: int) -> Bits:
        dataset = self._numbered()
        return _numpy(dataset[int(self.begins[index // self.length]) + index % self.length])

    def batch(self, indices: np.ndarray[Any, Any]) -> Bits:
        dataset = self._numbered()
        return _numpy(dataset[self.begins[indices // self.length] + indices % self.length])

    def prompt(self, number: int, out: Bits) -> None:
        out[:] = _numpy(self.store.rows(self.source, [number], SITE)[SITE][0])

    def several(self, numbers: Sequence[int], out: Bits) -> None:
        for place, row in enumerate(self.store.rows(self.source, numbers, SITE)[SITE]):
            out[place] = _numpy(row)

    def add(self, bits: Bits, numbers: Sequence[int]) -> None:
        source = Source(bits, self.length)
        with ActivationStore(self.folder, floor=0) as store:
            for number in numbers:
                store.rows(source, [number], SITE)

    def stream(self, size: int, count: int) -> Iterator[Any]:
        # All of them: the first batch waits for a whole pool.
        return iter(self.store.stream(self.source, SITE, batch_size=size))


class Zarr(Store):
    """Sharding: a file holds many chunks, and a chunk is what is read at least."""

    needs = "zarr"
    compressors: str | None = None

    def write(self, bits: Bits) -> None:
        import zarr

        array = zarr.create_array(
            str(self.folder),
            shape=self.shape,
            chunks=(self.length, WIDTH),
            shards=(FILE, WIDTH),
            dtype="int16",
            compressors=self.compressors,
        )
        for begin, end in self.files():
            array[begin:end] = bits[begin:end]

    def open(self) -> None:
        import zarr

        self.bits = zarr.open_array(str(self.folder), mode="r")

    def batch(self, indices: np.ndarray[Any, Any]) -> Bits:
        return np.asarray(self.bits.oindex[indices])

    def vector(self, index: int) -> Bits:
        return np.asarray(self.bits[index])


class ZarrDefault(Zarr):
    name, compressors = "zarr, zstd", "auto"


class ZarrPrompts(Zarr):
    name = "zarr"


class TensorStore(Store):
    needs, chunk = "tensorstore", 0
    codecs: tuple[dict[str, Any], ...] = ()

    def _opened(self, **options: Any) -> Any:
        import tensorstore

        where = {"driver": "file", "path": f"{self.folder}/"}
        return tensorstore.open({"driver": "zarr3", "kvstore": where}, **options).result()

    def write(self, bits: Bits) -> None:
        codec = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [self.chunk or self.length, WIDTH],
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, *self.codecs],
            },
        }
        import tensorstore

        array = self._opened(
            create=True,
            dtype=tensorstore.int16,
            shape=self.shape,
            chunk_layout=tensorstore.ChunkLayout(write_chunk_shape=[FILE, WIDTH]),
            codec=tensorstore.CodecSpec({"driver": "zarr3", "codecs": [codec]}),
        )
        for begin, end in self.files():
            array[begin:end].write(bits[begin:end]).result()

    def open(self) -> None:
        self.bits = self._opened(open=True, read=True)

    def sequential(self, out: Bits) -> None:
        for begin, end in self.files():
            out[begin:end] = self.bits[begin:end].read().result()

    def vector(self, index: int) -> Bits:
        return np.asarray(self.bits[index].read().result())

    def batch(self, indices: np.ndarray[Any, Any]) -> Bits:
        return np.asarray(self.bits[indices].read().result())

    def prompt(self, number: int, out: Bits) -> None:
        out[:] = self.bits[number * self.length : (number + 1) * self.length].read().result()


class TensorStorePrompts(TensorStore):
    name = "tensorstore"


class TensorStoreFew(TensorStore):
    name, chunk = "tensorstore, small chunks", FEW


class Lmdb(Store):
    """A value for each prompt, read in place; each transaction is on the disk when it ends."""

    name, needs, keyed = "LMDB", "lmdb", True

    def _opened(self, **options: Any) -> Any:
        import lmdb

        room = 2 * self.shape[0] * WIDTH * 2 + (64 << 20)
        return lmdb.open(str(self.folder), map_size=room, **options)

    def write(self, bits: Bits) -> None:
        with self._opened() as database:
            for begin, end in self.files():
                with database.begin(write=True) as transaction:
                    for number in range(begin // self.length, end // self.length):
                        transaction.put(_key(number), self._value(bits, number), append=True)

    def add(self, bits: Bits, numbers: Sequence[int]) -> None:
        with self._opened() as database:
            for number in numbers:
                with database.begin(write=True) as transaction:
                    transaction.put(_key(number), self._value(bits, number))

    def _value(self, bits: Bits, number: int) -> memoryview:
        return memoryview(bits[number * self.length : (number + 1) * self.length]).cast("B")

    def open(self) -> None:
        self.database = self._opened(readonly=True)
        self.bits = self.database.begin(buffers=True)

    def close(self) -> None:
        self.bits.abort()
        self.database.close()
        self.bits = self.database = None

    def _prompt(self, number: int) -> Bits:
        return np.frombuffer(self.bits.get(_key(number)), np.int16).reshape(self.length, WIDTH)

    def sequential(self, out: Bits) -> None:
        with self.bits.cursor() as cursor:
            for number, value in enumerate(cursor.iternext(keys=False)):
                begin = number * self.length
                out[begin : begin + self.length] = np.frombuffer(value, np.int16).reshape(-1, WIDTH)

    def vector(self, index: int) -> Bits:
        return self._prompt(index // self.length)[index % self.length].copy()

    def batch(self, indices: np.ndarray[Any, Any]) -> Bits:
        out = np.empty((len(indices), WIDTH), np.int16)
        for place, index in enumerate(indices.tolist()):
            out[place] = self._prompt(index // self.length)[index % self.length]
        return out

    def prompt(self, number: int, out: Bits) -> None:
        out[:] = self._prompt(number)


def _key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _numpy(values: Tensor) -> Bits:
    found: Bits = values.view(torch.int16).numpy()
    return found
