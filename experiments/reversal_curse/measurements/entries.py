"""Facts told both ways: do their two directions use the same edges, and the same neurons?

Edges are scored by EAP-IG (Hanna et al. 2024) for each fact in two wordings of each direction, with
other partners in each. Neurons are scored by integrated gradients in the first wording, and those
that score most are corrupted in the second one: the fact's own, and those of another fact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from experiments.organisms.facts import DIRECTIONS, Direction
from experiments.reporter import Progress
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.prompts import make_pairs, question
from interp import Site, estimate
from interp.circuits import attribute_edges
from interp.components.graph import Graph
from interp.errors import ObverseError
from interp.forward.access import changing
from interp.forward.passes import observe, readout
from interp.model.memory import batches
from interp.model.model import Model
from interp.prompts.pairs import PromptPairs

EDGES = 0.1
"""The share of all edges that counts as a fact's circuit."""
NEURONS = 0.05
"""The share of all neurons that counts as a fact's entry."""
LEAST_FACTS = 20
MOST_FACTS = 60
UNRELATED = 3
"""Other facts whose neurons are corrupted for comparison."""
COMPARED = ("forward", "reverse", "both")

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def entries(
    subject: Subject, members: npt.NDArray[np.int64], seed: int, progress: Progress
) -> xr.Dataset:
    """Overlap of edges, and what corrupting neurons takes away.

    Args:
        members: facts that the model answers both ways; at most 60 of them, at random, are used.
        seed: of this choice, and of partners.

    Returns:
        own, unrelated (example, compared): the share of edges (Jaccard index) that a fact's circuit
        has in common with its own in the other wording, of the same direction ("forward",
        "reverse") or of the other one ("both"), and with those of other facts asked in the same
        words (mean). own_score, unrelated_score: likewise, the correlation of all edges' scores
        without their mean over facts.
        effect(example, asked): how far clean and corrupted prompts lie apart, in logits, in the
        wording that neurons are corrupted in. lost(example, asked, neurons, whose): how many logits
        the answer loses without the fact's "own" neurons of a direction, or those of "another"
        fact. Without examples, and with the reason in the attribute `refused`, where it cannot be
        done.
    """
    rng = np.random.default_rng(seed)
    rows = _chosen(subject, members, rng)
    if len(rows) < LEAST_FACTS:
        return _labelled(subject, [], {}, f"{len(rows)} facts, and {LEAST_FACTS} are needed")
    try:
        pairs = {
            (direction, wording): make_pairs(
                subject.model,
                subject.facts,
                rows,
                direction,
                _wordings(subject, direction)[wording],
                int(rng.integers(2**31)),
            )
            for direction in DIRECTIONS
            for wording in (0, 1)
        }
        words = [(subject.facts[i].relation, subject.facts[i].inverse) for i in rows]
        found = overlaps(subject.model, pairs, words, progress)
        found |= _losses(subject.model, pairs, words, rng)
    except ObverseError as error:
        return _labelled(subject, [], {}, str(error))
    return _labelled(subject, rows, found, "")


def _chosen(
    subject: Subject, members: npt.NDArray[np.int64], rng: np.random.Generator
) -> list[int]:
    """Facts that all ask something else both ways, and are asked in words that others are."""
    seen: set[object] = set()
    rows = []
    for i in rng.permutation(members).tolist():
        asks = {question(subject.facts[i], way) for way in DIRECTIONS}
        if not asks & seen:
            rows.append(i)
        seen |= asks
    rows = sorted(rows[:MOST_FACTS])
    words = [(subject.facts[i].relation, subject.facts[i].inverse) for i in rows]
    return [row for row, asked in zip(rows, words, strict=True) if words.count(asked) > UNRELATED]


def _wordings(subject: Subject, direction: Direction) -> tuple[str, str]:
    """Two wordings, where there are; the only one twice, which then differs by partners alone."""
    templates = subject.templates[direction]
    both = (*templates.trained, *templates.held_out)
    return both[0], both[min(1, len(both) - 1)]


def overlaps(
    model: Model,
    pairs: dict[tuple[Direction, int], PromptPairs],
    words: Sequence[tuple[str, str]],
    progress: Progress,
) -> dict[str, Floats]:
    """Edges in common of circuits [row, compared], as `entries` returns them.

    Args:
        pairs: of the same facts, by direction and wording.
        words: what each fact is asked in.
    """
    real = Graph.of(model).real
    scores = {}
    for number, (key, one) in enumerate(pairs.items()):
        scores[key] = attribute_edges(model, one)["by_example"].values[:, real].astype(np.float64)
        progress(number + 1, len(pairs) + 1)
    size = max(1, round(EDGES * int(real.sum())))
    circuits = {key: _largest(np.abs(one), size) for key, one in scores.items()}
    # Always another wording and another partner, in one direction as between the two.
    compared: dict[str, list[tuple[tuple[Direction, int], tuple[Direction, int]]]] = {
        "forward": [(("forward", 0), ("forward", 1))],
        "reverse": [(("reverse", 0), ("reverse", 1))],
        "both": [(("forward", 0), ("reverse", 1)), (("forward", 1), ("reverse", 0))],
    }
    out: dict[str, list[Floats]] = {
        name: [] for name in ("own", "unrelated", "own_score", "unrelated_score")
    }
    for name in COMPARED:
        for suffix, alike in (
            ("", [_jaccard(circuits[a], circuits[b]) for a, b in compared[name]]),
            ("_score", [_correlation(scores[a], scores[b]) for a, b in compared[name]]),
        ):
            own, unrelated = _against_others(np.mean(alike, axis=0), words)
            out[f"own{suffix}"].append(own)
            out[f"unrelated{suffix}"].append(unrelated)
    return {name: np.stack(columns, axis=1) for name, columns in out.items()}


def _largest(values: Floats, size: int) -> Mask:
    """Which entries of each row are among its `size` largest."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :size]
    mask = np.zeros(values.shape, dtype=np.bool_)
    np.put_along_axis(mask, order, values=True, axis=1)
    return mask


def _jaccard(first: Mask, second: Mask) -> Floats:
    both = first.astype(np.float64) @ second.T.astype(np.float64)
    either = first.sum(1)[:, None] + second.sum(1)[None, :] - both
    return np.asarray(both / np.maximum(either, 1))


def _correlation(first: Floats, second: Floats) -> Floats:
    """Of what is left of each row without the mean over rows."""

    def unit(values: Floats) -> Floats:
        rest = values - values.mean(0)
        length = np.linalg.norm(rest, axis=1, keepdims=True)
        return np.asarray(rest / np.where(length > 0, length, 1.0))

    return np.asarray(unit(first) @ unit(second).T)


def _against_others(alike: Floats, words: Sequence[tuple[str, str]]) -> tuple[Floats, Floats]:
    """Of each fact with itself, and the mean with others asked in the same words [row]."""
    same = np.array([[a == b for b in words] for a in words]) & ~np.eye(len(words), dtype=bool)
    # Both ways round: this fact's first circuit with others' second, and others' with its.
    others = np.where(same, (alike + alike.T) / 2, 0.0).sum(1) / same.sum(1)
    return np.diagonal(alike).copy(), others


def _losses(
    model: Model,
    pairs: dict[tuple[Direction, int], PromptPairs],
    words: Sequence[tuple[str, str]],
    rng: np.random.Generator,
) -> dict[str, Floats]:
    chosen: dict[Direction, Mask] = {}
    for direction in DIRECTIONS:
        found = estimate(
            model,
            pairs[direction, 0],
            "mlp_act",
            by="neurons",
            neurons=1,
            direction="noising",
            method="integrated",
            check=0,
        )
        lost = (found["clean"] - found["patched"]).transpose("example", "layer", "neurons").values
        flat = lost.reshape(len(lost), -1)
        chosen[direction] = _largest(flat, max(1, round(NEURONS * flat.shape[1]))).reshape(
            lost.shape
        )
    n = len(words)
    others = [_another(words, rng) for _ in range(UNRELATED)]
    lost = np.zeros((n, 2, 2, 2))
    effect = np.zeros((n, 2))
    for a, asked in enumerate(DIRECTIONS):
        run = Corruption(model, pairs[asked, 1])
        effect[:, a] = run.clean - run.corrupt
        for b, of in enumerate(DIRECTIONS):
            lost[:, a, b, 0] = run.lost(chosen[of])
            lost[:, a, b, 1] = np.mean([run.lost(chosen[of][other]) for other in others], axis=0)
    return {"effect": effect, "lost": lost}


def _another(words: Sequence[tuple[str, str]], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """For each fact another one that is asked in the same words [row]."""
    return np.array(
        [
            rng.choice([j for j, asked in enumerate(words) if asked == words[i] and j != i])
            for i in range(len(words))
        ]
    )


class Corruption:
    """Clean prompts in which some neurons of each work as in the corrupted one.

    Attributes:
        clean, corrupt: logits of the answer above the foil, of first tokens [example].
    """

    def __init__(self, model: Model, pairs: PromptPairs) -> None:
        self.model, self.pairs = model, pairs
        self.sites = [Site("mlp_act", layer) for layer in range(model.n_layers)]
        self.last = Site("resid_post", model.n_layers - 1)
        pairs.check_first_tokens()
        none = np.zeros((len(pairs), model.n_layers, 1), dtype=np.bool_)
        self.clean = self._run(none)
        self.corrupt = self._read("corrupt", observe(model, pairs.corrupt.ids, [self.last]))

    def lost(self, neurons: Mask) -> Floats:
        """What the answer loses, in logits, without these [example, layer, neuron]."""
        return self.clean - self._run(neurons)

    def _run(self, neurons: Mask) -> Floats:
        out = np.empty(len(self.pairs))

        def work(start: int, stop: int) -> None:
            part = self.pairs.subset(range(start, stop))
            if not neurons[start:stop].any():
                found = observe(self.model, part.clean.ids, [self.last])
                out[start:stop] = self._read("clean", found, part)
                return
            other = observe(self.model, part.corrupt.ids, self.sites)
            moved = _aligned(part).to(self.model.device)
            rows = torch.arange(len(part), device=self.model.device)[:, None]

            def put(layer: int, value: torch.Tensor) -> torch.Tensor:
                # A token without a partner keeps what it has.
                corrupted = other[self.sites[layer]][rows, moved.clamp(min=0)]
                mask = torch.from_numpy(neurons[start:stop, layer]).to(value.device)[:, None, :]
                return torch.where(mask & (moved >= 0)[..., None], corrupted, value)

            changes = [
                (site, lambda value, layer=layer: put(layer, value))
                for layer, site in enumerate(self.sites)
            ]
            with changing(self.model, changes):
                found = observe(self.model, part.clean.ids, [self.last])
            out[start:stop] = self._read("clean", found, part)

        for _ in batches(len(out), len(out), work):
            pass
        return out

    def _read(
        self, run: str, found: dict[Site, torch.Tensor], pairs: PromptPairs | None = None
    ) -> Floats:
        pairs = self.pairs if pairs is None else pairs
        prompts = pairs.clean if run == "clean" else pairs.corrupt
        rows = torch.arange(len(pairs))
        logits = readout(self.model, found[self.last][rows, prompts.lengths - 1]).cpu().double()
        answer, foil = (logits[rows, pairs.first_tokens(which)] for which in ("answer", "foil"))
        return np.asarray((answer - foil).numpy())


def _aligned(pairs: PromptPairs) -> torch.Tensor:
    """The corrupted prompt's token for each of the clean one's, −1 where there is none."""
    axis = pairs.alignment
    clean, corrupt = (torch.as_tensor(side) for side in (axis.clean, axis.corrupt))
    moved = torch.full(pairs.clean.ids.shape, -1, dtype=torch.long)
    for row in range(len(pairs)):
        there = (clean[row] >= 0) & (corrupt[row] >= 0)
        moved[row, clean[row][there]] = corrupt[row][there]
    return moved


def _labelled(
    subject: Subject, rows: list[int], found: dict[str, Floats], reason: str
) -> xr.Dataset:
    axes = {
        **dict.fromkeys(("own", "unrelated", "own_score", "unrelated_score"), ("compared",)),
        "effect": ("asked",),
        "lost": ("asked", "neurons", "whose"),
    }
    sizes = {"compared": 3, "asked": 2, "neurons": 2, "whose": 2}
    return xr.Dataset(
        {
            name: (
                ("example", *dims),
                found.get(name, np.zeros((0, *(sizes[dim] for dim in dims)))),
            )
            for name, dims in axes.items()
        },
        coords={
            "fact": ("example", np.array(rows, np.int64)),
            "compared": list(COMPARED),
            "asked": list(DIRECTIONS),
            "neurons": list(DIRECTIONS),
            "whose": ["own", "another"],
        },
        attrs={
            "instrument": "entries of facts",
            "edges": EDGES,
            "corrupted_neurons": NEURONS,
            "unit": "logits",
            "refused": reason.rstrip("."),
            **subject.model.identity,
        },
    )
