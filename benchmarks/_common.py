"""What several benchmarks need."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp import PromptPairs, load_model
from interp.model.model import Model

# Work that takes longer than this is not repeated.
LONG = 20.0


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def describe_machine(device: str) -> str:
    """One line for the table in docs/benchmarks.md."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")),
        platform.processor(),
    )
    name = torch.cuda.get_device_name() if device == "cuda" else cpu
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def matrix_rate(device: str, dtype: torch.dtype, width: int) -> float:
    """Floating-point operations a second of a large matrix product of this width."""
    a = torch.randn(2048, width, device=device, dtype=dtype)
    b = torch.randn(width, 4 * width, device=device, dtype=dtype)

    def work() -> None:
        for _ in range(4):
            a @ b

    seconds = min(timed(work, 1, device)[0] for _ in range(10))
    return 4 * 2 * 2048 * width * 4 * width / seconds


def timed(work: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    """Best of `repeats` times, in seconds, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        if best > LONG:
            break
    return best, result


def gpt2(
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """A GPT-2 of this shape with random weights, the same each time, and a tokenizer."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, initializer_range=0.1)
    hf_model = GPT2LMHeadModel(config).to(device=device, dtype=dtype).eval()
    return hf_model, word_tokenizer(config.vocab_size)


def build(
    layers: int,
    device: str,
    dtype: torch.dtype,
    width: int = 768,
    heads: int = 12,
) -> Model:
    """The same through `load_model`."""
    hf_model, tokenizer = gpt2(layers, width, heads, device=device, dtype=dtype)
    return load_model(hf_model, tokenizer=tokenizer, device=device)


def random_pair(model: Model, length: int) -> PromptPairs:
    """One pair of prompts of random words that share their first token."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randint(10, 50_000, (1, length), generator=generator) for _ in "ab")
    corrupt[:, 0] = clean[:, 0]
    return PromptPairs(model, clean, corrupt, torch.tensor([5]), torch.tensor([6]))


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of numbered words, for models that are only timed."""
    words = {"<bos>": 0, **{f"w{i}": i for i in range(1, size)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<bos>", name_or_path="words"
    )
