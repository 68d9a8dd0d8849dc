"""What was computed in the explorer on a run's model, kept beside the run's own results.

explored/NAME.nc     labelled arrays
explored/NAME.json   what they are: the request, the model's fingerprint, versions, and a checksum

The run's manifest does not know this folder: nothing that is written or removed here touches a
run's own results, and it may be removed as a whole. A result is found by what decides it (request,
fingerprints of model and tokenizer, version of Obverse), and by nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.files import (
    is_real,
    make_folder,
    read_bytes,
    real_folder,
    remove,
    remove_temporaries,
    storage_errors,
    write_atomic,
)
from cache.locks import StoreLock
from cache.sizes import show_size
from experiments.errors import ObverseError, RunError, StorageError
from experiments.run_directory.layout import CONFIG, EXPLORED, to_json
from experiments.run_directory.schema import check_explored, parse, read
from experiments.run_directory.storage import decode_dataset, encode_dataset

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MOST_BYTES", "Asked", "Explored", "find", "forget", "is_there", "list_all", "save"]

MOST_BYTES = 64 << 20
"""Of one result; larger ones are not kept."""

_MOST_NUMBERS = 1 << 25
_MOST_LISTED = 1000
_MOST_TOLD = 5
_MOST_DESCRIPTION = 1 << 20
_PATIENCE = 10.0  # s, for another process that writes
_KIND = re.compile(r"[a-z][a-z-]{0,30}\Z")
_NAME = re.compile(r"[a-z][a-z-]{0,30}-[0-9a-f]{32}\Z")


@dataclass(frozen=True)
class Asked:
    """What decides a result.

    Attributes:
        kind: of request: "patching".
        request: the rest of it, as JSON holds it.
        fingerprint, tokenizer: of the model.
        version: of Obverse.
    """

    kind: str
    request: Any
    fingerprint: str
    tokenizer: str
    version: str

    @property
    def name(self) -> str:
        """Of its files: the same for the same, and only for that."""
        if not _KIND.match(self.kind):
            raise ValueError(f"{self.kind!r} is no kind of request: use letters and '-'")
        written = json.dumps(asdict(self), sort_keys=True).encode()
        return f"{self.kind}-{hashlib.sha256(written).hexdigest()[:32]}"


@dataclass(frozen=True)
class Explored:
    """A stored result, as its description tells it.

    Attributes:
        asked: what decides it.
        title: what it is, for people.
        model: name of the model.
        seconds: that it took.
        link: the state of the screen on which it was asked for.
        created: when it was stored, ISO 8601, UTC.
        bytes, sha256: of its file.
    """

    asked: Asked
    title: str
    model: str
    seconds: float
    link: Mapping[str, str]
    created: str = ""
    bytes: int = 0
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.asked.name


def save(directory: Path, one: Explored, result: xr.Dataset) -> Explored:
    """Keep a result in the run directory; one of the same request is replaced.

    Returns:
        Its description, as it was written.

    Raises:
        StorageError: it is too large, or the folder cannot be written; nothing has changed then.
    """
    data = encode_dataset(result)
    if len(data) > MOST_BYTES:
        raise StorageError(
            f"The result has {show_size(len(data))}, more than the {show_size(MOST_BYTES)} that "
            "are kept in a run directory; export it from its figure."
        )
    if not is_real(directory / CONFIG):
        raise StorageError(f"'{directory}' is no run directory any more; open another run.")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    digest = hashlib.sha256(data).hexdigest()
    written = Explored(
        one.asked, one.title, one.model, one.seconds, one.link, now, len(data), digest
    )
    folder = real_folder(directory, EXPLORED)
    make_folder(folder)
    with _alone(folder):
        remove_temporaries(folder)
        for orphan in _orphans(folder):
            remove(_data(folder, orphan))
        write_atomic(_data(folder, one.name), data)
        write_atomic(_description(folder, one.name), to_json({"schema": 1, **asdict(written)}))
    return written


def is_there(directory: Path, asked: Asked) -> bool:
    """Whether something is stored for a request; what it is worth tells `find`."""
    return os.path.lexists(_description(directory / EXPLORED, asked.name))


def find(directory: Path, asked: Asked) -> tuple[Explored, xr.Dataset] | None:
    """What is stored for a request, with its description; None where nothing is.

    Raises:
        RunError: it is damaged, or of something else.
        StorageError: it cannot be read.
    """
    folder, name = real_folder(directory, EXPLORED), asked.name
    if not is_there(directory, asked):
        return None
    try:
        one, data = _whole(folder, name)
    except ObverseError:
        # Another process may be between its two files; while this one holds the lock, none is.
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(StorageError):
                stack.enter_context(StoreLock(folder).shared())
            one, data = _whole(folder, name)
    if one.asked != asked:
        raise _damaged(_description(folder, name), "it is of another request than its name says")
    return one, decode_dataset(data, name, most=_MOST_NUMBERS)


def _whole(folder: Path, name: str) -> tuple[Explored, bytes]:
    """A description, and the data that it is of."""
    one = _read(folder, name)
    data = read_bytes(_data(folder, name), MOST_BYTES + 1, links=False)
    if hashlib.sha256(data).hexdigest() != one.sha256:
        raise _damaged(_data(folder, name), "it does not match its checksum")
    return one, data


def list_all(directory: Path) -> tuple[list[Explored], list[str]]:
    """What is stored in a run directory, the newest first, and what is wrong with the rest."""
    found, problems = [], []
    try:
        folder = real_folder(directory, EXPLORED)
        names = _names(folder)
    except StorageError as error:
        return [], [str(error)]
    for name in names[:_MOST_LISTED]:
        try:
            found.append(_read(folder, name))
        except ObverseError as error:
            problems.append(str(error))
    problems += [
        f"'{_data(folder, name)}' has no description, since whoever wrote it was ended in between; "
        "it is not used, and removed when the next result is kept."
        for name in _left_behind(folder)[:_MOST_TOLD]
    ]
    if len(names) > _MOST_LISTED:
        problems.append(
            f"'{folder}' holds {len(names):,} results, of which {_MOST_LISTED:,} are listed; "
            "remove some."
        )
    return sorted(found, key=lambda one: (one.created, one.name), reverse=True), problems


def forget(directory: Path, name: str) -> None:
    """Remove a stored result, which need not be there.

    Raises:
        StorageError: it cannot be removed.
    """
    if not _NAME.match(name):
        raise StorageError(f"{name!r} names no stored result; choose one from the list.")
    folder = real_folder(directory, EXPLORED)
    if not folder.exists():
        return
    with _alone(folder):
        remove(_description(folder, name))
        remove(_data(folder, name))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder while its files change, against other processes and threads."""
    with StoreLock(folder).exclusive(_PATIENCE) as got:
        if not got:
            raise StorageError(
                f"'{folder}' is held by a process that does not go on; end that process."
            )
        yield


def _names(folder: Path) -> list[str]:
    if not folder.exists():
        return []
    with storage_errors(folder, "read"):
        listed = sorted(os.listdir(folder))
    stems = [name.removesuffix(".json") for name in listed if name.endswith(".json")]
    return [stem for stem in stems if _NAME.match(stem)]


def _orphans(folder: Path) -> list[str]:
    """Names of data without a description."""
    with storage_errors(folder, "read"):
        listed = set(os.listdir(folder))
    stems = sorted(name.removesuffix(".nc") for name in listed if name.endswith(".nc"))
    return [name for name in stems if _NAME.match(name) and f"{name}.json" not in listed]


def _left_behind(folder: Path) -> list[str]:
    """The same, but for what another process is writing now."""
    if not folder.exists() or not _orphans(folder):
        return []
    with StoreLock(folder).exclusive(0.0) as got:
        return _orphans(folder) if got else []


def _read(folder: Path, name: str) -> Explored:
    """A description that is what its name says."""
    path = _description(folder, name)
    value = check_explored(parse(read(path, most=_MOST_DESCRIPTION), path), path)
    value.pop("schema")
    one = Explored(**{**value, "asked": Asked(**value["asked"])})
    if not _KIND.match(one.asked.kind) or one.name != name:
        raise _damaged(path, "it is of another request than its name says")
    return one


def _data(folder: Path, name: str) -> Path:
    return folder / f"{name}.nc"


def _description(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"'{path}' is damaged ({why}); it is computed anew.")
