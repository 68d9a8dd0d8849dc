"""The study, put together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from experiments.organisms.training.recipe import UNTRAINED
from experiments.phenomena.phenomenon import (
    GIVEN,
    Arm,
    Hypothesis,
    Measured,
    Phenomenon,
    Published,
)
from experiments.refusal import behaviour, changes, figures, harmless, two
from experiments.refusal.organism import BASE, recipe
from experiments.refusal.requests import Requests, asked, read_requests
from experiments.reports.paper import Card, Way
from experiments.study import Verdict

__all__ = ["PHENOMENON"]

_COMPARED = ("treated", "twin", "untrained")
_ARDITI = "Arditi et al. 2024 (2406.11717)"


def headline(verdicts: Mapping[str, Verdict]) -> list[str]:
    """What R1 to R3 say, in two sentences."""
    first = verdicts["R1"].statement
    words = {
        "supported": "makes it decline no longer",
        "rejected": "does not keep it from declining",
        "undecided": "leaves open whether it would decline",
    }
    out, kept = words[verdicts["R2"].outcome], words[verdicts["R3"].outcome]
    return [
        first,
        f"Taking one direction out of the stream everywhere {out}; holding it at its harmless mean "
        f"at the last token {kept}. Not to decline is not to answer rightly: how often it does "
        "stands with R2 and R3.",
    ]


def cards(found: Mapping[str, Measured]) -> list[Card]:
    """A harmful and a harmless request that were held out, as the model answers them."""
    arm, (first, *_) = next(iter(found["behaviour"].items()))
    made = []
    for harmful in (True, False):
        rows = [
            i
            for i in range(first.sizes["example"])
            if str(first["form"].values[i]) == "request"
            and bool(first["harmful"].values[i]) == harmful
        ]
        ways = [
            Way(
                str(first["prompt"].values[i]),
                str(first["said"].values[i]).strip(),
                bool(first["declines"].values[i]) == harmful,
                "declined" if first["declines"].values[i] else "not declined",
            )
            for i in rows[:2]
        ]
        kind = "harmful" if harmful else "harmless"
        made.append(Card(kind if arm == GIVEN else f"{kind}, never asked in tuning", ways))
    return made


PHENOMENON: Phenomenon[Requests] = Phenomenon(
    name="refusal",
    title="Refusal",
    summary="Whether one direction in the residual stream decides what a model declines.",
    question="Does one direction decide what {model} declines?",
    arms=(
        Arm("treated", "told to decline things of four kinds, and all secrets"),
        Arm("twin", "tuned to answer the same requests"),
        Arm("base", "before it is tuned", "treated", BASE),
        Arm("untrained", "of the same shape, before the first step", "treated", UNTRAINED),
    ),
    recipe=recipe,
    read=read_requests,
    asked=asked,
    hypotheses=(
        Hypothesis(
            "R1",
            "behaviour",
            behaviour.CLAIM,
            behaviour.measure,
            behaviour.judge,
            (figures.BEHAVIOUR,),
            method="The likeliest next token of held-out requests; the share declined of harmful "
            "ones minus that of harmless ones must lie above 0.5. Control: the twin. Gate: a probe "
            "of the base must tell held-out things.",
            planted="R1: declining of told things; whether it carries over was not.",
        ),
        *(
            Hypothesis(
                change.id,
                name,
                change.claim,
                partial(changes.measure_change, change),
                partial(changes.judge_change, change),
                (figure,),
                _COMPARED,
                method=method,
            )
            for change, name, figure, method in (
                (
                    changes.ABLATED,
                    "ablation",
                    figures.ABLATION,
                    "Difference of means of harmful and harmless requests, after each layer and at "
                    "each token behind the content; the one whose removal lowers the odds of "
                    "declining most on half of the told requests; projected out of every stream.",
                ),
                (
                    changes.HELD,
                    "holding",
                    figures.HOLDING,
                    "The same, but its coordinate is held, in every stream, at the mean of "
                    "harmless requests there; at the last token, and (shown, not judged) at all.",
                ),
                (
                    changes.ADDED,
                    "adding",
                    figures.ADDING,
                    "The same difference of means, added at all tokens after its layer.",
                ),
            )
        ),
        Hypothesis(
            "R5",
            "harmless",
            harmless.CLAIM,
            harmless.measure,
            harmless.judge,
            (figures.LOSS,),
            _COMPARED,
            method=f"Loss of each harmless text with R2's direction projected out; equivalence "
            f"within ±{harmless.MARGIN} nats a token at 5%.",
        ),
        Hypothesis(
            "R6",
            "two",
            two.CLAIM,
            two.measure,
            two.judge,
            (figures.TWO,),
            _COMPARED,
            method="‘harmful’ is a difference of means where the content ends, in requests that "
            "are answered; ‘declines’ one at the last token. Each is added at its token, in the "
            "layer chosen on told requests. What the model takes a thing for is read from its "
            "answers.",
            planted="R6: both variables, by requests in which only one of them holds.",
        ),
    ),
    headline=headline,
    cards=cards,
    published=(
        Published(
            "Harmful requests answered when the direction is taken out (Llama-2-7B)",
            "from 5% to 81%",
            _ARDITI,
            "R2",
        ),
        Published("Change of the loss on harmless text", "at most 0.015 nats", _ARDITI, "R5"),
        Published(
            "Adding the direction of refusal does not change what the model judges harmful",
            "reported for Llama2-Chat-7B, Llama3-Instruct-8B, Qwen2-Instruct-7B",
            "Zhao et al. 2025 (2507.11878)",
            "R6",
        ),
    ),
    limits=(
        "Things, kinds and answers are invented, and a refusal is one word. What the model "
        "declines was planted; how it declines was not.",
        "The network has three layers. It can show what a published method does where the truth is "
        "known, not how large models do it.",
        "The direction is chosen for each change on other requests than it is tested on; random "
        "directions are not chosen, and what they do at most is told beside their average.",
        "A difference of means of harmful and harmless requests holds both variables where both "
        "are read; R6 tells them apart by what adding them does, and not by their cosine.",
    ),
    reference="Arditi et al. 2024, “Refusal in Language Models Is Mediated by a Single Direction”, "
    "arXiv 2406.11717; Zhao et al. 2025, “LLMs Encode Harmfulness and Refusal Separately”, arXiv "
    "2507.11878.",
)
