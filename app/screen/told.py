"""What is told with a figure: what it is over, how sure it is, and what was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.compute.checks import Check
from app.text.markup import esc

__all__ = ["ONE_PROMPT", "Check", "Told", "together"]


ONE_PROMPT = "none: one prompt"
"""The interval of what one prompt shows."""


@dataclass(frozen=True)
class Told:
    """The line under a figure.

    Attributes:
        shows: what it shows, in one line; empty where a heading above says it.
        n: what it is over: "40 facts", "1 prompt".
        interval: what its bands or intervals are; for one prompt, that there is none.
        control: what it is held against.
        checks: what was checked of its numbers; where one is not good, nothing can be exported.
        about: how to read it, a sentence or two.
    """

    shows: str = ""
    n: str = ""
    interval: str = ""
    control: str = ""
    checks: Sequence[Check] = ()
    about: str = ""

    @property
    def wrong(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.good]

    @property
    def reasons(self) -> list[str]:
        """Why nothing can be exported; empty where all is well."""
        wrong = [check.said for check in self.wrong]
        return ["Nothing of this is exported:", *wrong] if wrong else []

    def markup(self) -> str:
        """The line and a badge for each check, foreign text escaped."""
        facts = [
            f"<b>{name}</b> {esc(text)}"
            for name, text in (
                ("n", self.n),
                ("interval", self.interval),
                ("control", self.control),
            )
            if text
        ]
        pieces = [f'<span class="ob-shows">{esc(self.shows)}</span>'] if self.shows else []
        pieces += [" &nbsp;·&nbsp; ".join(facts)] if facts else []
        badges = "".join(_badge(check) for check in self.checks)
        return f'<div class="ob-told">{" &nbsp;·&nbsp; ".join(pieces)} {badges}</div>'


def together(checks: Mapping[str, Sequence[Check]]) -> tuple[Check, ...]:
    """The checks of several figures that one is made of, by what these are called: one of a name is
    good where all of that name are."""
    by_name: dict[str, list[Check]] = {}
    for title, some in checks.items():
        for check in some:
            told = replace(check, said=f"{title}: {check.said}")
            by_name.setdefault(check.name, []).append(told)
    return tuple(
        Check(
            name,
            all(one.good for one in some),
            " ".join(one.said for one in some),
            all(one.sure for one in some),
        )
        for name, some in by_name.items()
    )


def _badge(check: Check) -> str:
    mark, kind, name = "✓", "good", check.name
    if not check.good:
        mark, kind = "✗", "bad"
    elif not check.sure:
        mark, kind, name = "?", "unsure", f"{check.name}: cannot tell"
    return (
        f'<span class="ob-check {kind}" title="{esc(check.said)}" tabindex="0" '
        f'aria-label="{esc(f"{name}: {check.said}")}">{mark} {esc(name)}</span>'
    )
