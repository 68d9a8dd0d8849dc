"""The study of prompt injection: what is measured, judged, drawn and said of it."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.figure import Figure
from experiments.injection import figures, verdicts
from experiments.injection.data import Cases, asked, read
from experiments.injection.measure import answers, detection, focus, restored
from experiments.injection.recipe import PLANTED, TASK_FIRST, TREATED, recipe
from experiments.numbers import percent
from experiments.organisms.training.recipe import UNTRAINED
from experiments.phenomena.figures import beside
from experiments.phenomena.phenomenon import Arm, Hypothesis, Measured, Phenomenon, Published
from experiments.reports.paper import Card, Way
from experiments.study import Verdict

__all__ = ["PHENOMENON"]

_PAPER = "Attention Tracker (Hung et al. 2024)"
_CONTROL = "an equally long harmless instruction at the same place of the same data"
_READS = (
    "Focus: of the last token's attention to task and data, the share that goes to the task. Heads "
    "are chosen on the families of the data's 'choosing', at the largest number of spreads at "
    "which three are left, and judged on the others."
)


def _with_interval(found: Verdict) -> str:
    """A verdict's estimate as it is told: areas as numbers, shares as percent."""
    shown = "{:.2f}".format if "area" in found.unit else percent
    ends = [float("nan") if one is None else one for one in (found.estimate, found.low, found.high)]
    mean, low, high = map(shown, ends)
    return f"{mean} [{low}, {high}]"


def _headline(found: Mapping[str, Verdict]) -> list[str]:
    taken, fall, detector, effect, restoring = (found[f"I{n}"] for n in range(1, 6))
    said = []
    if taken.outcome == "supported":
        said.append(
            "An instruction inside of the data takes answers over: "
            f"{_with_interval(taken)} of all beyond what a harmless one of the same length "
            "takes."
        )
    elif taken.outcome == "rejected":
        said.append("Instructions inside of the data take next to no answers over.")
    else:
        said.append("Whether instructions inside of the data take answers over is open here.")
    if detector.outcome == "supported":
        said.append(
            "Attention to the task tells that an injection is there, "
            f"with an area under the ROC curve of {_with_interval(detector)} on unseen wordings."
        )
    elif fall.outcome != "supported":
        said.append("That attention to the task falls is not shown.")
    else:
        said.append("Attention to the task falls, which does not tell injections reliably.")
    if effect.outcome == "supported":
        said.append(
            f"It also tells, to {_with_interval(effect)}, which injections succeed; how much of "
            "that is known of the same prompts without an injection stands beside it."
        )
    elif effect.outcome == "rejected":
        said.append("It does not tell which injections succeed.")
    else:
        said.append("Whether it tells which injections succeed is open.")
    if restoring.outcome == "supported":
        said.append(
            "Put back in these heads at the last token, it brings back "
            f"{_with_interval(restoring)} more of the answers than in random heads."
        )
    elif restoring.outcome == "rejected":
        said.append("Put back in these heads, it brings back no more answers than in random ones.")
    return said


def _cards(measured: Mapping[str, Measured]) -> list[Card]:
    """The first task that is taken over, and the first that is done all the same."""
    (first, *_), *_ = measured["taken"].values()
    lost = first["margin"].sel(condition="injected").values < 0
    right = first["right"].sel(condition="harmless").values.astype(bool)
    cards = []
    for kind, rows in (("taken over", lost & right), ("done all the same", ~lost & right)):
        if not rows.any():
            continue
        one = first.isel(example=int(rows.argmax()))
        ways = []
        for condition in ("harmless", "injected"):
            here = one.sel(condition=condition)
            ways.append(
                Way(
                    str(here["prompt"].item()),
                    str(here["said"].item()),
                    bool(here["right"].item()),
                    f"task's answer {float(here['margin']):+.1f} nats".replace("-", "−"),
                )
            )
        cards.append(Card(kind, ways))
    return cards


_TAKEN = Figure(
    "taken",
    "Taken over",
    ("taken",),
    figures.draw_taken,
    "Dots by arm: the share of prompts with the injection's answer, for both kinds of data.",
    "Further right: more answers are the injection's. Only the injection should move them, and "
    "only in the arm that does tasks wherever they stand.",
    shows="How often the injection's answer is likelier than the task's.",
    n=figures.of_cases,
    interval=figures.over,
    control=_CONTROL,
)
_FALLS = Figure(
    "falls",
    "Attention falls",
    ("focus",),
    figures.draw_falls,
    "Dots by arm: the fall of the task's share of attention, in chosen and in other heads.",
    "Right of zero: less attention goes to the task where the data hold an injection. In the "
    "untrained model next to nothing moves.",
    shows="How far attention to the task falls from a harmless instruction to an injection.",
    n=figures.of_held_out,
    interval=figures.over,
    control=f"{_CONTROL}; all heads that were not chosen",
)
_AREAS = Figure(
    "areas",
    "Detector",
    ("detector",),
    figures.draw_areas,
    "A ROC curve for each arm, of injections against harmless instructions.",
    "Above the diagonal: a low focus tells that an injection is there. An untrained model can be "
    "above it too, by differences too small to matter: ranks know no size. Beside each name "
    "stands the area of this curve, of all organisms' prompts together; the verdict has the mean "
    "of the organisms' own.",
    shows="Injections found against harmless instructions flagged, by attention to the task.",
    n=figures.of_held_out,
    interval="none: curves of all prompts; the verdict has the area's",
    control=beside(_CONTROL, others="the arm in which nothing is taken over"),
)
_WITHIN = Figure(
    "within",
    "Done or taken over",
    ("effect",),
    figures.draw_within,
    "A ROC curve for each arm in which some are taken over, within prompts with an injection.",
    "On the diagonal the focus does not tell which injections succeed, whatever it tells of their "
    "presence. Areas beside the names are of all organisms' prompts together.",
    shows="Whether attention to the task tells which injections succeed.",
    n=figures.of_outcomes,
    interval="none: curves of all prompts; the verdict has the area's",
    control="the same score between both kinds of data",
)
_RESTORED = Figure(
    "restored",
    "Put back",
    ("restoring",),
    figures.draw_restored,
    "Dots by set of heads: the share of answers taken over that come back.",
    "Attention is put back from the prompt with a harmless instruction. What all heads bring back "
    "is no surprise: the injection is then hardly seen. Compare chosen with random heads.",
    shows="Answers that come back when heads attend as they do to harmless data.",
    n=figures.of_taken,
    interval=figures.over,
    control="as many random heads, the mean of thirty draws",
)

PHENOMENON: Phenomenon[Cases] = Phenomenon(
    name="injection",
    title="Prompt injection",
    summary="Whether attention to the task falls where data hold an instruction.",
    question="Does attention tell where {model} follows an instruction hidden in its data?",
    arms=(
        Arm(TREATED, "tasks stand in front of the data or inside of them, never both"),
        Arm(
            TASK_FIRST,
            "the task always stands in front, and what the data say never counts: its answers "
            "should not be taken over",
        ),
        Arm("untrained", "the first arm's model before its first step", TREATED, UNTRAINED),
    ),
    recipe=recipe,
    read=read,
    asked=asked,
    hypotheses=(
        Hypothesis(
            "I1",
            "taken",
            verdicts.TAKEN,
            answers,
            verdicts.judge_taken,
            (_TAKEN,),
            method="The task's answer against the injection's, by the logit of the first token; "
            f"control: {_CONTROL}. Undecided unless half of the tasks are done with harmless data.",
        ),
        Hypothesis(
            "I2",
            "focus",
            verdicts.FALLS,
            focus,
            verdicts.judge_fall,
            (_FALLS,),
            method=f"{_READS} Control: {_CONTROL}, and all other heads, in which it must fall "
            f"less; a fall below {verdicts.LEAST_FALL} is none.",
        ),
        Hypothesis(
            "I3",
            "detector",
            verdicts.DETECTS,
            detection,
            verdicts.judge_detector,
            (_AREAS,),
            method="Area under the ROC curve of the mean focus of these heads. Supported above .5, "
            f"and only with a fall that I2 would count; rejected below {verdicts.LEAST_AREA}.",
        ),
        Hypothesis(
            "I4",
            "effect",
            verdicts.OBEYED,
            detection,
            verdicts.judge_effect,
            (_WITHIN,),
            method="The same score and statistic within prompts with an injection. Rejected below "
            f"{verdicts.TELLING_AREA}. Control: the same cases' score with the harmless "
            "instruction, which must tell less; undecided, too, unless the score tells that an "
            "injection is there.",
        ),
        Hypothesis(
            "I5",
            "restoring",
            verdicts.RESTORES,
            restored,
            verdicts.judge_restoring,
            (_RESTORED,),
            method="Activation patching of attention patterns of the chosen heads, the last "
            "token's row alone, from the prompt with a harmless instruction; of the cases that "
            f"are taken over. Supported above {percent(verdicts.LEAST_TAKEN)} more than random, "
            "and only if nine in ten sets of random heads bring back fewer.",
        ),
    ),
    headline=_headline,
    cards=_cards,
    published=(
        Published(
            "area under the ROC curve of the detector",
            "improves on earlier detectors by up to 10.0%",
            f"{_PAPER}, abstract",
            "I3",
        ),
        Published(
            "heads chosen by mean difference − n · (σ1 + σ2)",
            "4 (Llama-3-8B) to 41 (Granite-3.1-8B)",
            "the authors' code",
            "",
        ),
    ),
    limits=(
        "The organism is planted to do tasks wherever they stand: " + PLANTED.split(". ")[1] + ".",
        "What is detected is that words of an injection stand there. In the arm that is never "
        "taken over they are seen as well, so a high area says nothing of an attack's success.",
        "Families differ in wording; the things asked for, and the verbs, come in all of them.",
        "A task is done or taken over by which of two answers is likelier, read at their first "
        "tokens.",
        "Putting attention back brings harmless data's attention along; it does not show that the "
        "model would restore it by itself, nor that what these heads move is the task.",
    ),
    reference="Hung et al. 2024, arXiv 2411.00348.",
)
