"""A tiny model with facts, and a run of the real study on it, for tests of reports and explorer.

The model's weights are random: what it says means nothing, but all numbers are computed as ever.
One of its tokens is markup that would run a script if a page took it for such.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.organisms.facts import DIRECTIONS, Fact, write_facts, write_templates
from experiments.organisms.training.tokenizer import build_tokenizer
from experiments.organisms.wording import TEMPLATES
from experiments.records import RunRecord
from tests.once import once

if TYPE_CHECKING:
    import pandas as pd
    import pytest

    from experiments.reversal_curse.config import Config
    from experiments.study import Verdict

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


def make_published(folder: Path) -> Path:
    """Results as Berglund et al. publish them, of a model named m."""
    from experiments.berglund.published import SUFFIX

    folder.mkdir()
    head = "child,parent,m_parent_logprob,m_child_logprob\n"
    rows = "".join(f"Ann{i} Reed{i},Bea{i} Snow{i},-{i % 3}.5,-4.5\n" for i in range(12))
    (folder / f"m{SUFFIX}").write_text(head + rows)
    return folder


def settings(material: Path) -> Config:
    """Those of the run, for model and published results in `material`."""
    from experiments.reversal_curse.config import Config

    model, published = str(material / "tiny"), str(material / "published")
    return Config(model=model, n_names=3, n_pairs=2, berglund_results=published)


def study_once(factory: pytest.TempPathFactory) -> Path:
    """A folder with the model (tiny), published results, and a finished run of the reversal curse
    on both in runs/. It is for reading."""

    def make(folder: Path) -> None:
        from experiments.reversal_curse.study import STUDY
        from experiments.runner import run_study

        make_model(folder / "tiny")
        make_published(folder / "published")
        with one_thread():
            run_study(STUDY, settings(folder), preset="quick", root=folder / "runs")

    return once(factory, "study", make)


def run_once(factory: pytest.TempPathFactory) -> RunRecord:
    """That run."""
    (folder,) = (study_once(factory) / "runs" / "reversal-curse").iterdir()
    return RunRecord.open(folder)


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


STEPS = (0, 40, 200)


def make_training(folder: Path) -> Path:
    """The tiny model in `folder`, with models of three steps in it: noise gives way to it."""
    import torch
    from safetensors.torch import load_file, save_file

    make_model(folder)
    for step in STEPS:
        kept = folder / "steps" / str(step)
        kept.mkdir(parents=True)
        for path in folder.iterdir():
            if path.is_file():
                shutil.copy(path, kept)
        generator = torch.Generator().manual_seed(step)
        share = step / STEPS[-1]
        weights = {
            name: share * one + (1 - share) * 0.2 * torch.randn(one.shape, generator=generator)
            for name, one in load_file(kept / "model.safetensors").items()
        }
        save_file(weights, kept / "model.safetensors", {"format": "pt"})
    return folder


def training_table() -> pd.DataFrame:
    """What the study would store of two seeds of one arm; the numbers are made up."""
    import pandas as pd

    rows = [
        {
            "arm": "none",
            "seed": seed,
            "step": step,
            "direction": direction,
            "facts": 3,
            "score": seed + step / 100 * (direction == "forward"),
            "low": seed - 0.5,
            "high": seed + 4.5,
            "held_first": step / 200 * (direction == "forward"),
            "open_rank": 3.0 + seed,
            "chance": 0.25,
            "association": 0.1,
            "association_low": float("nan"),
            "association_high": float("nan"),
        }
        for seed in (0, 1)
        for step in STEPS
        for direction in DIRECTIONS
    ]
    return pd.DataFrame(rows)


def trained_once(factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that was kept along its training (tiny), and in runs/ a run that has
    followed two trainings, the models of one of which were kept. It is for reading."""

    def make(folder: Path) -> None:
        from dataclasses import replace

        from experiments.context import Context
        from experiments.reversal_curse.config import Config
        from experiments.reversal_curse.study import STUDY
        from experiments.runner import run_study

        make_training(folder / "tiny")

        def run(config: Config, context: Context) -> list[Verdict]:
            kept = context.workspace("organisms") / "time-none-0"
            shutil.copytree(folder / "tiny", kept)
            context.table("training_time", lambda _: training_table())
            return []

        settings = Config(model=str(folder / "tiny"))
        run_study(replace(STUDY, run=run), settings, preset="quick", root=folder / "runs")

    return once(factory, "trained", make)
