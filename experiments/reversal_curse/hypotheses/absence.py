"""The reverse fact is absent, not suppressed: what several instruments say together.

No instrument shows that something is nowhere. The claim is made only where each of those that the
study has looked and found nothing; where one finds the fact, or could not look, it is undecided.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.study import Verdict

CLAIM = "The reverse fact is absent, not suppressed."


def judge(findings: Sequence[Verdict]) -> Verdict:
    """Decide from verdicts that each claim that one instrument finds nothing (H2, H3).

    Each is supported in at most 5% of runs where its instrument would find the fact, so all of
    them are in no more.

    Raises:
        ValueError: fewer than two findings, which could not tell absence from suppression.
    """
    if len(findings) < 2:
        raise ValueError("absence needs the findings of at least two instruments")
    against = [each for each in findings if each.outcome == "rejected"]
    open_ = [each for each in findings if each.outcome == "undecided"]
    names = _listed(findings)
    if against:
        said = _listed(against)
        text = f"{said} found the fact, so that it is not absent everywhere; see there"
    elif open_:
        said = _listed(open_)
        text = f"{said} {'is' if len(open_) == 1 else 'are'} undecided, and absence takes all of "
        text += names
    else:
        text = (
            f"neither a lens where the question ends nor a linear probe at the name finds it "
            f"({names}); other places and other readers were not asked"
        )
    return Verdict(
        id="H2+H3",
        claim=CLAIM,
        outcome="supported" if not against and not open_ else "undecided",
        statement=f"{text[0].upper()}{text[1:]}.",
        estimate=None,
        low=None,
        high=None,
        unit="findings",
        n=min(each.n for each in findings),
        control=f"Those of {names}: the same instruments find the same facts asked as told.",
    )


def _listed(findings: Sequence[Verdict]) -> str:
    *first, last = [each.id for each in findings]
    return f"{', '.join(first)} and {last}" if first else last
