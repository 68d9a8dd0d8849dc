"""A run of the study: read, train where that is asked for, score, judge, report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from experiments.berglund import celebrities, invented, judge, published, report, tune
from experiments.berglund.celebrities import Pair
from experiments.berglund.config import Config
from experiments.berglund.findings import headline
from experiments.berglund.invented import WAYS, name_of
from experiments.berglund.measured import Measured
from experiments.berglund.people import People, read_people
from experiments.berglund.published import DIRECTIONS, SUFFIX
from experiments.berglund.scoring import Item, score
from experiments.context import Context
from experiments.errors import RunError, StudyError
from experiments.numbers import duration
from experiments.readable import check_readable
from experiments.reports.publish import publish
from experiments.run_directory.layout import HEADLINE
from experiments.study import Verdict
from interp import load_model
from interp.model.memory import fitting_threads
from interp.model.model import Model

__all__ = ["run"]

# A chunk is kept when the run is stopped.
_CHUNK = 256
_SAMPLE = 8


def run(config: Config, context: Context) -> Sequence[Verdict]:
    """Measure, judge, and write the report."""
    folder = _data(config)
    if config.tune != "none" and config.experiments not in ("all", "1"):
        raise StudyError("Only the facts of experiment 1 can be trained on; leave tune out.")
    # All files are read before a large model is loaded.
    first, second = config.experiments in ("all", "1"), config.experiments in ("all", "2")
    people = read_people(folder).some(config.n_people, config.n_wordings) if first else None
    every = celebrities.read_pairs(folder) if second else ()
    results = published.published_results(_results_folder(config, folder), context)
    if people is not None:
        for path in people.paths:
            context.input_file(path.name, path)
    if second:
        context.input_file(published.PAIRS, folder / published.PAIRS)
    if config.experiments == "results":
        return _finish(config, context, None, Measured(published=_table(results, context)), [])
    pairs = celebrities.some(every, config.n_pairs, context.rng("pairs")) if second else ()
    model = context.model()
    questions = _items(config, context, people, pairs, every)
    places = _places(folder, people, pairs)
    for name, items in questions.items():
        # Other answers are right ones of other questions.
        right = [one for one in items if one.kind == "right"]
        check_readable(model, [i.prompt for i in right], [i.text for i in right], places[name])
    training = None
    if config.tune != "none" and people is not None:
        model, training = _tuned(config, context, model, people)
    with fitting_threads(model):
        _tell(model, questions, context)
        scores = {
            name: context.chunks(name, items, partial(score, model), _CHUNK)
            for name, items in questions.items()
        }
    measured = Measured(published=_table(results, context), training=training)
    verdicts = []
    if people is not None:
        of_ways = {way: scores[name_of(way)] for way in WAYS}
        measured.people = context.table("people", lambda _: invented.by_question(people, of_ways))
        # Of prompts that are no targets nothing was ever an answer.
        uttered = config.tune == "none" or config.loss == "all"
        verdicts += [
            judge.judge_untold(measured.people, "name first", uttered=uttered),
            judge.judge_untold(measured.people, "description first", uttered=uttered),
            judge.judge_both(measured.people),
        ]
    if second:
        of_pairs = {asked: scores[f"pairs_{asked}"] for asked in DIRECTIONS}
        measured.pairs = context.table("pairs", lambda _: celebrities.by_pair(pairs, of_pairs))
        verdicts.append(judge.judge_celebrities(measured.pairs))
    return _finish(config, context, model, measured, verdicts)


def _data(config: Config) -> Path:
    given = config.data if config.data is not None else config.berglund_results
    if given is None:
        raise StudyError(
            "This study needs the authors' files, which are not part of Obverse: fetch them from "
            "github.com/lukasberglund/reversal_curse (data/celebrity_relations and the files of "
            "data/reverse_experiments), put them into one folder, and give it as --data."
        )
    if config.data is None and config.experiments != "results":
        raise StudyError(
            "There are results to sum up, and no --data to ask a model about; give it, or use "
            "--set experiments=results."
        )
    folder = Path(os.path.expanduser(given))
    if not folder.is_dir():
        raise StudyError(f"There is no folder '{given}'; give that of the authors' files.")
    return folder


def _results_folder(config: Config, data: Path) -> str | None:
    """Where published results are: given, or beside the other files."""
    if config.berglund_results is not None:
        return config.berglund_results
    return str(data) if config.experiments == "results" or list(data.glob(f"*{SUFFIX}")) else None


def _table(results: list[published.Published] | None, context: Context) -> pd.DataFrame | None:
    if results is None:
        return None
    return context.table("published", lambda _: published.summary(results))


def _items(
    config: Config,
    context: Context,
    people: People | None,
    pairs: Sequence[Pair],
    every: Sequence[Pair],
) -> dict[str, list[Item]]:
    """Everything that is scored, by the name of its result."""
    found: dict[str, list[Item]] = {}
    if people is not None:
        for way in WAYS:
            name = name_of(way)
            rng = context.rng(name)
            found[name] = invented.asked_items(people, way, config.n_others, rng)
    for asked in DIRECTIONS if pairs else ():
        name = f"pairs_{asked}"
        rng = context.rng(name)
        found[name] = celebrities.asked_items(pairs, every, asked, config.n_others, rng)
    return found


def _places(folder: Path, people: People | None, pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Where each question stands, by the name of its result."""
    found = {
        f"pairs_{wanted}": [
            f"'{folder / published.PAIRS}', line {one.line}, asked for the {wanted}"
            for one in pairs
        ]
        for wanted in DIRECTIONS
    }
    for way, asked in people.asked.items() if people is not None else ():
        lines = [one.line for one in asked]
        found[name_of(way)] = [f"'{line.path}', line {line.number}" for line in lines]
    return found


def _tuned(
    config: Config, context: Context, model: Model, people: People
) -> tuple[Model, pd.DataFrame]:
    tune.check_tuning(config, model)
    folder = context.workspace("tuned")
    losses = context.table(
        "training",
        lambda progress: tune.train(
            config, people, model, folder, context.seed_for("tune"), progress, context.note
        ),
    )
    tune.forget_checkpoint(folder)
    found = tune.trained(folder)
    if found is None:
        raise RunError(f"The trained model is not in '{folder}' any more; start over with --fresh.")
    changed = load_model(found, device=model.device, dtype=model.dtype)
    # Scores that are stored already are of the model that was trained here, and so are later ones.
    noted = context.table("tuned", lambda _: pd.DataFrame({"fingerprint": [changed.fingerprint]}))
    if noted["fingerprint"].tolist() != [changed.fingerprint]:
        raise RunError(f"The model in '{found}' is not the one trained there; use --fresh.")
    return changed, losses


def _tell(model: Model, questions: Mapping[str, Sequence[Item]], context: Context) -> None:
    """Say beforehand how long the scoring takes, from a few of each kind: the second time."""
    seconds = 0.0
    count = 0
    for items in questions.values():
        few = items[:: max(1, len(items) // _SAMPLE)][:_SAMPLE]
        for _ in range(2):
            start = time.perf_counter()
            score(model, few)
            taken = time.perf_counter() - start
        seconds += taken / len(few) * len(items)
        count += len(items)
    context.note(f"{count:,} answers are scored: about {duration(seconds)}.")


def _finish(
    config: Config,
    context: Context,
    model: Model | None,
    measured: Measured,
    verdicts: list[Verdict],
) -> list[Verdict]:
    name = context.provenance.model["name"] if context.provenance.model else ""
    sentences = headline(name, config, measured)
    context.table(HEADLINE, lambda _: pd.DataFrame({"sentence": sentences}))
    publish(report.paper(config, model, measured, verdicts, sentences, context.provenance), context)
    return verdicts
