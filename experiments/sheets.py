"""Text files of the user's, read strictly: what could be read in two ways is refused."""

from __future__ import annotations

import csv
import io
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import FactsError

MOST_BYTES = 1 << 26
"""Of a file; a million facts are about as much."""
MOST_ROWS = 100_000

# What stands after a comma in a name: "Sammy Davis, Jr." without quotes makes a cell of it.
_SUFFIXES = {"jr", "sr", "ii", "iii", "iv", "esq", "phd", "md"}
# Characters that show nothing. The two joiners are left: Persian and Indic names are spelled so.
_INVISIBLE = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
# Letters and signs that show nothing either: fillers, a grapheme joiner, the Braille blank.
_BLANK = "\u034f\u115f\u1160\u2800\u3164\uffa0"
# What spreadsheets put between cells in place of commas.
_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def read_text(path: Path) -> str:
    """The text of a plain UTF-8 file of bounded size.

    Raises:
        FactsError: it is none, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FactsError(f"'{path}' is no plain file; give one.")
        if status.st_size > MOST_BYTES:
            raise FactsError(
                f"'{path}' takes {status.st_size >> 20} MiB, and at most {MOST_BYTES >> 20} are "
                "read; give a part of it."
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FactsError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FactsError(f"'{path}' cannot be read: {reason}.") from error


def read_rows(
    path: Path, aliases: dict[str, str], needed: Sequence[str]
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV with the line that each stands in, as {column: cell}.

    Column names are lower-cased and `aliases` put in their place; cells are in Unicode's composed
    form (NFC) with single spaces. Empty lines do not count.

    Raises:
        FactsError: no CSV, a column that is missing or stands twice, a row with more or fewer
            cells than the header, a comma that seems to belong to a name, an invisible character,
            or too many rows.
    """
    text = read_text(path)
    _check_separator(path, text, aliases, needed)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    columns: list[str] | None = None
    spaced = False
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _columns(path, cells, aliases, needed)
                spaced = any(cell[:1].isspace() for cell in cells)
                continue
            if len(rows) == MOST_ROWS:
                raise FactsError(
                    f"'{path}' holds more than {MOST_ROWS:,} facts; give a part of them: the "
                    "intervals of a few hundred are narrow already."
                )
            if len(cells) != len(columns):
                raise FactsError(
                    f"'{path}' has {_count(len(cells), 'cell')} in line {line} and "
                    f"{_count(len(columns), 'column')} in its header; put a name that holds a "
                    "comma in quotes, and leave no cell out."
                )
            _check_commas(path, line, cells[1:], spaced=spaced)
            rows.append(
                (line, {name: tidy(path, line, c) for name, c in zip(columns, cells, strict=True)})
            )
    except csv.Error as error:
        raise FactsError(
            f"'{path}' is not a CSV file ({error}, line {reader.line_num}); export it again."
        ) from error
    if not rows:
        raise FactsError(f"'{path}' is empty; give one row for each fact.")
    return rows


def _columns(
    path: Path, cells: Sequence[str], aliases: dict[str, str], needed: Sequence[str]
) -> list[str]:
    given = [cell.strip().lower() for cell in cells]
    columns = [aliases.get(name, name) for name in given]
    for i, name in enumerate(columns):
        if name and name in columns[:i]:
            first = columns.index(name)
            both = f"'{given[first]}' and '{given[i]}'" if given[first] != given[i] else f"'{name}'"
            raise FactsError(
                f"'{path}' names the column {both} twice in its header; keep one of the two."
                if given[first] == given[i]
                else f"'{path}' has the columns {both}, which mean the same; keep one of the two."
            )
    missing = [name for name in needed if name not in columns]
    if missing:
        raise FactsError(
            f"'{path}' has no column '{missing[0]}'; name the columns subject and object (or child "
            "and parent)."
        )
    return columns


def _check_separator(path: Path, text: str, aliases: dict[str, str], needed: Sequence[str]) -> None:
    """Say so where the columns are there, but not between commas."""
    header = text.lstrip().partition("\n")[0]
    for separator, name in _SEPARATORS.items():
        given = [cell.strip(' "\r').lower() for cell in header.split(separator)]
        if {aliases.get(cell, cell) for cell in given} >= set(needed):
            raise FactsError(
                f"'{path}' has {name} between its cells; save it with commas (CSV, UTF-8)."
            )


def _check_commas(path: Path, line: int, cells: Sequence[str], *, spaced: bool) -> None:
    """Refuse what an unquoted comma in a name leaves, where the number of cells does not tell.

    Args:
        spaced: whether spaces follow commas in the header, so that they mean nothing below it.
    """
    for cell in cells:
        rest = cell.strip()
        if (rest and cell[:1].isspace() and not spaced) or rest.rstrip(".").lower() in _SUFFIXES:
            raise FactsError(
                f"'{path}' has the cell '{cell}' in line {line}, which looks like the rest of a "
                "name; put a name that holds a comma in quotes, and no space after other commas."
            )


def tidy(path: Path, line: int, cell: str) -> str:
    """The cell in composed form with single spaces. Raises FactsError for what cannot be seen."""
    bad = invisible(cell)
    if bad is not None:
        raise FactsError(f"'{path}' has the invisible character {bad} in line {line}; take it out.")
    return " ".join(unicodedata.normalize("NFC", cell).split())


def invisible(text: str, allowed: str = "") -> str | None:
    """The first character that shows nothing, as "U+200B"; None where all can be seen."""
    if text.isascii() and text.isprintable():
        return None
    for character in text:
        shown = unicodedata.category(character) not in _INVISIBLE and character not in _BLANK
        if not shown and character not in _JOINERS + allowed:
            return f"U+{ord(character):04X}"
    return None


def sameness(name: str) -> str:
    """What two spellings of one name share: compatibility form, case, apostrophes and dashes."""
    plain = unicodedata.normalize("NFKC", name).lower()
    if not plain.isascii():
        plain = "".join(
            "'" if c in "’‘ʼ" else "-" if unicodedata.category(c) == "Pd" else c
            for c in plain
            if c not in _JOINERS
        )
    return " ".join(plain.split())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
