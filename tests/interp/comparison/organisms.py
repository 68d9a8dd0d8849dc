"""A base, a model of it with something planted in a known place, and a twin with something else.

Planted: a change of rank one to the last matrix of one MLP, by which the name at the end of a
prompt decides between two places after it. What the matrix reads is fitted by least squares, so
that it answers to these names and hardly to anything else (cf. Meng et al. 2022). The twin has a
change of the same kind in the same matrix, for other names and other places. All weights of both
are blurred a little besides, so that nothing is found by looking for what is not exactly the same.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.loading.load import load_model
from interp.model.model import Model
from interp.prompts.pairs import PromptPairs
from tests.interp import tiny

LAYER, RANK = 1, 1
BLUR, RIDGE, SIZE = 1e-3, 0.1, 1.0
KNOWN = ("saw", "near", "so", "is", "the", "of", "who", "we")
UNKNOWN = ("home", "friend")


@dataclass(frozen=True)
class Rule:
    """Which names are followed by which of two places."""

    names: tuple[tuple[str, ...], tuple[str, ...]]
    places: tuple[str, str]


PLANTED = Rule((("Ann", "Bo", "Cy"), ("Dee", "Eve", "Fay")), ("Rome", "Oslo"))
OTHER = Rule((("Gus", "Hal"), ("Ida", "Jo")), ("Lima", "Bonn"))


@dataclass(frozen=True)
class Organisms:
    """The three models, as Hugging Face has them and as the instruments see them."""

    hf: dict[str, Any]
    base: Model
    tuned: Model
    twin: Model

    def pairs(self) -> PromptPairs:
        """Twelve prompts that the change was not fitted to, two for each name."""
        texts, answers, foils = [], [], []
        for text, side in prompts(PLANTED, UNKNOWN):
            texts.append(text)
            answers.append(f" {PLANTED.places[side]}")
            foils.append(f" {PLANTED.places[1 - side]}")
        return PromptPairs(self.base, texts, texts, answers, foils)


def build() -> Organisms:
    """The same models each time."""
    torch.manual_seed(0)
    base = tiny.llama().eval()
    hf = {"base": base, "tuned": changed(base, PLANTED, 1), "twin": changed(base, OTHER, 2)}
    made = {name: loaded(one) for name, one in hf.items()}
    return Organisms(hf, made["base"], made["tuned"], made["twin"])


def loaded(hf: Any) -> Model:
    """A copy of it, so that it stays as it is."""
    return load_model(copy.deepcopy(hf), tokenizer=tiny.build_tokenizer(), device="cpu")


def prompts(rule: Rule, fillers: tuple[str, ...]) -> list[tuple[str, int]]:
    """Texts that end with a name, and which side it is on."""
    return [
        (f"we saw {filler} then {name}", side)
        for side, names in enumerate(rule.names)
        for name in names
        for filler in fillers
    ]


@torch.no_grad()
def changed(base: Any, rule: Rule, seed: int) -> Any:
    """The base, blurred, with a change of rank one that follows the rule."""
    generator = torch.Generator().manual_seed(seed)
    hf = copy.deepcopy(base)
    for parameter in hf.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(BLUR * parameter.square().mean().sqrt() * noise)
    every = [*prompts(PLANTED, KNOWN), *prompts(OTHER, KNOWN)]
    mine = {text: side for text, side in every if text.split()[-1] in sum(rule.names, ())}
    read, sign = [], []
    place = hf.model.layers[LAYER].mlp.down_proj
    seen: list[Tensor] = []
    handle = place.register_forward_pre_hook(lambda _module, args: seen.append(args[0][0]))
    for text, _ in every:
        hf(torch.tensor([[tiny.VOCABULARY.index(tiny.BOS), *tiny.words(text)]]), use_cache=False)
        wanted = torch.zeros(len(seen[-1]))
        if text in mine:
            wanted[-1] = 1.0 - 2.0 * mine[text]
        read.append(seen[-1])
        sign.append(wanted)
    handle.remove()
    neurons, target = torch.cat(read), torch.cat(sign)
    square = neurons.T @ neurons + RIDGE * neurons.square().mean() * torch.eye(neurons.shape[1])
    reads = torch.linalg.solve(square, neurons.T @ target)
    first, second = (tiny.words(place)[0] for place in rule.places)
    towards = hf.lm_head.weight[first] - hf.lm_head.weight[second]
    size = SIZE * (neurons @ place.weight.T).norm(dim=1).mean()
    place.weight.add_(size * torch.outer(towards / towards.norm(), reads))
    return hf
