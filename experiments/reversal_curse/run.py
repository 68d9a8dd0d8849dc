"""A run of the study: what is measured, one stored result after the other, judged and reported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import xarray as xr

from experiments.berglund.published import published_results, summary
from experiments.berglund.report import published_section
from experiments.context import Context
from experiments.organisms.facts import DIRECTIONS, TEMPLATES_FILE, Direction, Templates
from experiments.reports.publish import publish
from experiments.reversal_curse import cost, forecast, lenses, measure, patch, retrieve
from experiments.reversal_curse import facts as fact_files
from experiments.reversal_curse.arms.stages import trained_otherwise
from experiments.reversal_curse.case import Case, Finding, known_as_told
from experiments.reversal_curse.checks import Numbered, check_asked
from experiments.reversal_curse.config import Config
from experiments.reversal_curse.findings import headline
from experiments.reversal_curse.hypotheses.every import investigate
from experiments.reversal_curse.hypotheses.lens import LEAST_QUESTIONS
from experiments.reversal_curse.measure import Measurements, Subject
from experiments.reversal_curse.prompts import check_answers, check_prompts
from experiments.reversal_curse.report.paper import paper
from experiments.reversal_curse.twin import cured_twin
from experiments.run_directory.layout import HEADLINE
from experiments.study import Verdict
from interp.errors import ModelError
from interp.loading.where import bundled_models
from interp.model.memory import fitting_threads

# A chunk of name scores is kept when the run is stopped; a few seconds of work on a small model.
_CHUNK = 2048
_LENS_NAMES = 200


def run(config: Config, context: Context) -> Sequence[Verdict]:
    """Measure, judge, and write report.html."""
    published = published_results(config.berglund_results, context)
    subject = load_subject(config, context)
    forecast.tell(config, context, subject, cost.estimate(subject, config.n_names, _LENS_NAMES))
    case, findings = _investigated(config, context, subject)
    others = trained_otherwise(config, context, investigated)
    with fitting_threads(subject.model):
        asked = measure.with_questions(case.measured.answers, subject.facts)
        names = len({name for fact in subject.facts for name in (fact.subject, fact.object)})
        sentences = headline(subject.model.name, asked, names)
        context.table(HEADLINE, lambda _: pd.DataFrame({"sentence": sentences}))
        report = paper(case, findings, sentences, others)
        if published is not None:
            table = context.table("published", lambda _: summary(published))
            report = replace(report, sections=[*report.sections, published_section(table)])
        publish(report, context)
    return [verdict for finding in findings for verdict in finding.verdicts]


def investigated(config: Config, context: Context) -> tuple[Case, list[Finding]]:
    """The model with what was measured of it, and what each hypothesis says."""
    return _investigated(config, context, load_subject(config, context))


def _investigated(config: Config, context: Context, subject: Subject) -> tuple[Case, list[Finding]]:
    with fitting_threads(subject.model):
        measured = take_measurements(config, context, subject)
        twin = partial(cured_twin, config, context)
        case = Case(subject, measured, config, context, twin)
        return case, investigate(case)


def load_subject(config: Config, context: Context) -> Subject:
    """The model with its facts and templates; every file is checked before anything is computed.

    Raises:
        FactsError, ModelError: a file or the model cannot be used.
    """
    if config.facts is not None:
        # Bad files are told before a large model is loaded.
        folder = bundled_models().get(config.model) or Path(os.path.expanduser(config.model))
        _read_files(config, folder)
    model = context.model()
    facts_path, numbered, templates_path, templates = _read_files(config, model.path)
    context.input_file("facts" if config.facts else facts_path.name, facts_path)
    if templates_path is None:
        context.no_input_file(TEMPLATES_FILE)
    else:
        name = "templates" if config.templates else templates_path.name
        context.input_file(name, templates_path)
    facts = tuple(fact for _, fact in numbered)
    subject = Subject(model, facts, templates)
    # Before all facts are made into prompts, which takes long too.
    cost.check_memory(subject, cost.estimate(subject, config.n_names, _LENS_NAMES))
    check_prompts(model, facts_path, numbered, templates)
    for direction in DIRECTIONS:
        check_answers(model, facts, direction, templates[direction].trained[0])
    return subject


def _read_files(
    config: Config, folder: Path | None
) -> tuple[Path, list[Numbered], Path | None, dict[Direction, Templates]]:
    """Facts and templates with their paths, those in the model's folder where none are given."""
    facts_path = fact_files.find_facts(folder, config.facts)
    numbered = fact_files.read_numbered(facts_path)
    templates_path = fact_files.find_templates(folder, config.templates)
    templates = (
        fact_files.DEFAULT_TEMPLATES
        if templates_path is None
        else fact_files.read_templates(templates_path)
    )
    check_asked(facts_path, numbered, templates)
    return facts_path, numbered, templates_path, templates


def take_measurements(config: Config, context: Context, subject: Subject) -> Measurements:
    """Everything that is measured, one stored result after the other."""
    answers = context.table("answers", lambda progress: measure.answer_all(subject, progress))
    chosen = measure.pick_names(subject.facts, config.n_names, context.rng("names"))
    grid = measure.name_grid(subject.facts, chosen)
    # One token of each name is read from logits that are there anyway: more names cost nothing.
    of_lens = measure.pick_names(subject.facts, _LENS_NAMES, context.rng("lens names"))
    scores: dict[Direction, pd.DataFrame] = {}
    names: dict[Direction, xr.Dataset] = {}
    ranks: dict[Direction, xr.Dataset] = {}
    for direction in DIRECTIONS:
        scores[direction] = context.chunks(
            f"names_{direction}",
            grid,
            partial(measure.score_names, subject, direction),
            _CHUNK,
        )
        ranks[direction] = context.dataset(
            f"lens_{direction}", partial(measure.lens_ranks, subject, direction)
        )
        names[direction] = context.dataset(
            f"lens_names_{direction}", partial(measure.lens_names, subject, direction, of_lens)
        )
    said = context.table("said", partial(measure.complete_all, subject))
    facts = context.table("facts", lambda _: measure.fact_table(subject, answers, scores, said))
    known = facts["forward_correct"].to_numpy(dtype=bool)
    asked = sum(len(known_as_told(facts, names, direction)) for direction in DIRECTIONS)
    # Without facts that it knows as told nothing can be missing the other way round.
    fits = (
        lenses.fits(subject, context.rng("lenses"), config.lens_seconds, context.note)
        if asked >= LEAST_QUESTIONS
        else {}
    )
    others: dict[str, dict[Direction, xr.Dataset]] = {}
    for kind, fit in fits.items():
        try:
            others[kind] = {
                direction: context.dataset(
                    f"lens_names_{kind.lower()}_{direction}",
                    partial(measure.lens_names, subject, direction, of_lens, fit=fit),
                )
                for direction in DIRECTIONS
            }
        except ModelError as error:
            context.note(f"H2 is not judged under the {kind} lens: {error}")
    rows = patch.pick_pairs(subject.facts, known, config.n_pairs, context.rng("pairs"))
    seed = context.seed_for("partners")
    maps = {
        (direction, site): context.dataset(
            f"patching_{direction}_{site}",
            partial(
                patch.patching_map,
                subject,
                rows,
                direction,
                site,
                seed,
                executor=context.executor,
            ),
        )
        for direction in DIRECTIONS
        for site in patch.SITES
    }
    sham = context.dataset(
        "patching_sham",
        # Any third name takes the foil away, which is half of a logit difference; the answer's own
        # log-probability rises only where the answer comes back.
        partial(
            patch.patching_map,
            subject,
            rows,
            "forward",
            "resid_pre",
            seed,
            executor=context.executor,
            metric="first_token_logprob",
            sham=True,
        ),
    )
    probes = {
        (told, direction): context.dataset(
            f"retrieval_{told}_asked_{direction}",
            partial(
                retrieve.probe_name,
                subject,
                direction,
                known_as_told(facts, names, told),
                context.seed_for("retrieval"),
            ),
        )
        for told in DIRECTIONS
        for direction in DIRECTIONS
    }
    accuracy = context.table(
        "accuracy",
        lambda _: measure.accuracy(measure.with_questions(answers, subject.facts)),
    )
    return Measurements(answers, accuracy, facts, names, ranks, others, maps, sham, probes)
