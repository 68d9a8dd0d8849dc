"""`obverse cache`: what an activation store holds, whether it is intact, and what can go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cache.errors import StorageError
from cache.sizes import show_size
from experiments.cli import options
from experiments.cli.console import guarded, output, quiet_libraries, say, visible
from experiments.cli.progress import TerminalReporter
from experiments.numbers import count, duration

if TYPE_CHECKING:
    from cache.index.queries import Usage
    from cache.keys.space import Space
    from cache.store import ActivationStore

__all__ = ["store_commands"]

_EXIT_DAMAGED = 1

store_commands = typer.Typer(
    name="cache",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look after stored activations: list, verify, tidy up, remove.",
)


@store_commands.command("ls")
@guarded()
def ls(cache: options.StorePath = options.DEFAULT_STORE) -> None:
    """List what is stored: sizes by model and site, age, last use, hits.

    Example:

    - `obverse cache ls --cache activations`
    """
    with _open(cache) as store:
        usage, size = store.usage(), store.size()
        read_only = store.read_only
    if not usage:
        say(f"'{cache}' is empty; fill it with 'obverse harvest'.")
        return
    table = Table(
        "Model",
        "Stored as",
        "Site",
        "Layers",
        "Size",
        "Rows",
        "Tokens",
        "Age",
        "Last used",
        "Hits",
        box=None,
        pad_edge=False,
    )
    for column in table.columns[4:]:
        column.justify = "right"
    now = time.time()
    for layers, entries in _by_layers(usage):
        first = entries[0]
        cells = (
            f"{first.space.label} ({first.space.model[:8]})",
            first.space.dtype,
            first.site.partition(".")[0],
            layers,
            show_size(sum(entry.bytes for entry in entries)),
            count(first.rows),
            count(first.tokens),
            duration(max(0.0, now - min(entry.created for entry in entries))),
            duration(max(0.0, now - max(entry.used for entry in entries))),
            count(max(entry.hits for entry in entries)),
        )
        table.add_row(*(visible(cell) for cell in cells))
    output().print(table)
    say(f"{show_size(size)} in all{', read-only' if read_only else ''}")


@store_commands.command("verify")
@guarded(stopped="Stopped; nothing was changed by that.")
def verify(
    cache: options.StorePath = options.DEFAULT_STORE,
    model: Annotated[
        str | None, typer.Option(help="Compute damaged rows of this model again.")
    ] = None,
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    revision: options.Revision = None,
) -> None:
    """Compare every byte with its checksum; name what is damaged and set it aside.

    Ends with exit code 1 if something was damaged. Damaged rows are computed again when they are
    next asked for, or now with --model.

    Examples:

    - `obverse cache verify`
    - `obverse cache verify --model gpt2`
    """
    lies = options.placing(device_map, offload_folder, max_memory)
    quiet_libraries()
    loaded = None
    if model is not None:
        from interp import load_model

        loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
    with _open(cache) as store, TerminalReporter().stage("verifying") as progress:
        report = store.verify(loaded, progress=progress)
    for finding in report.findings:
        say(f"  {finding.message}")
    say(f"{report.shards:,} files ({show_size(report.bytes)}) are intact.")
    if report.repaired:
        say(f"{report.repaired:,} rows were computed again.")
    if report.findings:
        raise typer.Exit(_EXIT_DAMAGED)


@store_commands.command("gc")
@guarded()
def gc(
    cache: options.StorePath = options.DEFAULT_STORE,
    budget: Annotated[
        str | None, typer.Option(help="Evict what was used longest ago beyond this size.")
    ] = None,
) -> None:
    """Remove leftovers of killed processes, what was set aside as damaged, and what is too much.

    Example:

    - `obverse cache gc --budget 100GB`
    """
    with _open(cache, budget) as store:
        before = store.size()
        done = store.gc()
        freed = before - store.size()
    for line in done:
        say(f"  {line}")
    say(f"{show_size(freed)} of activations evicted." if freed else "Nothing was evicted.")


@store_commands.command("rm")
@guarded()
def rm(
    model: Annotated[
        str | None, typer.Option(help="A model's name or the start of its fingerprint, as in ls.")
    ] = None,
    sites: Annotated[
        str | None, typer.Option(help="Only these, such as z or resid_post.3,resid_post.4.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Of all models.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache: options.StorePath = options.DEFAULT_STORE,
) -> None:
    """Remove the activations of a model, or some of its sites.

    Examples:

    - `obverse cache rm --model gpt2 --sites z`
    - `obverse cache rm --all --yes`
    """
    if (model is None) != everything:
        raise StorageError("Say what to remove: --model NAME, or --all.")
    with _open(cache) as store:
        spaces = [space for space in store.spaces() if everything or _is(space, str(model))]
        stored = {
            space.id: [
                entry.site
                for entry in store.usage()
                if entry.space == space and _among(entry.site, sites)
            ]
            for space in spaces
        }
        chosen = [space for space in spaces if stored[space.id]]
        if not chosen:
            raise StorageError("Nothing of that is stored; see 'obverse cache ls'.")
        what = ", ".join(f"{space.label} ({space.dtype})" for space in chosen)
        if not yes and not typer.confirm(f"Remove {visible(sites or 'all')} of {visible(what)}?"):
            say("Nothing was removed.")
            return
        freed = sum(
            store.remove(space, None if sites is None else stored[space.id]) for space in chosen
        )
    say(f"Removed {show_size(freed)}.")


def _open(path: Path, budget: str | None = None) -> ActivationStore:
    from cache.store import ActivationStore

    if not path.is_dir():
        raise StorageError(
            f"There is no store '{path}'; name one with --cache, or fill one: obverse harvest."
        )
    return ActivationStore(path, budget)


def _by_layers(usage: list[Usage]) -> Iterator[tuple[str, list[Usage]]]:
    """Layers that hold the same rows, together: ("0–11", […])."""

    def kind(entry: Usage) -> tuple[str, str, str, int, int]:
        name = entry.site.partition(".")[0]
        return entry.space.label, entry.space.id, name, entry.rows, entry.tokens

    for _, group in groupby(sorted(usage, key=kind), kind):
        entries = list(group)
        yield layer_ranges([entry.site for entry in entries]), entries


def layer_ranges(sites: list[str]) -> str:
    """Of "z.0", "z.1", "z.3" the layers: "0–1, 3". What has none is named as it is."""
    numbers = [site.rpartition(".")[2] for site in sites]
    if all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
        return number_ranges(sorted(map(int, numbers)))
    return ", ".join(sorted(numbers))


def number_ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] as "0–2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _is(space: Space, model: str) -> bool:
    return space.label == model or Path(model).name == space.label or space.model.startswith(model)


def _among(site: str, sites: str | None) -> bool:
    return sites is None or any(
        site == one.strip() or site.partition(".")[0] == one.strip() for one in sites.split(",")
    )
