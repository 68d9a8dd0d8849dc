"""`obverse run`: run a study, or go on with one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from experiments.cli import options
from experiments.cli.console import guarded, output, quiet_libraries, say, visible
from experiments.cli.progress import TerminalReporter
from experiments.errors import StudyError
from experiments.registry import find_study
from experiments.settings import read_settings

if TYPE_CHECKING:
    from experiments.records import RunRecord

__all__ = ["run"]

_COLOURS = {"supported": "green", "rejected": "red", "undecided": "yellow"}


class Preset(str, Enum):
    """How much to compute."""

    quick = "quick"
    full = "full"


@guarded(stopped="Stopped; run the same command again to go on.")
def run(
    study: Annotated[str, typer.Argument(help="What to study: one of those below.")],
    model: Annotated[
        str | None,
        typer.Option(help="Bundled model, local Hugging Face folder, or hub id."),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(help="Your own facts, as a CSV file.", parser=options.file, metavar="FILE"),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            help="Your own prompt templates, as JSON.", parser=options.file, metavar="FILE"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="What the model is asked: a file, or for some studies a folder.",
            parser=options.file_or_folder,
            metavar="PATH",
        ),
    ] = None,
    berglund_results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results that Berglund et al. published, to be summed up again.",
            parser=options.folder,
            metavar="FOLDER",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other setting of the study; can be given several times.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    preset: Annotated[Preset, typer.Option(help="How much to compute.")] = Preset.quick,
    seed: Annotated[
        int, typer.Option(min=0, max=options.MOST_SEED, help="For everything drawn at random.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run directory.",
            show_default="in runs/, named after the settings",
            parser=options.folder,
            metavar="FOLDER",
        ),
    ] = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    dtype: options.Dtype = "float32",
    revision: options.Revision = None,
    executor: options.ChosenExecutor = None,
    workers: options.Workers = None,
    address: options.Address = None,
    cache: options.Cache = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over in a directory that holds a run.")
    ] = False,
    svg: Annotated[
        bool,
        typer.Option(help="Write the report's figures as SVG, too; needs a Chrome or Chromium."),
    ] = True,
) -> None:
    """Run a study; if it was stopped before, go on where it stopped.

    Writes results, verdicts with their intervals, and a report into the run directory. The same
    command again means the same run; one that is finished is not computed twice.

    Studies that train organisms of their own train and measure them in as many processes as there
    are cores, at most 8, each with a gigabyte of memory; `--executor serial` keeps to one.

    Examples:

    - `obverse run reversal-curse`
    - `obverse run reversal-curse --preset full --seed 1`
    - `obverse run reversal-curse --model gpt2 --facts my-facts.csv --out my-run`
    - `obverse run reversal-curse --set n_pairs=60 --set lens_seconds=0`
    - `obverse run reversal-curse --preset full --executor processes --workers 4`
    - `obverse run reversal-curse --preset full --executor ray --address 10.0.0.1:6379`
    """
    say(f"Starting {study} …")
    lies = options.placing(device_map, offload_folder, max_memory)
    quiet_libraries()
    # Where nothing is said of it the study knows best.
    said = (executor, workers, address) != (None, None, None)
    executed_by = options.make_executor(executor, workers, address) if said else None
    options.use_cache(cache)
    found = find_study(study)
    changes = {
        "model": model,
        "facts": facts,
        "templates": templates,
        "revision": revision,
        "data": data,
        "berglund_results": berglund_results,
    }
    given = {name: str(value) for name, value in changes.items() if value is not None}
    written = read_settings(found, settings or ())
    twice = [name for name in written if name in given]
    if twice:
        raise StudyError(f"'{twice[0]}' is given as an option and with --set; leave one out.")
    config = found.configure(preset.value, {**given, **written})

    from experiments.runner import run_study

    record = run_study(
        found,
        config,
        preset=preset.value,
        seed=seed,
        dtype=dtype,
        device=device,
        placing=lies,
        out=out,
        fresh=fresh,
        executor=executed_by,
        reporter=TerminalReporter(),
        images=svg,
    )
    _print_findings(found.title, record)


def _print_findings(title: str, record: RunRecord) -> None:
    console = output()
    console.print()
    console.print(Text(visible(title), "bold"))
    for sentence in record.headline:
        console.print(visible(sentence), markup=False, soft_wrap=not console.is_terminal)
    console.print()
    for verdict in record.verdicts:
        console.print(
            Text.assemble(
                (f"{visible(verdict.id)} {verdict.outcome}", f"bold {_COLOURS[verdict.outcome]}"),
                f"  {visible(verdict.statement)}",
            ),
            soft_wrap=not console.is_terminal,
        )
    console.print()
    if record.report is not None:
        say(f"Report:   {record.report}")
    say(f"Explorer: obverse app --run {record.path}")
