"""Models whose circuits are known because their weights are written by hand.

Each does its task by few heads and neurons, among idle heads and MLPs with small random weights and
a loud head that writes where nobody reads. An edge belongs to the truth if the algorithm uses it
and the two prompts of a pair differ in what it carries: the previous-token head of the first model
finds its token by position, say, which is the same in both, so its query and key are no part of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interp.components.graph import Graph
from interp.loading.load import load_model
from interp.model.model import Model
from interp.prompts.pairs import PromptPairs
from tests.interp.circuits.canvas import N_CTX, ONE, Canvas
from tests.interp.circuits.idle import add_idle_parts
from tests.interp.tiny import BOS, N_SPECIAL, NAMES, PLACES, VOCABULARY, WORDS, build_tokenizer

V = len(VOCABULARY)
LOGIT = 10.0
"""Logit of what a circuit writes in full."""

Edge = tuple[str, str]
Drawn = tuple[list[int], list[int], int, int]
"""Clean prompt, corrupted prompt, answer and foil, as token ids."""


@dataclass(frozen=True)
class Planted:
    """A model with a known circuit.

    Attributes:
        name: what it does.
        hf: the model.
        edges: the true edges.
        draw: draws one pair of prompts.
    """

    name: str
    hf: Any
    edges: frozenset[Edge]
    draw: Callable[[random.Random], Drawn]

    def load(self) -> Model:
        return load_model(self.hf, tokenizer=build_tokenizer())

    def pairs(self, model: Model, n: int = 16, seed: int = 0) -> PromptPairs:
        rng = random.Random(seed)
        clean, corrupt, answers, foils = zip(*(self.draw(rng) for _ in range(n)), strict=True)
        return PromptPairs(
            model,
            torch.tensor(clean),
            torch.tensor(corrupt),
            answers=torch.tensor(answers),
            foils=torch.tensor(foils),
        )

    def truth(self, graph: Graph) -> np.ndarray[Any, Any]:
        """[source, destination]"""
        out = np.zeros(graph.real.shape, dtype=bool)
        for source, destination in self.edges:
            out[graph.sources.index(source), graph.destinations.index(destination)] = True
        assert not (out & ~graph.real).any()
        return out


def token(word: str) -> int:
    return VOCABULARY.index(word)


def one_hot(canvas: Canvas, space: str, n: int) -> torch.Tensor:
    """[n, d_model]: each a coordinate of its own."""
    out = torch.zeros(n, canvas.d_model)
    out[:, canvas.spaces[space]] = torch.eye(n)
    return out


def draw_repetition(rng: random.Random) -> Drawn:
    """… A B … A → B against … C D … C → D, all tokens random."""
    first, second, other, foil, *rest = rng.sample(range(N_SPECIAL, V), 11)
    place = rng.randrange(len(rest))
    clean = [token(BOS), *rest[:place], first, second, *rest[place:], first]
    corrupt = [token(BOS), *rest[:place], other, foil, *rest[place:], other]
    return clean, corrupt, second, foil


def induction() -> Planted:
    """… A B … A → B, by the two heads of Olsson et al. 2022, in a GPT-2.

    a0.h1 attends to the token before and writes which it is; a1.h2 looks for a token that has the
    present one before it, and copies it. The corrupted prompt has another A and another B.
    """
    canvas = Canvas.blank(
        "gpt2", {"position": N_CTX, "token": V, "before": V, "out": V, "unread": V}, n_layers=2
    )
    canvas.embed(one_hot(canvas, "token", V), one_hot(canvas, "position", N_CTX))
    at, reads = canvas.at, canvas.reads
    tokens = {at("token", i): i for i in range(V)}
    canvas.head(
        0,
        1,
        query=reads({at("position", p): (p - 1, 15.0) for p in range(1, N_CTX)}),
        key=reads({at("position", p): p for p in range(N_CTX)}),
        value=reads(tokens),
        out=reads({at("before", i): i for i in range(V)}).T,
    )
    canvas.head(
        1,
        2,
        query=reads({c: (i, 6.0) for c, i in tokens.items()}),
        key=reads({at("before", i): i for i in range(V)}),
        value=reads(tokens),
        out=reads({at("out", i): i for i in range(V)}).T,
    )
    add_idle_parts(canvas, {"a0.h1", "a1.h2"}, seed=0)
    canvas.unembed("out", LOGIT)

    edges = {
        ("input", "a0.h1.v"),
        ("a0.h1", "a1.h2.k"),
        ("input", "a1.h2.q"),
        ("input", "a1.h2.v"),
        ("a1.h2", "logits"),
    }
    return Planted("induction", canvas.hf, frozenset(edges), draw_repetition)


def name_mover() -> Planted:
    """… X … Y … Y … is → X, as in Wang et al. 2023, in a GPT-2.

    a0.h0 flags a name that stood before; a1.h1 tells the end of the prompt which name that is;
    a2.h2 attends from the end to all other names and copies them. In the corrupted prompt three
    other names stand, each once.
    """
    n = len(NAMES)
    canvas = Canvas.blank(
        "gpt2",
        {"position": N_CTX, "token": V, "again": 1, "inhibited": n, "out": V, "unread": V},
        n_layers=3,
    )
    canvas.embed(one_hot(canvas, "token", V), one_hot(canvas, "position", N_CTX))
    at, reads = canvas.at, canvas.reads
    names = {at("token", token(name)): i for i, name in enumerate(NAMES)}
    end, bos = at("token", token("is")), at("token", token(BOS))
    # A name attends to its like at other positions; what finds none rests on BOS.
    positions = {at("position", p): n + p for p in range(N_CTX)}
    rest = n + N_CTX
    canvas.head(
        0,
        0,
        query=reads(
            {
                **{c: (i, 8.0) for c, i in names.items()},
                **{c: (i, -8.0) for c, i in positions.items()},
                ONE: (rest, 4.0),
            }
        ),
        key=reads({**names, **positions, bos: rest}),
        value=reads(dict.fromkeys(names, 0)),
        out=reads({at("again"): 0}).T,
    )
    canvas.head(
        1,
        1,
        query=reads({end: (0, 6.0)}),
        key=reads({at("again"): 0}),
        value=reads(names),
        out=reads({at("inhibited", i): i for i in range(n)}).T,
    )
    inhibited = {at("inhibited", i): (i, -8.0) for i in range(n)}
    is_name = reads(names)
    is_name[list(names), n] = 1.0
    canvas.head(
        2,
        2,
        query=reads({**inhibited, end: (n, 6.0)}),
        key=is_name,
        value=reads(names),
        out=reads({at("out", token(name)): i for i, name in enumerate(NAMES)}).T,
    )
    add_idle_parts(canvas, {"a0.h0", "a1.h1", "a2.h2"}, seed=1)
    canvas.unembed("out", LOGIT)

    def draw(rng: random.Random) -> Drawn:
        name, again, *others = rng.sample([token(name) for name in NAMES], 5)
        fill = [token(rng.choice([w for w in WORDS if w != "is"])) for _ in range(4)]
        order = rng.sample([name, again], 2)

        def prompt(first: int, second: int, third: int) -> list[int]:
            return [
                token(BOS),
                fill[0],
                first,
                fill[1],
                second,
                fill[2],
                third,
                fill[3],
                token("is"),
            ]

        return prompt(*order, again), prompt(*others), name, again

    edges = {
        ("input", "a0.h0.q"),
        ("input", "a0.h0.k"),
        ("a0.h0", "a1.h1.k"),
        ("input", "a1.h1.v"),
        ("a1.h1", "a2.h2.q"),
        ("input", "a2.h2.k"),
        ("input", "a2.h2.v"),
        ("a2.h2", "logits"),
    }
    return Planted("name mover", canvas.hf, frozenset(edges), draw)


def two_hop() -> Planted:
    """An entity's attribute, and the attribute's word, in a Llama with grouped queries.

    m0 looks up what is known of an entity; a1.h2 brings it from the entity of the class that the
    last token asks for; m2 looks up the word for it. The corrupted prompt asks for the other class,
    and has other entities, the classes in the other order.
    """
    entities, answers = NAMES[:10], (*PLACES, *WORDS[:4])
    asks = ("who", "of")  # for the first half of the entities, and for the second
    n, half = len(entities), len(entities) // 2
    canvas = Canvas.blank(
        "llama",
        {"token": V, "attribute": n, "moved": n, "out": V, "unread": 16},
        n_layers=3,
        n_key_value_heads=2,
        d_head=28,
    )
    canvas.embed(one_hot(canvas, "token", V))
    at, reads, matrix = canvas.at, canvas.reads, canvas.matrix
    tokens = [at("token", token(name)) for name in entities]
    attributes = [(3 * i + 1) % n for i in range(n)]
    canvas.mlp(
        0,
        matrix(n, {c: i for i, c in enumerate(tokens)}),
        matrix(n, {at("attribute", a): i for i, a in enumerate(attributes)}).T,
    )
    # Coordinates of a head that rotation by position leaves alone.
    still = 4
    canvas.head(
        1,
        2,
        query=reads({at("token", token(w)): (still + i, 6.0) for i, w in enumerate(asks)}),
        key=reads({c: still + i // half for i, c in enumerate(tokens)}),
        value=reads({at("attribute", a): a for a in range(n)}),
        out=reads({at("moved", a): a for a in range(n)}).T,
    )
    words = [token(answers[(7 * a + 2) % n]) for a in range(n)]
    threshold = matrix(n, {at("moved", a): a for a in range(n)})
    threshold[ONE] = -0.1
    canvas.mlp(2, threshold, matrix(n, {at("out", w): a for a, w in enumerate(words)}).T)
    add_idle_parts(canvas, {"m0", "a1.h2", "m2"}, seed=2)
    canvas.unembed("out", LOGIT)

    def draw(rng: random.Random) -> Drawn:
        first, third = rng.sample(range(half), 2)
        second, fourth = rng.sample(range(half, n), 2)
        fill = [token(rng.choice(("and", "then", "so", "near", "the"))) for _ in range(4)]
        clean, corrupt = [first, second], [fourth, third]
        asked = rng.randrange(2)

        def prompt(pair: list[int], ask: int) -> list[int]:
            a, b = (token(entities[i]) for i in pair)
            return [token(BOS), *fill[:2], a, fill[2], b, fill[3], token(asks[ask])]

        # Both prompts ask for the entity at the same place.
        return (
            prompt(clean, asked),
            prompt(corrupt, 1 - asked),
            words[attributes[clean[asked]]],
            words[attributes[corrupt[asked]]],
        )

    edges = {
        ("input", "m0"),
        ("m0", "a1.h1.v"),
        ("input", "a1.h1.k"),
        ("input", "a1.h2.q"),
        ("a1.h2", "m2"),
        ("m2", "logits"),
    }
    return Planted("two-hop look-up", canvas.hf, frozenset(edges), draw)


BUILDERS: dict[str, Callable[[], Planted]] = {
    "induction": induction,
    "name mover": name_mover,
    "two-hop look-up": two_hop,
}
