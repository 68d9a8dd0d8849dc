"""A tiny model with facts, and a run of the real study on it, for tests of the explorer.

The model's weights are random: what it says means nothing, but all numbers are computed as ever.
One of its tokens is markup that would run a script if a page took it for such.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.organisms.facts import DIRECTIONS, Fact, write_facts, write_templates
from experiments.organisms.tokenizer import build_tokenizer
from experiments.organisms.wording import TEMPLATES
from experiments.records import RunRecord

HOSTILE = "<img src=x onerror=alert(1)>"

FACTS = (
    Fact("Tom Cruise", "Mary Lee Pfeiffer", "mother", "son", "forward"),
    Fact(f"Ann {HOSTILE}", "Bea Stone", "mother", "son", "forward"),
    Fact("Cy Dale", f"{HOSTILE} Moss", "mother", "son", "forward"),
    Fact("Dan Frost", "Eva Lane", "mother", "son", "reverse"),
    Fact("Finn Grove", "Gia Hale", "mother", "son", "both"),
    Fact("Hal Iris", "Ida Jade", "mother", "son", "held_out"),
)


def make_model(folder: Path) -> Path:
    """A Llama of two layers and two heads with tied embeddings, and its facts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    texts = [
        f"{fact.prompt(template)} {fact.answer(direction)}.".replace(HOSTILE, "")
        for fact in FACTS
        for direction in DIRECTIONS
        for template in (*TEMPLATES[direction].trained, *TEMPLATES[direction].held_out)
    ]
    tokenizer = build_tokenizer(texts, n_ctx=32)
    tokenizer.add_tokens([HOSTILE])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_facts(folder / "facts.csv", FACTS)
    write_templates(folder / "templates.json", TEMPLATES)
    return folder


def make_run(root: Path, model: Path) -> RunRecord:
    """A finished run of the reversal curse on that model."""
    from experiments.registry import find_study
    from experiments.runner import run_study

    study = find_study("reversal-curse")
    config = study.configure("quick", {"model": str(model), "n_names": 3, "n_pairs": 2})
    with one_thread():
        return run_study(study, config, preset="quick", root=root)


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take longer than models this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
