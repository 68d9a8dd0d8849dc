"""The folder of a training: who owns it, checkpoints on the way, and the finished organism.

While a training runs, its folder holds `training.json` (what is being trained) and
`training.safetensors` (the last checkpoint). Every file is written beside its place and then
renamed, and `organism.json` comes last, so that a folder that has it is complete. Models of steps
on the way, where they are kept, stand in the folder `steps`, each a folder of its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import StorageError
from cache.files import is_real, read_bytes, real_folder, write_atomic
from experiments.organisms.errors import OrganismError
from experiments.organisms.facts import FACTS_FILE, TEMPLATES_FILE

if TYPE_CHECKING:
    from torch import Tensor

ORGANISM_FILE = "organism.json"
DATA_FILE = "data.json"
"""What a study asks an organism; that of the reversal curse has facts and templates instead."""
FINISHED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    FACTS_FILE,
    TEMPLATES_FILE,
    DATA_FILE,
    ORGANISM_FILE,
)
STEPS_FOLDER = "steps"
_CLAIM, _STATE, _STAGING = "training.json", "training.safetensors", "training.staging"
_TRAINING_FILES = (_CLAIM, _STATE, _STAGING, f"{_CLAIM}.tmp", f"{_STATE}.tmp")
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands after `step` steps: tensors by name, and the losses so far (nats)."""

    step: int
    losses: tuple[float, ...]
    tensors: dict[str, Tensor]


def claim(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Take `folder` for the training that `identity` describes; True where it is finished already.

    `identity` is plain JSON data: the config, and the versions that the bits depend on. A folder
    that is missing or empty is taken, one that was begun with the same identity is gone on with.

    Raises `OrganismError` for a folder that holds another training or other files.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
        if not names - {f"{_CLAIM}.tmp"}:
            _write_json(folder / _CLAIM, identity)
            return False
    foreign = sorted(names - {*FINISHED_FILES, *_TRAINING_FILES, STEPS_FOLDER})
    if foreign or not names & {_CLAIM, ORGANISM_FILE}:
        other = (foreign or sorted(names))[0]
        raise OrganismError(
            f"{folder} holds files that are not of this training, such as {other}; "
            "choose an empty folder."
        )
    finished = ORGANISM_FILE in names
    found = read_json(folder / (ORGANISM_FILE if finished else _CLAIM))
    differing = [key for key, value in identity.items() if found.get(key) != value]
    if differing:
        raise OrganismError(
            f"{folder} holds an organism whose {' and '.join(differing)} differ; "
            "choose an empty folder."
        )
    if finished:
        _remove_training_files(folder)
    return finished


def taken(folder: Path, identity: Mapping[str, Any], keep: Collection[int]) -> bool:
    """As `claim`; True where it is finished, and has kept the models of the steps `keep`.

    Raises `OrganismError` also where it was finished without one of these.
    """
    if not claim(folder, identity):
        return False
    missing = sorted(set(keep) - kept_steps(folder).keys())
    if missing:
        raise OrganismError(
            f"{folder} holds a finished organism without its step {missing[0]}; choose an empty "
            "folder to train it again."
        )
    return True


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise `OrganismError` where files cannot be written within the context."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OrganismError(
            f"Cannot write to {folder} ({reason}); choose another folder or make room."
        ) from error


def save_state(folder: Path, state: TrainingState) -> None:
    """Replace the last checkpoint in `folder`.

    Raises `OrganismError` where it cannot be written.
    """
    from safetensors.torch import save_file

    progress = json.dumps({"step": state.step, "losses": state.losses})
    temporary = folder / f"{_STATE}.tmp"
    with writing(folder):
        temporary.unlink(missing_ok=True)  # not through a link that stands there
        save_file(state.tensors, temporary, metadata={"progress": progress})
        os.replace(temporary, folder / _STATE)


def load_state(folder: Path) -> TrainingState | None:
    """The last checkpoint in `folder`, if there is one.

    Raises `OrganismError` where it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / _STATE
    if not os.path.lexists(path):
        return None
    try:
        if not is_real(path):
            raise ValueError("it is a link, a device or the like")
        with safe_open(path, framework="pt") as stored:
            progress = json.loads(stored.metadata()["progress"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        losses = tuple(map(float, progress["losses"]))
        if progress["step"] != len(losses):
            raise ValueError("each step has a loss")
        return TrainingState(len(losses), losses, tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise OrganismError(
            f"Cannot read the checkpoint {path}; remove it to train from the start."
        ) from error


def planted_bottleneck(folder: Path | None) -> float:
    """In which share of its sentences the organism in a folder was trained through names' ends.

    0 where it was not, and where nothing (or nothing credible) is said of it: the file may be
    anybody's.
    """
    if folder is None:
        return 0.0
    if folder.parent.name == STEPS_FOLDER:  # a model on the way, whose record is the organism's
        folder = folder.parent.parent
    try:
        config = read_json(folder / ORGANISM_FILE).get("config")
    except OrganismError:
        return 0.0
    share = config.get("name_bottleneck") if isinstance(config, dict) else None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        return 0.0
    return float(share)


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Raise `OrganismError` where a checkpoint is not one of the model it is put into."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise OrganismError(
            f"The checkpoint {folder / _STATE} is of another training or damaged; remove it to "
            "train from the start."
        ) from error


def staging(folder: Path) -> Path:
    """An empty folder inside `folder` to write the finished files into."""
    path = folder / _STAGING
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def discard(folder: Path) -> None:
    """Remove what a training left in `folder`, finished or not; other people's files stay."""
    _remove_training_files(folder)
    # Last what tells that there is one.
    for name in sorted(FINISHED_FILES, key=(ORGANISM_FILE,).count):
        (folder / name).unlink(missing_ok=True)
    for path in kept_steps(folder).values():
        shutil.rmtree(path, ignore_errors=True)
    for emptied in (folder / STEPS_FOLDER, folder):
        with suppress(OSError):
            emptied.rmdir()


def kept_steps(folder: Path) -> dict[int, Path]:
    """The models on the way that a training in `folder` has kept so far, by step, in order."""
    try:
        # What a link leads to is somebody else's.
        names = [path.name for path in real_folder(folder, STEPS_FOLDER).iterdir()]
    except (OSError, StorageError):
        return {}
    steps = sorted(int(name) for name in names if name.isdecimal())
    return {step: folder / STEPS_FOLDER / str(step) for step in steps}


def keep_step(folder: Path, step: int) -> None:
    """Move what was staged to where the model of `step` is kept, whole or not at all."""
    try:
        place = real_folder(folder, STEPS_FOLDER) / str(step)
    except StorageError as error:
        raise OrganismError(f"Step {step} cannot be kept: {error}") from error
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(folder / _STAGING, place)


def finish(folder: Path, record: Mapping[str, Any]) -> None:
    """Move the staged files into place, `record` last, and remove what only training needed."""
    path = folder / _STAGING
    for name in FINISHED_FILES:
        if name != ORGANISM_FILE and (path / name).exists():
            os.replace(path / name, folder / name)
    _write_json(path / ORGANISM_FILE, record)
    os.replace(path / ORGANISM_FILE, folder / ORGANISM_FILE)
    _remove_training_files(folder)


def _remove_training_files(folder: Path) -> None:
    shutil.rmtree(folder / _STAGING, ignore_errors=True)
    for name in _TRAINING_FILES:
        if name != _STAGING:
            (folder / name).unlink(missing_ok=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    try:
        write_atomic(path, text, temporary=f"{path.name}.tmp")
    except StorageError as error:
        raise OrganismError(
            f"Cannot write to {path.parent} ({error}); choose another folder or make room."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path, _MOST_BYTES, links=False))
    except (StorageError, ValueError, RecursionError) as error:
        raise OrganismError(f"Cannot read {path}; choose an empty folder.") from error
    return content if isinstance(content, dict) else {}
