"""Tuned and Jacobian lenses: those that lie on the disk, and those that are fitted here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from app.compute.background.request import Request, in_one
from app.compute.turns import ModelSpec
from cache.files import real_folder
from experiments.reporter import Progress
from experiments.run_directory.layout import WORK

if TYPE_CHECKING:
    import xarray as xr

    from interp.lens.jacobian.lens import JacobianLens
    from interp.lens.tuned import TunedLens
    from interp.model.model import Model

    Lens: TypeAlias = TunedLens | JacobianLens

FILES = {"tuned": "lens.json", "jacobian": "lens.pt"}
"""By kind of lens the file that tells that a folder holds one."""

STEPS, BATCH, PROMPTS, SKIPPED = 60, 1024, 48, 1
"""Of the tuned lens, steps and tokens in each; of the Jacobian lens, prompts, and tokens that are
left out at the beginning of each. Questions are short, and of each all but BOS is read."""

LONGEST = 120.0
"""Seconds that a fit may take by its estimate: others wait meanwhile."""


@dataclass(frozen=True)
class Place:
    """A folder that holds a lens, and when it was written."""

    folder: str
    written: int


def places(kind: str, model: str, run: Path | None, source: str) -> list[Path]:
    """Where a lens is looked for: in the run, beside the model's weights, and where `obverse
    tune-lens` and `obverse fit-lens` put theirs.

    Args:
        model: the name of the model.
        source: what it was loaded from, which may be a folder.

    Raises:
        StorageError: a link leads out of the run.
    """
    default = model if kind == "tuned" else f"{model}-jacobian"
    found = [] if run is None else [own_place(run, kind)]
    beside = Path(source).expanduser()
    if beside.is_dir():
        found.append(beside / f"lens-{kind}")
    return [*found, Path("lenses") / default]


def own_place(run: Path, kind: str) -> Path:
    """Where a lens that is fitted here is kept with a run.

    Raises:
        StorageError: a link leads out of the run.
    """
    return real_folder(run, WORK, f"lens-{kind}")


def there(kind: str, folders: list[Path]) -> Place | None:
    """The first of the folders that holds a lens."""
    for folder in folders:
        try:
            return Place(str(folder), (folder / FILES[kind]).stat().st_mtime_ns)
        except OSError:
            continue
    return None


def load(model: Model, kind: str, place: Place) -> Lens:
    """Read it. Raises StorageError, ModelError: it is damaged, or another model's."""
    from interp.lens.jacobian.lens import JacobianLens
    from interp.lens.tuned import TunedLens

    return (TunedLens if kind == "tuned" else JacobianLens).load(place.folder, model)


def seconds(model: Model, kind: str, texts: tuple[str, ...]) -> float:
    """Roughly, how long a fit takes."""
    from interp.lens.cost import jacobian_seconds, tuned_seconds

    if kind == "tuned":
        return tuned_seconds(model, STEPS, BATCH)
    return jacobian_seconds(model, sum(len(ids) for ids, _ in model.encode(chosen(kind, texts))))


def chosen(kind: str, texts: tuple[str, ...]) -> list[str]:
    """Those of the texts that a lens is fitted on: all, or as many as a Jacobian lens needs."""
    if kind == "tuned" or len(texts) <= PROMPTS:
        return list(texts)
    return [texts[i * len(texts) // PROMPTS] for i in range(PROMPTS)]


def request(
    spec: ModelSpec, kind: str, texts: tuple[str, ...], folder: Path | None
) -> Request[Lens]:
    """A fit as a job; others get their turn between its steps."""
    name = {"tuned": "Tuned lens", "jacobian": "Jacobian lens"}[kind]
    return Request(
        spec,
        ("lens", kind, texts, None if folder is None else str(folder)),
        f"{name} of {len(chosen(kind, texts))} sentences",
        fit(kind, texts, folder),
        "steps done" if kind == "tuned" else "rows done",
        gives_way=True,
    )


def ranks(
    spec: ModelSpec,
    lens_key: tuple[Hashable, ...],
    lens: Lens | None,
    title: str,
    asked: tuple[tuple[str, str], ...],
) -> Request[xr.Dataset]:
    """The rank of each answer's first token after each block, as a job.

    Args:
        lens_key: what tells the lens from others.
        lens: the logit lens if None.
        title: the lens and the way of asking, for people.
        asked: prompts and answers.
    """

    def read(model: Model, progress: Progress) -> xr.Dataset:
        from interp.lens.logit import logit_lens

        prompts, answers = zip(*asked, strict=True)
        found = logit_lens(
            model,
            list(prompts),
            list(answers),
            lens=lens,
            k=1,
            positions="last",
            progress=progress,
        )
        return found[["answer_rank"]]

    return Request(
        spec,
        ("ranks", *lens_key, asked),
        f"Ranks of {len(asked)} answers: {title}",
        in_one(read),
        "prompts read",
        gives_way=True,
    )


def fit(
    kind: str, texts: tuple[str, ...], folder: Path | None
) -> Callable[[Model, Progress], Iterator[Lens]]:
    """Work that fits one, and keeps it in a folder, where it also goes on when it was stopped."""

    def work(model: Model, progress: Progress) -> Iterator[Lens]:
        from interp.lens.jacobian.fitting import fit_jacobian_lens
        from interp.lens.training import train_tuned_lens

        some = chosen(kind, texts)
        if kind == "tuned":
            yield train_tuned_lens(
                model, some, steps=STEPS, batch_tokens=BATCH, folder=folder, progress=progress
            )
        else:
            yield fit_jacobian_lens(
                model, some, skip_first=SKIPPED, folder=folder, progress=progress
            )

    return work
