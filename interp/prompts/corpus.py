"""Text files as rows of token ids."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from cache.keys.space import Ids
from interp.errors import PromptError, StorageError
from interp.model import vocabulary
from interp.model.model import Model

__all__ = ["read_rows"]

# Characters that are tokenised at once: a document is cut at the end of a line after so many.
PIECE = 1 << 16
_PIECES_AT_ONCE = 64
_TEXT = "text"


def read_rows(
    model: Model,
    texts: Path | str | Iterable[str],
    *,
    context: int,
    tokens: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> list[Ids]:
    """Cut texts into rows of at most `context` tokens, each beginning with BOS where prompts do.

    A row never holds parts of two documents, so the last one of a document may be shorter; rows
    that occur twice come once.

    Args:
        model: whose tokenizer reads.
        texts: a file (.txt is one document; of .jsonl and .parquet the column "text" is read, a
            document a line), or the documents themselves.
        context: tokens in a row, BOS included.
        tokens: stop after so many; all if left out.
        progress: called with (tokens read, `tokens`).

    Words that the tokenizer does not know are counted and told in a warning: some stand in any
    text. Where most of it is unknown, the tokenizer is not one for this text.

    Raises:
        PromptError: there are no tokens, most of them stand for unknown words, or `context` does
            not suit the model.
        StorageError: the file cannot be read.
    """
    bos = [int(model.tokenizer.bos_token_id)] if model.prepends_bos else []
    if not len(bos) < context <= model.n_ctx:
        raise PromptError(
            f"Rows of {context} tokens do not suit {model.name}; choose a context from "
            f"{len(bos) + 1} to {model.n_ctx}."
        )
    if tokens is not None and tokens <= len(bos):
        raise PromptError(f"{tokens} tokens are too few; ask for more.")
    documents = _documents(Path(texts)) if isinstance(texts, Path | str) else texts
    rows: dict[bytes, Ids] = {}
    left = tokens
    missed = _Missed(model)
    for content in _contents(documents, context - len(bos), missed):
        if left is not None:
            content = content[: max(0, left - len(bos))]
        if not content:
            break
        row = np.array([*bos, *content], dtype=np.int32)
        if row.tobytes() in rows:
            continue
        rows[row.tobytes()] = row
        if left is not None:
            left -= len(row)
            if progress and len(rows) % 256 == 0 and tokens is not None:
                progress(tokens - left, tokens)
    if not rows:
        raise PromptError("There is no text to read; give a file that holds some.")
    missed.tell()
    return list(rows.values())


class _Missed:
    """What a tokenizer did not know of the text that it has read so far."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokens = self._unknown = self._dropped = self._characters = 0

    def read(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of some texts.

        Raises:
            PromptError: they are no text, or the tokenizer fails on a word.
        """
        tokenizer = self._model.tokenizer
        vocabulary.check_unicode(texts, "documents")
        try:
            rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        except Exception as error:  # tokenizers raises bare ones for a word without a token
            raise vocabulary.unreadable(tokenizer, self._model.name, texts, "documents") from error
        self._tokens += sum(map(len, rows))
        self._unknown += vocabulary.count_unknown(tokenizer, texts, rows)
        dropped = vocabulary.dropped_characters(tokenizer, texts)
        for text in texts if dropped else ():
            self._dropped += sum(text.count(character) for character in dropped)
        self._characters += sum(map(len, texts))
        return rows

    def tell(self) -> None:
        """Warn of what was not known.

        Raises:
            PromptError: it was most of the text.
        """
        name = self._model.name
        for count, of, what in (
            (self._unknown, self._tokens, "tokens stand for words that it does not know"),
            (self._dropped, self._characters, "characters are left out by its tokenizer"),
        ):
            if 2 * count > of:
                raise PromptError(
                    f"{name} cannot read this text: {count:,} of {of:,} {what}; give a text in its "
                    "own language, or another model."
                )
            if count:
                warnings.warn(f"{count:,} of {of:,} {what} ({name}).", stacklevel=4)


def _contents(documents: Iterable[str], length: int, missed: _Missed) -> Iterator[list[int]]:
    """Token ids of the documents, `length` at a time and fewer at the end of each."""
    pieces = _pieces(documents)
    held: list[int] = []
    while batch := list(islice(pieces, _PIECES_AT_ONCE)):
        read = missed.read([text for text, _ in batch])
        for ids, (_, ends) in zip(read, batch, strict=True):
            held += ids
            whole = len(held) // length * length
            for start in range(0, whole, length):
                yield held[start : start + length]
            held = held[whole:]
            if ends and held:
                yield held
                held = []


def _pieces(documents: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """(a piece, whether its document ends with it)."""
    for document in documents:
        if not isinstance(document, str):
            raise PromptError(f"Documents must be text, not {type(document).__name__}.")
        start = 0
        while start < len(document):
            stop = len(document)
            if stop - start > 2 * PIECE:
                line = document.find("\n", start + PIECE, start + 2 * PIECE)
                stop = line + 1 if line >= 0 else start + 2 * PIECE
            yield document[start:stop], stop == len(document)
            start = stop


def _documents(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _line(path, number, line)
        else:
            yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"'{path}' is not text in UTF-8; convert it first.") from error
    except OSError as error:
        raise StorageError(
            f"'{path}' cannot be read ({error.strerror or error}); check the path."
        ) from error


def _line(path: Path, number: int, line: str) -> str:
    try:
        found = json.loads(line)
        text = found[_TEXT] if isinstance(found, dict) else found
    except (ValueError, KeyError, RecursionError) as error:
        raise StorageError(
            f"Line {number} of '{path}' is not JSON with a field '{_TEXT}'; mend it."
        ) from error
    if not isinstance(text, str):
        raise StorageError(f"The '{_TEXT}' in line {number} of '{path}' is not text; mend it.")
    return text


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        if _TEXT not in file.schema_arrow.names:
            raise StorageError(f"'{path}' has no column '{_TEXT}'; rename the one to be read.")
        for batch in file.iter_batches(batch_size=1024, columns=[_TEXT]):
            yield from (str(text) for text in batch.column(0).to_pylist() if text is not None)
    except pyarrow.ArrowInvalid as error:
        raise StorageError(f"'{path}' is not a Parquet file; check it.") from error
