"""The same report as Markdown, with its figures as links to files beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from experiments.figure import Figure, Telling
from experiments.reports.html import interval
from experiments.reports.paper import Cards, Figures, Hypothesis, Paper, Part, Table, Text
from experiments.run_directory.layout import FIGURES
from experiments.study import Verdict

__all__ = ["escaped", "markdown"]

# Each with a backslash before it, or as an entity where not every Markdown knows that escape; and
# what makes a link of an address without being asked.
_BACKSLASHED = r"\`*_{}[]()#!"
_SPECIAL = re.compile(r"[\\`*_{}\[\]()#!<>&|~$]|:(?=//)|(?<=www)\.", re.IGNORECASE)
# What begins a list at the beginning of a line.
_LIST = re.compile(r"^(\d*)([-+.])(?= )")


def escaped(text: str) -> str:
    """Text in which no character means anything to Markdown or HTML."""

    def one(match: re.Match[str]) -> str:
        character = match[0]
        return f"\\{character}" if character in _BACKSLASHED else f"&#{ord(character)};"

    return _LIST.sub(r"\1\\\2", _SPECIAL.sub(one, " ".join(text.split())))


def markdown(
    paper: Paper,
    told: Mapping[str, Telling],
    codes: Mapping[str, str],
    images: Collection[str],
) -> str:
    """The report as text.

    Args:
        told: by figure what is told with it.
        codes: by figure the Python that draws it.
        images: figures of which there is an SVG; of the others the numbers are linked.
    """
    blocks = [f"# {escaped(paper.question)}", f"*{escaped(paper.title)}: {escaped(paper.subject)}*"]
    blocks += [escaped(sentence) for sentence in paper.answer]
    blocks.append(f"*{escaped(paper.note)}*")
    if paper.verdicts():
        blocks += ["## Verdicts", _verdict_table(paper.verdicts())]
    for section in paper.sections:
        blocks.append(f"## {escaped(section.title)}")
        if section.note:
            blocks.append(escaped(section.note))
        for part in section.parts:
            blocks += _part(part, told, codes, images)
    if paper.details:
        rows = [[name, value] for name, value in paper.details.items()]
        blocks += ["## About this run", _table(["", ""], rows)]
    return "\n\n".join(blocks) + "\n"


def _part(
    part: Part,
    told: Mapping[str, Telling],
    codes: Mapping[str, str],
    images: Collection[str],
) -> Iterator[str]:
    if isinstance(part, Text):
        if part.bullets:
            yield "\n".join(f"- {escaped(paragraph)}" for paragraph in part.paragraphs)
        else:
            yield from map(escaped, part.paragraphs)
    elif isinstance(part, Figures):
        if part.heading:
            yield f"### {escaped(part.heading)}"
        for figure in part.figures:
            yield from _figure(figure, told[figure.name], codes[figure.name], images)
    elif isinstance(part, Table):
        yield _table(part.columns, part.rows, part.numbers)
        if part.note:
            yield f"*{escaped(part.note)}*"
    elif isinstance(part, Cards):
        for card in part.cards:
            lines = [f"**{escaped(card.kind)}**"]
            for way in card.ways:
                mark = "✓" if way.right else "✗"
                said = f"{escaped(way.prompt)} **{escaped(way.said)}**"
                lines.append(f"- {mark} {said} ({escaped(way.detail)})")
            yield "\n\n".join([lines[0], "\n".join(lines[1:])])
    else:
        yield from _hypothesis(part, told, codes, images)


def _hypothesis(
    part: Hypothesis,
    told: Mapping[str, Telling],
    codes: Mapping[str, str],
    images: Collection[str],
) -> Iterator[str]:
    for verdict in part.verdicts:
        yield f"### {escaped(verdict.id)}. {escaped(verdict.claim)}"
        yield f"**{verdict.outcome}.** {escaped(verdict.statement)}"
        yield f"*Control: {escaped(verdict.control)}*"
    for figure in part.figures:
        yield from _figure(figure, told[figure.name], codes[figure.name], images)


def _figure(figure: Figure, told: Telling, code: str, images: Collection[str]) -> Iterator[str]:
    if figure.name in images:
        yield f"![{escaped(figure.alt)}]({FIGURES}/{figure.name}.svg)"
    shows = f"**{escaped(told.shows)}** " if told.shows else ""
    caption = figure.caption or ("" if told.shows else figure.alt)
    said = f"{shows}*{escaped(caption)}* " if caption else shows
    yield f"{said}([numbers]({FIGURES}/{figure.name}.csv))"
    if told.facts:
        yield " · ".join(f"**{name}** {escaped(text)}" for name, text in told.facts.items())
    # Four backticks: no line of ours begins with so many.
    yield f"````python\n{code.rstrip()}\n````"


def _verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [each.id, each.claim, each.outcome, interval(each), each.unit, str(each.n)]
        for each in verdicts
    ]
    columns = ["", "claim", "outcome", "estimate [interval]", "unit", "n"]
    return _table(columns, rows, numbers=(5,))


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()
) -> str:
    rule = ["---:" if index in numbers else "---" for index in range(len(columns))]
    lines = [list(map(escaped, columns)), rule, *(list(map(escaped, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
