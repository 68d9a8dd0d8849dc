"""How often a plain Hugging Face model completes a fact: greedy match of the whole answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.organisms.errors import OrganismError
from experiments.organisms.facts import DIRECTIONS, SPLITS, Direction, Fact, Split, Templates

TemplateSet = Literal["trained", "held_out"]
_ROWS = 256  # prompts in one forward pass


@dataclass(frozen=True)
class Score:
    """Whole answers completed correctly, over every fact of a split and every template of a set."""

    split: Split
    direction: Direction
    templates: TemplateSet
    correct: int
    total: int

    @property
    def rate(self) -> float:
        """Share of correct answers."""
        return self.correct / self.total


def greedy_match(
    model: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]
) -> list[bool]:
    """For each prompt, whether greedy decoding continues it with the whole answer.

    Greedy decoding gives the answer exactly where each of its tokens is the most likely one after
    the prompt and the answer's tokens before it, so one forward pass decides. A tie counts for the
    token with the smallest id, as in decoding.

    Raises `OrganismError` where prompt and answer do not tokenise apart.
    """
    import torch

    matches: list[bool] = []
    for start in range(0, len(prompts), _ROWS):
        rows: list[tuple[list[int], int]] = []
        asked = list(prompts[start : start + _ROWS])
        given = list(answers[start : start + _ROWS])
        whole = [f"{prompt} {answer}" for prompt, answer in zip(asked, given, strict=True)]
        # All at once, which takes a tenth of the time.
        tokens = (tokenizer(texts).input_ids for texts in (asked, whole))
        for prompt, answer, before, full in zip(asked, given, *tokens, strict=True):
            if full[: len(before)] != before or len(full) == len(before):
                raise OrganismError(
                    f"The answer {answer!r} runs into the prompt {prompt!r} in this tokenizer; "
                    "end the prompt with a word."
                )
            rows.append((full, len(before)))
        width = max(len(full) for full, _ in rows)
        # Padding follows the answer, where causal attention keeps it from mattering.
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for row, (full, _) in enumerate(rows):
            ids[row, : len(full)] = torch.tensor(full)
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        greedy = logits.argmax(dim=-1).tolist()
        matches += [
            greedy[row][length - 1 : len(full) - 1] == full[length:]
            for row, (full, length) in enumerate(rows)
        ]
    return matches


def score_table(
    model: Any,
    tokenizer: Any,
    facts: Iterable[Fact],
    templates: Mapping[Direction, Templates],
) -> tuple[Score, ...]:
    """Scores by split, direction and set of templates, for the splits that occur in `facts`."""
    facts = tuple(facts)
    scores: list[Score] = []
    for split in SPLITS:
        chosen = [fact for fact in facts if fact.split == split]
        for direction in DIRECTIONS:
            sets: dict[TemplateSet, tuple[str, ...]] = {
                "trained": templates[direction].trained,
                "held_out": templates[direction].held_out,
            }
            for name, worded in sets.items():
                if not chosen:
                    continue
                prompts = [fact.prompt(template) for fact in chosen for template in worded]
                answers = [fact.answer(direction) for fact in chosen for _ in worded]
                correct = sum(greedy_match(model, tokenizer, prompts, answers))
                scores.append(Score(split, direction, name, correct, len(prompts)))
    return tuple(scores)
