"""Text files as rows of token ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from cache.space import Ids
from interp.errors import PromptError, StorageError
from interp.model import Model

__all__ = ["read_rows"]

# Characters that are tokenised at once: a document is cut at the end of a line after so many.
_PIECE = 1 << 16
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

    Raises:
        PromptError: there are no tokens, or `context` does not suit the model.
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
    for content in _contents(model, documents, context - len(bos)):
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
    return list(rows.values())


def _contents(model: Model, documents: Iterable[str], length: int) -> Iterator[list[int]]:
    """Token ids of the documents, `length` at a time and fewer at the end of each."""
    pieces = _pieces(documents)
    held: list[int] = []
    while batch := list(islice(pieces, _PIECES_AT_ONCE)):
        read = model.tokenizer([text for text, _ in batch], add_special_tokens=False)["input_ids"]
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
        start = 0
        while start < len(document):
            stop = len(document)
            if stop - start > 2 * _PIECE:
                line = document.find("\n", start + _PIECE, start + 2 * _PIECE)
                stop = line + 1 if line >= 0 else start + 2 * _PIECE
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
