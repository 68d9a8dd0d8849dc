"""Small random checkpoints of many architectures, and where their parts lie in Hugging Face's code.

Their weights are large enough that replacing any activation moves the logits, and no bias or norm
is left at its neutral start, so that forgetting one shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformers

from tests.interp.tiny import VOCABULARY

N_LAYERS, N_HEADS, D_HEAD = 2, 4, 8
D_MODEL = N_HEADS * D_HEAD
SIZE = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": 24,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
GROUPED = {"num_key_value_heads": 2}
Fused = Literal["apart", "by kind", "by head", "shared"]
"""How queries, keys and values lie: in matrices of their own; in one, all queries first; in one,
head by head; in one, with a single key and value after all queries."""


@dataclass(frozen=True)
class Layout:
    """The names of a block's parts in Hugging Face's module tree.

    Attributes:
        blocks: the list of blocks.
        attention: the module in which the attention's softmax is taken.
        attn_out, mlp_out: the modules whose outputs are added to the residual stream.
        scale: what these outputs are multiplied with when they are added.
        out_matrix: the module that reads the heads' outputs.
        neurons: the module that reads the MLP's neurons; None where experts hide them.
        fused: how queries, keys and values lie in the output of `qkv`.
        qkv: the modules that make them: three, or one.
        parallel: whether attention and MLP read the same stream.
        patterns: whether TransformerLens computes the attention itself, so that patterns can be
            replaced; where Hugging Face does, it only shows them.
    """

    blocks: str = "model.layers"
    attention: str = "self_attn"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    scale: float = 1.0
    out_matrix: str = "self_attn.o_proj"
    neurons: str | None = "mlp.down_proj"
    fused: Fused = "apart"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    parallel: bool = False
    patterns: bool = True


@dataclass(frozen=True)
class Architecture:
    """One way of building a language model.

    Attributes:
        family: the first part of the names of Hugging Face's classes.
        settings: of its configuration, besides `SIZE`; None takes one of these out.
        layout: where its parts lie.
        config, model: the ends of the names of its classes.
    """

    family: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    config: str = "Config"
    model: str = "ForCausalLM"

    @property
    def n_layers(self) -> int:
        return int(self.settings.get("num_hidden_layers", N_LAYERS))

    def build(self) -> Any:
        """The same weights each time."""
        config = getattr(transformers, self.family + self.config)
        torch.manual_seed(0)
        settings = {k: v for k, v in {**SIZE, **self.settings}.items() if v is not None}
        hf = getattr(transformers, self.family + self.model)(config(**settings)).eval()
        with torch.no_grad():
            for parameter in hf.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return hf


POST_NORMS = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
BLOOM = {
    "blocks": "transformer.h",
    "attention": "self_attention",
    "attn_out": "self_attention.dense",  # the attention itself returns the stream
    "mlp_out": "mlp.dense_4h_to_h",
    "out_matrix": "self_attention.dense",
    "neurons": "mlp.dense_4h_to_h",
    "fused": "by head",
    "qkv": ("self_attention.query_key_value",),
}
NEOX = {
    "blocks": "gpt_neox.layers",
    "attention": "attention",
    "attn_out": "attention",
    "out_matrix": "attention.dense",
    "neurons": "mlp.dense_4h_to_h",
    "fused": "by head",
    "qkv": ("attention.query_key_value",),
}
OPT = {
    "blocks": "model.decoder.layers",
    "mlp_out": "fc2",
    "out_matrix": "self_attn.out_proj",
    "neurons": "fc2",
}
FALCON = {"new_decoder_architecture": False, "bias": True, "intermediate_size": None}

ARCHITECTURES: dict[str, Architecture] = {
    "GPT-2": Architecture(
        "GPT2",
        {"intermediate_size": None},
        Layout(
            blocks="transformer.h",
            attention="attn",
            attn_out="attn",
            out_matrix="attn.c_proj",
            neurons="mlp.c_proj",
            fused="by kind",
            qkv=("attn.c_attn",),
        ),
        model="LMHeadModel",
    ),
    "GPT-NeoX": Architecture("GPTNeoX", {"rotary_pct": 0.5}, Layout(**NEOX, parallel=True)),
    "GPT-NeoX, one after the other": Architecture(
        "GPTNeoX", {"use_parallel_residual": False}, Layout(**NEOX)
    ),
    "GPT-J": Architecture(
        "GPTJ",
        {"rotary_dim": 4, "n_inner": 48},
        Layout(
            blocks="transformer.h",
            attention="attn",
            attn_out="attn",
            out_matrix="attn.out_proj",
            neurons="mlp.fc_out",
            qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
            parallel=True,
            patterns=False,
        ),
    ),
    "Llama": Architecture("Llama", GROUPED),
    "Mistral": Architecture("Mistral", {**GROUPED, "sliding_window": 3}),
    "Mixtral": Architecture("Mixtral", {**GROUPED, "num_local_experts": 3}, Layout(neurons=None)),
    "Qwen2": Architecture(  # biases on queries, keys and values; a window from some layer on
        "Qwen2",
        {**GROUPED, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "Qwen3": Architecture("Qwen3", {**GROUPED, "head_dim": D_HEAD}),  # norms of queries and keys
    "Gemma 2": Architecture(  # norms after attention and MLP, alternating masks, soft caps
        "Gemma2",
        {
            **GROUPED,
            "num_hidden_layers": 3,
            "head_dim": D_HEAD,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 8,
            "sliding_window": 3,
        },
        Layout(**POST_NORMS),
    ),
    "Gemma 3": Architecture(  # rotations of two kinds as well
        "Gemma3",
        {
            **GROUPED,
            "num_hidden_layers": 3,
            "head_dim": D_HEAD,
            "query_pre_attn_scalar": 8,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        Layout(**POST_NORMS),
        config="TextConfig",
    ),
    "OLMo 2": Architecture("Olmo2", GROUPED, Layout(**POST_NORMS)),  # no norms before
    "Granite": Architecture(
        "Granite",
        {
            **GROUPED,
            "residual_multiplier": 0.5,
            "embedding_multiplier": 2.0,
            "logits_scaling": 3.0,
        },
        Layout(scale=0.5),
    ),
    "Cohere": Architecture("Cohere", {**GROUPED, "logit_scale": 0.3}, Layout(parallel=True)),
    "Phi": Architecture(
        "Phi",
        {"partial_rotary_factor": 0.5},
        Layout(out_matrix="self_attn.dense", neurons="mlp.fc2", parallel=True),
    ),
    "OPT": Architecture(  # positions count from two; how wide an MLP is, only its weights tell
        "OPT",
        {"ffn_dim": 16, "intermediate_size": None, "word_embed_proj_dim": D_MODEL},
        Layout(**OPT, patterns=False),
    ),
    "BLOOM": Architecture(  # position biases by example and head
        "Bloom",
        {"n_layer": N_LAYERS, "n_head": N_HEADS, "intermediate_size": None},
        Layout(**BLOOM),
    ),
    "Falcon, one key": Architecture(
        "Falcon",
        {**FALCON, "alibi": False, "multi_query": True, "parallel_attn": True},
        Layout(
            **{**BLOOM, "attn_out": "self_attention", "mlp_out": "mlp", "fused": "shared"},
            parallel=True,
        ),
    ),
}
