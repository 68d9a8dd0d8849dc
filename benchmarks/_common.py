"""What several benchmarks need."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from interp import PromptPairs, load_model
from interp.model.model import Model

# Work that takes longer than this is not repeated.
LONG = 20.0
# Widths of models that are only there to see that something runs.
SMALL = 128
# Seconds after which a rate is known well enough.
ENOUGH = 5.0


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def describe_machine(device: str) -> str:
    """One line for the table in docs/benchmarks.md."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")),
        platform.processor(),
    )
    name = torch.cuda.get_device_name() if on_gpu(device) else cpu
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def on_gpu(device: str) -> bool:
    """Whether work there goes on after the call that asked for it has returned."""
    return device.startswith("cuda")


def wait_for(device: str) -> None:
    """Until all that was asked of a device is done."""
    if on_gpu(device):
        torch.cuda.synchronize()


def matrix_rate(device: str, dtype: torch.dtype, width: int) -> float:
    """Floating-point operations a second of a large matrix product of this width."""
    # On a GPU, what it takes to hand the products over must not count. Where a processor has no
    # instructions for a precision, few of them take seconds.
    rows, times = (1 << 14, 16) if on_gpu(device) else (1 << 11, 4)
    if width < SMALL:
        rows, times = 1 << 7, 1
    a = torch.randn(rows, width, device=device, dtype=dtype)
    b = torch.randn(width, 4 * width, device=device, dtype=dtype)

    def work() -> None:
        for _ in range(times):
            a @ b

    seconds, end = float("inf"), time.perf_counter() + ENOUGH
    for _ in range(10):
        seconds = min(seconds, timed(work, 1, device)[0])
        if time.perf_counter() > end:
            break
    return times * 2 * rows * width * 4 * width / seconds


def timed(work: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    """Best of `repeats` times, in seconds, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        wait_for(device)
        start = time.perf_counter()
        result = work()
        wait_for(device)
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


def llama(
    layers: int = 32,
    width: int = 4096,
    heads: int = 32,
    inner: int = 11_008,
    *,
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> Model:
    """A Llama with random weights that are made where they stay; by default of 7B's shape."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        initializer_range=0.02,
        dtype=dtype,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            hf_model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    return load_model(hf_model, tokenizer=word_tokenizer(config.vocab_size), device=device)


def random_pair(model: Model, length: int) -> PromptPairs:
    """One pair of prompts of random words that share their first token."""
    return random_pairs(model, 1, length)


def random_pairs(model: Model, n: int, length: int) -> PromptPairs:
    """Pairs of prompts of random words that share their first token."""
    generator = torch.Generator().manual_seed(0)
    most = min(50_000, model.d_vocab)
    clean, corrupt = (torch.randint(10, most, (n, length), generator=generator) for _ in "ab")
    corrupt[:, 0] = clean[:, 0]
    answers, foils = (torch.full((n,), token) for token in (5, 6))
    return PromptPairs(model, clean, corrupt, answers, foils)


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of numbered words, for models that are only timed."""
    words = {"<bos>": 0, **{f"w{i}": i for i in range(1, size)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<bos>", name_or_path="words"
    )
