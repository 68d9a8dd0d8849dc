"""What several benchmarks need."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


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
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * 2048 * width * 4 * width / best


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of numbered words, for models that are only timed."""
    words = {"<bos>": 0, **{f"w{i}": i for i in range(1, size)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<bos>", name_or_path="words"
    )
