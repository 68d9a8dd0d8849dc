"""Tiny random checkpoints, one for each way of building a block.

Their weights are large enough that replacing any activation moves the logits, and no bias or norm
is left at its neutral start, so that forgetting one shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.loading.load import load_model
from interp.model.model import Model

BOS, UNK, PAD = "<bos>", "<unk>", "<pad>"
NAMES = ("Ann", "Bo", "Cy", "Dee", "Eve", "Fay", "Gus", "Hal", "Ida", "Jo", "Anna")
WORDS = ("we", "saw", "near", "home", "and", "then", "so", "is", "the", "friend", "of", "who")
PLACES = ("Rome", "Oslo", "Lima", "Bonn", "Cork", "Riga")
SPECIAL = (PAD, BOS, UNK)
VOCABULARY = (*SPECIAL, *NAMES, *WORDS, *PLACES, ".", "?", "!")
N_SPECIAL = len(SPECIAL)

N_LAYERS, N_HEADS, N_KEY_VALUE_HEADS, D_MODEL, N_CTX = 3, 4, 2, 32, 24
D_HEAD = D_MODEL // N_HEADS


@dataclass(frozen=True)
class Tiny:
    """One architecture, twice: as Hugging Face has it, and as the instruments see it.

    Attributes:
        name: the architecture.
        folder: where the checkpoint lies.
        hf: the Hugging Face model, loaded apart and never wrapped.
        model: the same checkpoint through `load_model`.
    """

    name: str
    folder: Path
    hf: Any
    model: Model

    @property
    def parallel(self) -> bool:
        return self.name == "neox"

    @property
    def bos(self) -> list[int]:
        """What comes before a prompt's words: TransformerLens gives GPT-NeoX prompts no BOS."""
        return [] if self.parallel else [VOCABULARY.index(BOS)]

    def ids(self, text: str) -> list[int]:
        """The token ids of a prompt, by looking up each word: no tokenizer involved."""
        return [*self.bos, *words(text)]


def words(text: str) -> list[int]:
    """The token id of each word."""
    return [VOCABULARY.index(word) for word in text.split()]


def build_tokenizer() -> Any:
    """Every word is one token, and text starts with BOS."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token=UNK))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, VOCABULARY.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        unk_token=UNK,
        pad_token=PAD,
        model_max_length=N_CTX,
        clean_up_tokenization_spaces=False,
    )


def gpt2() -> Any:
    """Learned positions, fused query-key-value matrix, biases everywhere, tied unembedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(VOCABULARY),
            n_positions=N_CTX,
            n_embd=D_MODEL,
            n_layer=N_LAYERS,
            n_head=N_HEADS,
            initializer_range=0.25,
            bos_token_id=1,
            eos_token_id=0,
            attn_implementation="eager",
        )
    )


def llama() -> Any:
    """Rotary positions, gated MLP, and half as many keys and values as queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=D_MODEL,
            intermediate_size=48,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=N_HEADS,
            num_key_value_heads=N_KEY_VALUE_HEADS,
            max_position_embeddings=N_CTX,
            initializer_range=0.25,
            bos_token_id=1,
            eos_token_id=0,
            attn_implementation="eager",
        )
    )


def neox() -> Any:
    """Attention and MLP side by side, queries, keys and values interleaved by head."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=D_MODEL,
            intermediate_size=48,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=N_HEADS,
            max_position_embeddings=N_CTX,
            initializer_range=0.25,
            rotary_pct=0.5,
            use_parallel_residual=True,
            bos_token_id=1,
            eos_token_id=0,
            attn_implementation="eager",
        )
    )


BUILDERS: dict[str, Callable[[], Any]] = {"gpt2": gpt2, "llama": llama, "neox": neox}


def save(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of the architecture `name` with its tokenizer into `folder`."""
    torch.manual_seed(seed)
    hf = BUILDERS[name]().eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    hf.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def load_hugging_face(folder: Path) -> Any:
    """The checkpoint as Hugging Face runs it, without anything around it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def build(name: str, folder: Path) -> Tiny:
    save(name, folder)
    return Tiny(name, folder, load_hugging_face(folder), load_model(folder))
