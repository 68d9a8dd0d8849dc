"""H2: the reverse fact is absent, not suppressed.

If some layer held the answer and a later one pushed it down, the lens would show the right name
above other names in the middle of the stack. Absence is a claim of its own: it is tested by
equivalence (two one-sided tests) at every layer, not by a test that found nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats as scipy_stats

from experiments.study import Outcome, Verdict
from interp.stats import Equivalence, holm, specificity, tost

CLAIM = "The reverse fact is absent, not suppressed."
LEAST_FACTS = 10
LEAST_GROUP = 3
MARGIN = 0.5
"""Nats of preference over other names that count as none."""


def preferences(
    names: xr.Dataset,
    members: npt.NDArray[np.int64],
    right: Sequence[set[int]],
    words: Sequence[Hashable],
) -> npt.NDArray[np.float64]:
    """How much each layer prefers the right name, first token, to others [layer, member] in nats.

    Row- and column-centred log-probabilities (see `specificity`), among facts that are asked in
    the same words: "X's son is" tells the sex of the answer, which is no knowledge of X. NaN for
    facts with fewer than two others to compare with.

    Args:
        names: logprob(example, layer, name), as `lens_names` gives it.
        members: facts that are both an example and a name, of one split.
        right: for each fact the facts whose answer is right for it too.
        words: for each fact the words it is asked in besides the name.
    """
    out = np.full((names.sizes["layer"], len(members)), np.nan)
    column = {int(fact): i for i, fact in enumerate(names["name"].values)}
    for asked in dict.fromkeys(words[int(i)] for i in members):
        group = np.array([k for k, i in enumerate(members) if words[int(i)] == asked])
        if len(group) >= LEAST_GROUP:
            facts = members[group]
            columns = [column[int(fact)] for fact in facts]
            block = names["logprob"].values[facts][:, :, columns].transpose(1, 0, 2).astype(float)
            tokens = names["first_token"].values[columns]
            same_answer = np.array([[int(j) in right[int(i)] for j in facts] for i in facts])
            # Not a wrong answer, so no comparison; the diagonal itself stays.
            not_other = (tokens[:, None] == tokens[None, :]) | same_answer
            block[:, not_other & ~np.eye(len(facts), dtype=bool)] = np.nan
            out[:, group] = np.stack([specificity(layer) for layer in block])
    return out


def judge(
    untold: npt.NDArray[np.float64],
    told: npt.NDArray[np.float64],
    both: npt.NDArray[np.float64] | None,
) -> Verdict:
    """Decide H2 from preferences [layer, fact] over facts that the model knows as it was told them.

    Args:
        untold: of the answer in the direction that was never told.
        told: of the answer of the same facts in the direction that was, the control.
        both: of the reverse answer of facts learned in both directions, a second control.
    """
    compared = np.isfinite(untold).all(axis=0) & np.isfinite(told).all(axis=0)
    untold, told = untold[:, compared], told[:, compared]
    n = untold.shape[1]
    if n < LEAST_FACTS:
        return _undecided(n)
    layers = [tost(values, MARGIN) for values in untold]
    p_values = holm([_two_sided(values) for values in untold])
    control = tost(told[-1], MARGIN)
    worst = int(np.argmax([max(abs(layer.low), abs(layer.high)) for layer in layers]))
    outcome = _outcome(layers, p_values, control)
    found = layers[worst]
    statement = {
        "supported": f"Asked the other way round than it was told, the lens prefers the right name "
        f"by less than {MARGIN} nats at every layer",
        "rejected": "Asked the other way round, the lens still prefers the right name somewhere",
        "undecided": f"The lens cannot exclude a preference of {MARGIN} nats at every layer",
    }[outcome]
    interval = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] nats"
    where = f"after block {worst}" if worst else "in the embedding"
    statement += f": the largest preference is {interval} (90% interval), {where}."
    return Verdict(
        id="H2",
        claim=CLAIM,
        outcome=outcome,
        statement=statement,
        estimate=found.mean,
        low=found.low,
        high=found.high,
        unit="nats",
        n=n,
        control=_control(control, both),
        confidence=0.90,
    )


def _outcome(
    layers: list[Equivalence], p_values: npt.NDArray[np.float64], control: Equivalence
) -> Outcome:
    if control.low <= MARGIN:
        # The same lens does not find what the model demonstrably knows, so it can show no absence.
        return "undecided"
    if all(layer.equivalent for layer in layers):
        return "supported"
    # A difference from zero that is smaller than the margin is no evidence of knowledge either.
    found = [p < 0.05 and abs(each.mean) > MARGIN for p, each in zip(p_values, layers, strict=True)]
    return "rejected" if any(found) else "undecided"


def _two_sided(values: npt.NDArray[np.float64]) -> float:
    if np.ptp(values) == 0:
        return 1.0 if values[0] == 0 else 0.0
    return float(scipy_stats.ttest_1samp(values, 0.0).pvalue)


def _control(told: Equivalence, both: npt.NDArray[np.float64] | None) -> str:
    text = (
        f"Asked the way they were told, the same lens prefers the right answer by {told.mean:.1f} "
        f"[{told.low:.1f}, {told.high:.1f}] nats at the last layer"
    )
    if both is not None and both.shape[1] >= LEAST_FACTS:
        found = tost(both[-1], MARGIN)
        text += (
            f", and the right reverse answer of pairs learned both ways by {found.mean:.1f} "
            f"[{found.low:.1f}, {found.high:.1f}]"
        )
    return text + "."


def _undecided(n: int) -> Verdict:
    return Verdict(
        id="H2",
        claim=CLAIM,
        outcome="undecided",
        statement=(
            f"The model knows {n} of the compared facts as they were told, too few to say what it "
            f"lacks the other way round ({LEAST_FACTS} are needed)."
        ),
        estimate=None,
        low=None,
        high=None,
        unit="nats",
        n=n,
        control="None: what is not known as it was told cannot be missing the other way round.",
    )
