"""Prompts from the command line: a CSV with a row for each example, or one example as options."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.files import read_bytes
from experiments.cli import options
from experiments.cli.console import warn
from experiments.cli.lens import with_space
from interp.errors import PromptError

if TYPE_CHECKING:
    from interp import Model, PromptPairs

__all__ = [
    "Answer",
    "Clean",
    "Corrupt",
    "Foil",
    "PairsFile",
    "Spans",
    "check_foils",
    "make_pairs",
    "pair_columns",
    "read_columns",
    "spaced",
    "table_or_one",
]

_SEPARATORS = {"semicolons": ";", "tabs": "\t", "bars": "|"}
# A table of prompts, not a corpus.
_MOST_BYTES = 64 << 20

PairsFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        help="CSV with a row for each pair: clean, corrupt, answer and foil. Columns clean_NAME "
        "and corrupt_NAME hold the words of a span, which prompts of unequal length need.",
        parser=options.file,
        metavar="FILE",
    ),
]
Clean = Annotated[
    str | None, typer.Option(help="Instead of a file: a prompt that the model answers rightly.")
]
Corrupt = Annotated[str | None, typer.Option(help="The same prompt with one thing changed.")]
Answer = Annotated[
    str | None,
    typer.Option(help="What should follow; the space that is missing before it is put there."),
]
Foil = Annotated[str | None, typer.Option(help="What should follow the corrupted prompt.")]
Spans = Annotated[
    list[str] | None,
    typer.Option(
        "--span",
        help="Words that correspond, as NAME=CLEAN|CORRUPT; several times for several spans.",
    ),
]


def read_columns(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The columns of a CSV file in UTF-8, all as text: no value is taken for a number or for NA.

    Args:
        optional: columns to read where they are there; one that ends in "*" stands for all that
            begin so.

    Raises:
        PromptError: no such table, a column is missing, or a row has too many or too few values.
    """
    try:
        text = read_bytes(path, _MOST_BYTES).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        numbered = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise PromptError(
            f"'{path}' is no table of text ({error}); save it as CSV in UTF-8."
        ) from error
    rows = [row for _, row in numbered]
    wanted = f"a first line with the columns {', '.join(needed)}"
    if not rows:
        raise PromptError(f"'{path}' is empty; give it {wanted}, and a line for each example.")
    head = [name.strip() for name in rows[0]]
    missing = [name for name in needed if name not in head]
    others = [name for name, sign in _SEPARATORS.items() if len(head) == 1 and sign in head[0]]
    if missing and others:
        raise PromptError(f"'{path}' has {others[0]} between its columns; save it with commas.")
    if missing:
        raise PromptError(f"'{path}' has no column '{missing[0]}'; give it {wanted}.")
    if len(set(head)) < len(head):
        twice = next(name for name in head if head.count(name) > 1)
        raise PromptError(f"'{path}' has the column '{twice}' twice; rename one of them.")
    if len(rows) == 1:
        raise PromptError(f"'{path}' holds no example; write a line for each below the first.")
    for number, row in numbered[1:]:
        if len(row) != len(head):
            raise PromptError(
                f"Line {number} of '{path}' has {len(row)} values for {len(head)} columns; put "
                "quotation marks around text with commas."
            )
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(head)}
    prefixes = tuple(name[:-1] for name in optional if name.endswith("*"))
    if nameless := next((name for name in head if name in prefixes), None):
        raise PromptError(
            f"The column '{nameless}' of '{path}' names no span; call it '{nameless}NAME'."
        )
    known = {*needed, *optional}
    used = {name for name in head if name in known or (prefixes and name.startswith(prefixes))}
    if unused := [name for name in head if name not in used]:
        # Not an error, since tables have other readers; but a misspelt name must be seen.
        warn(f"Not read in '{path}': the column{'s' * (len(unused) > 1)} {', '.join(unused)}.")
    return {name: values for name, values in columns.items() if name in used}


def table_or_one(
    path: Path | None,
    file_option: str,
    one: Mapping[str, str | None],
    *,
    needed: Sequence[str],
    optional: Sequence[str],
    text_option: str = "text",
) -> dict[str, list[str]]:
    """The columns of a file, or those of the one example that options make.

    Args:
        file_option: the option that names the file.
        one: by column what its option was given, None where it was not.
        needed: columns that there must be.
        optional: others, as for `read_columns`.
        text_option: what the option of the column "text" is called.

    Raises:
        PromptError: both or neither are given, or the file is no such table.
    """
    names = {column: text_option if column == "text" else column for column in (*needed, *one)}
    given = {column: [value] for column, value in one.items() if value is not None}
    if path is not None:
        if given:
            raise PromptError(
                f"The prompts are in '{path}' and in --{names[next(iter(given))]}; give one or the "
                "other."
            )
        return read_columns(path, needed, optional)
    missing = [names[column] for column in needed if column not in given]
    if missing:
        every = " and ".join(f"--{names[column]}" for column in needed)
        raise PromptError(f"There is no --{missing[0]}; give --{file_option} FILE, or {every}.")
    return given


def pair_columns(
    path: Path | None,
    clean: str | None,
    corrupt: str | None,
    answer: str | None,
    foil: str | None,
    spans: Sequence[str] | None,
) -> dict[str, list[str]]:
    """The columns of a file of pairs, or those that the options make of one pair.

    Raises:
        PromptError: both or neither are given, or the file is no such table.
    """
    if path is not None and spans:
        raise PromptError(f"The prompts are in '{path}' and in --span; give one or the other.")
    columns = table_or_one(
        path,
        "pairs",
        {"clean": clean, "corrupt": corrupt, "answer": answer, "foil": foil},
        needed=["clean", "corrupt", "answer"],
        optional=["foil", "clean_*", "corrupt_*"],
    )
    for written in spans or ():
        name, equals, words = written.partition("=")
        here, bar, there = words.partition("|")
        if not (name.strip() and equals and here and (there or not bar)):
            raise PromptError(
                f"'{written}' is no span; write it like 'subject=Tom Cruise|Kate Hudson'."
            )
        columns[f"clean_{name.strip()}"] = [here]
        columns[f"corrupt_{name.strip()}"] = [there if bar else here]
    return columns


def make_pairs(
    model: Model, columns: Mapping[str, Sequence[str]], rows: Sequence[int] | None = None
) -> PromptPairs:
    """The pairs that these columns hold, with the space that is missing before each answer.

    Args:
        rows: the pairs to take; all if left out.

    Raises:
        PromptError: a span has words for one run only, or as for `PromptPairs`.
    """
    from interp import PromptPairs

    chosen = range(len(columns["clean"])) if rows is None else rows
    taken: dict[str, list[str]] = {
        name: [values[i] for i in chosen] for name, values in columns.items()
    }
    spans: dict[str, Any] = {}
    for run, other in (("clean_", "corrupt_"), ("corrupt_", "clean_")):
        for name in [column[len(run) :] for column in taken if column.startswith(run)]:
            if other + name not in taken:
                raise PromptError(
                    f"The column '{run}{name}' has no '{other}{name}' beside it; give the words "
                    "of a span in both prompts."
                )
            spans[name] = list(zip(taken[f"clean_{name}"], taken[f"corrupt_{name}"], strict=True))
    clean = taken["clean"]
    return PromptPairs(
        model,
        clean=clean,
        corrupt=taken["corrupt"],
        answers=spaced(clean, taken["answer"]),
        foils=spaced(clean, taken["foil"]) if "foil" in taken else None,
        spans=spans or None,
    )


def check_foils(metric: str, columns: Mapping[str, Sequence[str]]) -> None:
    """Raise a PromptError where a metric compares with foils, and there are none."""
    from interp.metrics import METRICS

    terms = METRICS[metric].terms if metric in METRICS else ()
    if "foil" not in columns and any(term.targets == "foil" for term in terms):
        raise PromptError(
            f"The metric {metric} compares each answer with a foil; give foils too, or choose "
            "--metric answer_logprob."
        )


def spaced(prompts: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Each answer with the space that is missing between it and its prompt."""
    return [with_space(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
