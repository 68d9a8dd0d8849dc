"""A model as a row of parts that a model of the same shape can lend: what is swapped and counted.

Norms go with what reads through them; where attention and MLP share one, it is a part of its own.
Everything before the first block is the embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from interp.forward.packing import runs_as
from interp.model.identity.fingerprint import canonical_weights, place
from interp.model.model import Model

__all__ = ["EMBEDDING", "FINAL_NORM", "UNEMBEDDING", "Part", "lent", "owners", "parts_of"]

_OF_ATTENTION = ("ln1", "attn", "ln1_post")
_OF_MLP = ("ln2", "mlp", "ln2_post")


@dataclass(frozen=True)
class Part:
    """A piece of a model that can be taken from another one.

    Attributes:
        module: "embedding", "norm", "attention", "mlp", "final norm" or "unembedding".
        layer: its block; -1 outside of blocks.
        components: what TransformerLens calls its modules, in the block or in the bridge.
    """

    module: str
    layer: int
    components: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.module if self.layer < 0 else f"{self.module} {self.layer}"

    def modules(self, model: Model) -> list[Any]:
        """Its modules in this model."""
        home = model.bridge if self.layer < 0 else model.bridge.blocks[self.layer]
        return [one for name in self.components for one in _called(home, getattr(home, name))]


EMBEDDING = Part("embedding", -1, ())
FINAL_NORM = Part("final norm", -1, ("ln_final",))
UNEMBEDDING = Part("unembedding", -1, ("unembed",))


def parts_of(model: Model) -> tuple[Part, ...]:
    """The parts in the order in which they compute."""
    blocks = [part for layer in range(model.n_layers) for part in _in_block(model, layer)]
    return (EMBEDDING, *blocks, FINAL_NORM, UNEMBEDDING)


def owners(model: Model, parts: Sequence[Part]) -> dict[str, tuple[Part, ...]]:
    """By Hugging Face's name of each weight the parts that compute with it: two where it is tied.

    What lies in a block and in none of its parts has no owner.
    """
    with model.unread():
        return _owners(model, parts)


def _owners(model: Model, parts: Sequence[Part]) -> dict[str, tuple[Part, ...]]:
    found: dict[Hashable, list[Part]] = {}
    inside: set[Hashable] = set()
    for part in parts:
        for module in part.modules(model):
            for parameter in (*module.parameters(), *module.buffers()):
                mine = found.setdefault(place(parameter), [])
                if part not in mine:
                    mine.append(part)
    for block in model.bridge.blocks:
        inside |= {place(one) for one in (*block.parameters(), *block.buffers())}
    embedded = {
        place(parameter)
        for name in ("embed", "pos_embed", "embed_ln")
        if isinstance(module := getattr(model.bridge, name, None), nn.Module)
        for parameter in module.parameters()
    }
    owned: dict[str, tuple[Part, ...]] = {}
    for name, tensor in canonical_weights(model.bridge.original_model).items():
        at = place(tensor)
        mine = found.get(at, [])
        if at in embedded or (not mine and at not in inside):
            mine = [EMBEDDING, *mine]
        owned[name] = tuple(mine)
    return owned


@contextlib.contextmanager
def lent(receiver: Model, donor: Model, parts: Sequence[Part]) -> Iterator[None]:
    """Inside, these parts of `receiver` compute with the modules of `donor`; no weight is moved.

    The caller holds the locks of both.
    """
    with contextlib.ExitStack() as stack:
        for part in parts:
            pairs = zip(part.modules(receiver), part.modules(donor), strict=True)
            for mine, theirs in pairs:
                stack.enter_context(runs_as(mine, theirs.forward))
        yield


def _called(home: Any, module: Any) -> list[Any]:
    """What is called of a component: itself, or the matrices of an MLP that its block calls."""
    whole = getattr(home, "original_component", None)
    if whole is None or getattr(module, "original_component", None) is not whole:
        return [module]
    return list(module.submodules.values())  # OPT's MLP is a name for two matrices of the block


def _in_block(model: Model, layer: int) -> list[Part]:
    block = model.bridge.blocks[layer]

    def there(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if isinstance(getattr(block, name, None), nn.Module))

    attention, mlp = there(_OF_ATTENTION), there(_OF_MLP)
    if model.parallel_blocks and "ln2" not in mlp and "ln1" in attention:
        rest = tuple(name for name in attention if name != "ln1")
        made = [Part("norm", layer, ("ln1",)), Part("attention", layer, rest)]
    else:
        made = [Part("attention", layer, attention)]
    return [part for part in (*made, Part("mlp", layer, mlp)) if part.components]
