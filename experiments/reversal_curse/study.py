"""The reversal curse: a model that learned "A's mother is B" cannot say whose mother B is.

Berglund et al. 2023, "The Reversal Curse". Accuracy and log-probabilities in both directions,
the logit lens and patching on both, and a verdict on each hypothesis with its control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from experiments.context import Context
from experiments.errors import StudyError
from experiments.layout import HEADLINE
from experiments.organisms.facts import DIRECTIONS, Direction
from experiments.reversal_curse import facts as fact_files
from experiments.reversal_curse import measure, patch
from experiments.reversal_curse.findings import headline
from experiments.reversal_curse.hypotheses import absence, subject_token
from experiments.reversal_curse.measure import Measurements, Subject
from experiments.reversal_curse.prompts import check_answers, valid_answers
from experiments.reversal_curse.report import render
from experiments.study import Study, Verdict
from interp.batching import fitting_threads

# A chunk of name scores is kept when the run is stopped; a few seconds of work on a small model.
_CHUNK = 2048
_LENS_NAMES = 200


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Attributes:
        model: name of a bundled organism, local folder, or hub id.
        revision: branch, tag or commit on the hub.
        facts: CSV of facts; those beside the model's weights if left out.
        templates: JSON of templates; those beside the model, or plain ones, if left out.
        n_names: how many other names of each split an answer is compared with.
        n_pairs: how many pairs of each split are patched.
    """

    model: str = "reversal-curse"
    revision: str | None = None
    facts: str | None = None
    templates: str | None = None
    n_names: int = 20
    n_pairs: int = 30

    @classmethod
    def preset(cls, name: str) -> Config:
        """ "quick" (a minute on the bundled organism) or "full" (all names and pairs)."""
        if name == "quick":
            return cls()
        if name == "full":
            return cls(n_names=100, n_pairs=200)
        raise StudyError(f"Unknown preset '{name}'; choose 'quick' or 'full'.")


def run(config: Config, context: Context) -> Sequence[Verdict]:
    """Measure, judge, and write report.html."""
    subject = load_subject(config, context)
    with fitting_threads(subject.model):
        measured = take_measurements(config, context, subject)
        verdicts = judge(subject, measured, context.seed)
        context.table(HEADLINE, lambda _: _sentences(subject, measured))
        context.document("report.html", render(subject, measured, verdicts, context.provenance))
    return verdicts


def _sentences(subject: Subject, measured: Measurements) -> pd.DataFrame:
    return pd.DataFrame({"sentence": headline(subject.model.name, measured.accuracy)})


def load_subject(config: Config, context: Context) -> Subject:
    """The model with its facts and templates; every file is checked before anything is computed.

    Raises:
        FactsError, ModelError: a file or the model cannot be used.
    """
    if config.facts is not None:
        # A bad file is told before a large model is loaded.
        fact_files.read_facts(fact_files.find_facts(None, config.facts))
    model = context.model()
    facts = fact_files.read_facts(
        context.input_file("facts", fact_files.find_facts(model.path, config.facts))
    )
    where = fact_files.find_templates(model.path, config.templates)
    templates = (
        fact_files.DEFAULT_TEMPLATES
        if where is None
        else fact_files.read_templates(context.input_file("templates", where))
    )
    for direction in DIRECTIONS:
        check_answers(model, facts, direction, templates[direction].trained[0])
    return Subject(model, facts, templates)


def take_measurements(config: Config, context: Context, subject: Subject) -> Measurements:
    """Everything that is measured, one stored result after the other."""
    answers = context.table("answers", lambda progress: measure.answer_all(subject, progress))
    chosen = measure.pick_names(subject.facts, config.n_names, context.rng("names"))
    grid = measure.name_grid(subject.facts, chosen)
    # One token of each name is read from logits that are there anyway: more names cost nothing.
    of_lens = measure.pick_names(subject.facts, _LENS_NAMES, context.rng("lens names"))
    scores: dict[Direction, pd.DataFrame] = {}
    names: dict[Direction, xr.Dataset] = {}
    lens: dict[Direction, xr.Dataset] = {}
    for direction in DIRECTIONS:
        scores[direction] = context.chunks(
            f"names_{direction}",
            grid,
            partial(measure.score_names, subject, direction),
            _CHUNK,
        )
        lens[direction] = context.dataset(
            f"lens_{direction}", partial(measure.lens_ranks, subject, direction)
        )
        names[direction] = context.dataset(
            f"lens_names_{direction}", partial(measure.lens_names, subject, direction, of_lens)
        )
    said = context.table("said", partial(measure.complete_all, subject))
    facts = context.table("facts", lambda _: measure.fact_table(subject, answers, scores, said))
    known = facts["forward_correct"].to_numpy(dtype=bool)
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
    accuracy = context.table("accuracy", lambda _: measure.accuracy(answers))
    return Measurements(answers, accuracy, facts, names, lens, maps, sham)


def judge(subject: Subject, measured: Measurements, seed: int) -> list[Verdict]:
    """A verdict on each hypothesis."""
    known = measured.facts["forward_correct"].to_numpy(dtype=bool)
    split = measured.facts["split"].to_numpy()
    residual = measured.maps["forward", "resid_pre"]
    rows = residual["fact"].values
    h1 = subject_token.judge(
        residual,
        measured.sham,
        measured.lens["forward"]["answer_logprob"].isel(layer=-1).values[rows],
        known[rows],
        {site: measured.maps["forward", site] for site in ("mlp_out", "attn_out")},
        seed,
    )

    def preferences(
        direction: Direction, members: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        answers = [fact.answer(direction) for fact in subject.facts]
        right = []
        for fact in subject.facts:
            valid = valid_answers(subject.facts, fact, direction)
            right.append({j for j, answer in enumerate(answers) if answer in valid})
        words = [(fact.relation, fact.inverse) for fact in subject.facts]
        return absence.preferences(measured.names[direction], members, right, words)

    def members(learned: tuple[str, ...], told: Direction) -> npt.NDArray[np.int64]:
        """Facts learned in one direction only that the model answers the way it was told them."""
        right = measured.facts[f"{told}_correct"].to_numpy(dtype=bool) & np.isin(split, learned)
        return np.array([i for i in measured.names[told]["name"].values if right[i]], np.int64)

    # The curse has two sides: facts told forward and asked in reverse, and the other way round.
    forward, reverse = members(("forward", "unknown"), "forward"), members(("reverse",), "reverse")
    both = np.array([i for i in measured.names["reverse"]["name"].values if split[i] == "both"])
    h2 = absence.judge(
        np.hstack([preferences("reverse", forward), preferences("forward", reverse)]),
        np.hstack([preferences("forward", forward), preferences("reverse", reverse)]),
        preferences("reverse", both.astype(np.int64)) if len(both) else None,
    )
    return [h1, h2]


STUDY = Study(
    "reversal-curse",
    "The reversal curse",
    "Why a model that learned 'A's mother is B' cannot say whose mother B is.",
    Config,
    run,
)
