"""Small models that have learned the tasks of ../shared/data/tasks, of several architectures.

No pretrained model that does indirect objects or greater-than is at hand, so two are made of one:
each is trained on both tasks, on prompts of the published wordings with names and years drawn anew.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp import PromptPairs, load_model
from interp.model.model import Model

TASKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "tasks"
SIZE = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
_NAMES, _ROWS = 20, 32
COMMON = {"max_position_embeddings": 32, "attn_implementation": "eager", "pad_token_id": 0}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 160}

ARCHITECTURES: dict[str, Callable[[int], Any]] = {
    "GPT-2": lambda words: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=words, **SIZE, **COMMON)
    ),
    "Llama": lambda words: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=words, **SIZE, **COMMON, **GROUPED)
    ),
    "GPT-NeoX": lambda words: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=words, intermediate_size=256, rotary_pct=0.5, **SIZE, **COMMON
        )
    ),
    "Gemma 2": lambda words: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            vocab_size=words, head_dim=16, query_pre_attn_scalar=16, **SIZE, **COMMON, **GROUPED
        )
    ),
}


@dataclass(frozen=True)
class Question:
    """A prompt, the one it is compared with, and what follows."""

    clean: str
    corrupt: str
    answer: str
    foil: str


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as the table calls it.
        draw: a question, from a source of randomness.
        follows: what a model is trained to say after the clean prompt, likewise.
    """

    name: str
    draw: Callable[[random.Random], Question]
    follows: Callable[[random.Random, Question], str]

    def pairs(self, model: Model, n: int) -> PromptPairs:
        """Pairs that no training has drawn (of its own source of randomness)."""
        rng = random.Random("asked")
        drawn = [self.draw(rng) for _ in range(n)]
        texts = zip(*((q.clean, q.corrupt, q.answer, q.foil) for q in drawn), strict=True)
        return PromptPairs(model, *map(list, texts))


def indirect_objects() -> Task:
    """The name that was not repeated; in the corrupted prompt none was."""
    texts = [row["clean"] for row in _rows("ioi.csv")]
    length = len(_words(texts[0]))
    texts = [text for text in texts if len(_words(text)) == length]
    pool = sorted({name for text in texts for name in _names(text)})[:_NAMES]

    def draw(rng: random.Random) -> Question:
        text = rng.choice(texts)
        first, second, subject = _names(text)
        one, two, three = rng.sample(pool, 3)
        clean = re.sub(f"{first}|{second}", lambda found: {first: one, second: two}[found[0]], text)
        again, other = (one, two) if subject == first else (two, one)
        corrupt = three.join(clean.rsplit(again, 1))
        return Question(clean, corrupt, f" {other}", f" {again}")

    return Task("indirect object", draw, lambda _, question: question.answer)


def greater_than() -> Task:
    """A later year of the century; the foil is earlier, and in the corrupted prompt none is."""
    texts = [row["clean"] for row in _rows("greater_than.csv")]

    def draw(rng: random.Random) -> Question:
        year, text = rng.randrange(21, 88), rng.choice(texts)
        clean, corrupt = (re.sub(r"(\d\d)\d\d", rf"\g<1>{of:02d}", text) for of in (year, 1))
        return Question(clean, corrupt, f"{year + 9}", f"{year - 9}")

    def follows(rng: random.Random, question: Question) -> str:
        return f"{rng.randrange(int(question.answer) - 8, 100)}"

    return Task("greater than", draw, follows)


def train(
    architecture: str, tasks: Sequence[Task], steps: int, keep: Path | None = None, seed: int = 0
) -> Model:
    """A model of this architecture that was trained on the tasks.

    Args:
        keep: a folder in which trained models lie, or are put.
    """
    folder = None if keep is None else keep / architecture
    if folder is not None and folder.is_dir():
        return load_model(folder)
    rng = random.Random(seed)
    words = sorted({word for task in tasks for word in _vocabulary(task)})
    tokenizer = _tokenizer(words)
    torch.manual_seed(seed)
    network = ARCHITECTURES[architecture](len(tokenizer)).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        drawn = [(task, task.draw(rng)) for task in tasks for _ in range(_ROWS)]
        ids, last = _batch(tokenizer, [q.clean + task.follows(rng, q) for task, q in drawn])
        row = torch.arange(len(ids))
        logits = network(input_ids=ids, use_cache=False).logits[row, last - 1]
        torch.nn.functional.cross_entropy(logits, ids[row, last]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    if folder is None:
        return load_model(network.eval(), tokenizer=tokenizer)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder)


def _rows(name: str) -> list[dict[str, str]]:
    with (TASKS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _vocabulary(task: Task) -> set[str]:
    rng = random.Random("words")
    drawn = [task.draw(rng) for _ in range(5000)]
    texts = [text for q in drawn for text in (q.clean, q.corrupt, q.answer, q.foil)]
    return {word for text in texts for word in _words(text)} | {f"{i:02d}" for i in range(100)}


def _names(text: str) -> tuple[str, str, str]:
    """The two people, and the one named again."""
    found = re.search(r"(\w+) and (\w+).*[.,] (\w+) ", text)
    assert found is not None, text
    return found[1], found[2], found[3]


def _words(text: str) -> list[str]:
    return re.findall(r" ?[A-Za-z]+| ?\d\d|[.,]", text)


def _tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    known = {"<pad>": 0, "<bos>": 1, **{word: 2 + i for i, word in enumerate(words)}}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d\d|[.,]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", name_or_path="tasks"
    )


def _batch(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids [prompt, position], and where the last token of each stands."""
    rows = [[1, *tokenizer(text)["input_ids"]] for text in texts]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return ids, torch.tensor([len(row) - 1 for row in rows])
