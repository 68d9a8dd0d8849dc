"""Models put together by copying Hugging Face's weights by their names, and run whole."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from interp.loading.load import load_model
from interp.model.model import Model
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import build_tokenizer, words

# By architecture, what of a block belongs to which part; the first pattern that fits counts.
RULES: dict[str, dict[str, str]] = {
    "GPT-2": {r"ln_1|\.attn": "attention", r"ln_2|mlp": "mlp"},
    "Llama": {r"input_layernorm|self_attn": "attention", r"post_attention|mlp": "mlp"},
    "GPT-NeoX": {r"input_layernorm|\.attention": "attention", r"post_attention|mlp": "mlp"},
    "GPT-J": {r"ln_1": "norm", r"\.attn": "attention", r"mlp": "mlp"},
    "Gemma 2": {
        r"feedforward|mlp": "mlp",
        r"input_layernorm|self_attn|post_attention": "attention",
    },
    "OPT": {r"self_attn": "attention", r"fc1|fc2|final_layer_norm": "mlp"},
}
_BLOCK = re.compile(r"\.(?:h|layers)\.(\d+)\.")
_FINAL = re.compile(r"ln_f|model\.norm|gpt_neox\.final_layer_norm|decoder\.final_layer_norm")
_UNEMBEDDING = re.compile(r"lm_head|embed_out")


@dataclass(frozen=True)
class Two:
    """Two models of an architecture, wrapped and plain."""

    name: str
    hf: dict[str, Any]
    base: Model
    tuned: Model

    @classmethod
    def build(cls, name: str, size: float = 0.3) -> Two:
        hf = {"base": ARCHITECTURES[name].build(), "tuned": ARCHITECTURES[name].build()}
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in hf["tuned"].parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(size * parameter.std().clamp(min=0.05) * noise)
        return cls(name, hf, *(loaded(hf[which]) for which in ("base", "tuned")))

    @property
    def tied(self) -> bool:
        one = self.hf["base"]
        return one.get_input_embeddings().weight is one.get_output_embeddings().weight

    def part(self, weight: str) -> str:
        """The part that a weight belongs to, by its name."""
        block = _BLOCK.search(weight)
        if block:
            rest = weight[block.start() :]
            found = (part for rule, part in RULES[self.name].items() if re.search(rule, rest))
            return f"{next(found)} {block[1]}"
        if _UNEMBEDDING.search(weight):
            return "unembedding"
        return "final norm" if _FINAL.search(weight) else "embedding"

    def hybrid(self, into: str, parts: Collection[str]) -> Any:
        """A copy of one model with these parts of the other."""
        made, other = copy.deepcopy(self.hf[into]), self.hf[_other(into)]
        if self.tied:
            head = made.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
        source = dict(other.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if self.part(name) in parts:
                    parameter.copy_(source[name])
        return made


def loaded(hf: Any) -> Model:
    """A copy of it in Obverse."""
    return load_model(copy.deepcopy(hf), tokenizer=build_tokenizer(), device="cpu")


def logit_difference(hf: Any, ids: list[int], answer: str, foil: str) -> float:
    """After one unpadded prompt."""
    with torch.no_grad():
        logits = hf(torch.tensor([ids]), use_cache=False).logits[0, -1]
    return float(logits[words(answer)[0]] - logits[words(foil)[0]])


def _other(which: str) -> str:
    return "tuned" if which == "base" else "base"
