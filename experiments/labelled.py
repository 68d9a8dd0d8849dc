"""A study's examples with a label each, as probes take them: what is read, told and held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.errors import StudyError
from experiments.explorer import Examples, Label, Way
from experiments.sheets import sameness

if TYPE_CHECKING:
    import pandas as pd

    from interp.model.model import Model
    from interp.prompts.tokens import TokenBatch

ANSWERED = "answered"
"""The label that tells in which ways an example is answered right."""

LEAST = 10
"""Entities that a class must have: of fewer there is nothing to be learned and tested."""

MOST = 12
"""Classes that probes are asked to tell apart."""

_TOLD = 6  # classes that are named in an error


@dataclass(frozen=True)
class Labelled:
    """Examples of classes that have enough of them.

    Attributes:
        prompts: what the model reads.
        labels: the class of each.
        groups: the entity that each is about, as a number; entities are held out.
        names: of all that each is about; those of one name are of one group.
        words: those whose last token is read; the prompt's last token where there are none.
        left_out: how many examples there are of classes that have too few.
    """

    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))

    @property
    def entities(self) -> int:
        """How many there are to be held out."""
        return len(set(self.groups))

    def places(self, model: Model, batch: TokenBatch | None = None) -> list[int]:
        """Which token of each prompt is read.

        Args:
            batch: the prompts as tokens, where they are at hand.

        Raises:
            PromptError: the words do not stand in their prompt, or several times.
        """
        from interp.prompts.pairs import find_span
        from interp.prompts.tokens import tokenise

        batch = tokenise(model, list(self.prompts)) if batch is None else batch
        if not self.words:
            return [int(length) - 1 for length in batch.lengths]
        return [
            find_span(batch, number, words, "subject")[1] - 1
            for number, words in enumerate(self.words)
        ]


def labels_of(examples: Examples, table: pd.DataFrame) -> tuple[Label, ...]:
    """What the examples of a table differ in."""
    titles = {column.name: column.label for column in examples.columns}
    offered = [
        Label(f"{way.name}_correct", f"Answered right: {_lower(way.title)}")
        for way in examples.ways
    ]
    if len(examples.ways) > 1:
        offered.append(Label(ANSWERED, "Which ways are answered right"))
    offered.append(Label(examples.group, titles.get(examples.group, examples.group)))
    offered += examples.labels
    return tuple(label for label in offered if _values(examples, table, label.name).nunique() > 1)


def labelled(
    examples: Examples, table: pd.DataFrame, label: str, way: str, *, subject: bool
) -> Labelled:
    """The examples of a table, asked in a way, with one of `labels_of` each.

    Args:
        label: its name.
        way: its name.
        subject: read the last token of what the prompt is about, not the prompt's.

    Raises:
        StudyError: there is no such label or way, or fewer than two classes have enough examples.
    """
    asked = next((one for one in examples.ways if one.name == way), None)
    if asked is None:
        raise StudyError(f"Unknown way of asking '{way}'; choose one of {_listed(examples.ways)}.")
    if subject and not asked.about:
        raise StudyError(
            f"The study does not say what prompts are about, {_lower(asked.title)}; read their "
            "last token."
        )
    values = _values(examples, table, label)
    names = [tuple(sorted(set(row))) for row in _names(examples, table)]
    groups = _joined(list(table[f"{way}_prompt"].astype(str)), names)
    some = values.notna().to_numpy()
    entities = {
        str(name): len(set(groups[some & (values == name).to_numpy()]))
        for name in values[some].unique()
    }
    kept = sorted(name for name, count in entities.items() if count >= LEAST)
    few = tuple(sorted((name, n) for name, n in entities.items() if name not in kept))
    check_classes({name: entities[name] for name in kept}, dict(few), examples.many)
    rows = np.flatnonzero(values.isin(kept).to_numpy())
    one = table.iloc[rows]
    return Labelled(
        tuple(one[f"{way}_prompt"].astype(str)),
        tuple(values.iloc[rows].astype(str)),
        tuple(int(groups[row]) for row in rows),
        tuple(names[row] for row in rows),
        tuple(one[asked.about].astype(str)) if subject else (),
        few,
    )


def check_classes(kept: Mapping[str, int], few: Mapping[str, int], many: str) -> None:
    """Refuse what a probe cannot be learned from and tested on.

    Args:
        kept: how many entities each class has, of those that have enough.
        few: the same of the others.
        many: what they are called.

    Raises:
        StudyError: fewer than two have enough, or there are too many of them.
    """
    if len(kept) > MOST:
        raise StudyError(
            f"There are {len(kept)} classes; ask for a label of at most {MOST}, or there is too "
            "little of each."
        )
    if len(kept) < 2:
        every = sorted({**kept, **few}.items())
        counts = ", ".join(f"‘{name}’ {n}" for name, n in every[:_TOLD])
        counts += f" and {len(every) - _TOLD} more" if len(every) > _TOLD else ""
        raise StudyError(
            f"A probe needs two classes of at least {LEAST} different {many} each, to be learned "
            f"from some and tested on others; here there are {counts or 'none'}. Of so few, no "
            "accuracy would mean anything."
        )


def _values(examples: Examples, table: pd.DataFrame, name: str) -> pd.Series:
    """The class of each row, as text; missing where nobody says."""
    import pandas as pd

    correct = {way.name: f"{way.name}_correct" for way in examples.ways}
    if name == ANSWERED and all(column in table for column in correct.values()):
        right = table[list(correct.values())].astype(bool).to_numpy()
        ends = {0: "neither", 2: "both"} if len(correct) == 2 else {0: "none"}
        said = [
            ends.get(int(row.sum()))
            or " and ".join(way for way, yes in zip(correct, row, strict=True) if yes)
            for row in right
        ]
        return pd.Series(said, index=table.index, dtype=object)
    if name not in table:
        return pd.Series([None] * len(table), index=table.index, dtype=object)
    if name in correct.values():
        return table[name].astype(bool).map({True: "right", False: "wrong"})
    values = table[name].astype(object)
    return values.where(values.isna(), values.astype(str))


def _names(examples: Examples, table: pd.DataFrame) -> list[tuple[str, ...]]:
    columns = list(dict.fromkeys(way.about for way in examples.ways if way.about))
    return [tuple(map(sameness, row)) for row in table[columns].astype(str).to_numpy().tolist()]


def _joined(prompts: list[str], names: list[tuple[str, ...]]) -> np.ndarray:
    """Rows that share a name or the prompt, directly or by others, are one entity [row]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(prompts)
    nodes: dict[tuple[str, str], int] = {}
    links = [
        (row, n + nodes.setdefault(what, len(nodes)))
        for row, (prompt, called) in enumerate(zip(prompts, names, strict=True))
        for what in (("prompt", prompt), *(("name", name) for name in called))
    ]
    if not links:
        return np.zeros(0, dtype=np.int64)
    size = n + len(nodes)
    graph = coo_array((np.ones(len(links)), tuple(zip(*links, strict=True))), shape=(size, size))
    parts = connected_components(graph, directed=False)[1][:n]
    return np.unique(parts, return_inverse=True)[1].astype(np.int64)


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


def _listed(ways: tuple[Way, ...]) -> str:
    return ", ".join(way.name for way in ways)
