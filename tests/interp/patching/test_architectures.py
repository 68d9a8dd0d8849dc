"""Every site of every architecture, against whole forward passes of Hugging Face's own model.

Each cell is a whole pass over an unpadded sequence, with torch's own hooks (copies of one prompt,
each with one cell changed, share a batch); the instruments run all of them at once, with two pairs
of different length.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from interp import PromptPairs, Site, capture, estimate, load_model, sweep
from interp.errors import SiteError
from interp.forward.passes import readout, record
from tests.interp import surgery
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import build_tokenizer, words

pytestmark = pytest.mark.slow

STREAMS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS = ("q", "k", "v", "z")
# The axes of each sweep, which together single out one number or vector.
AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(STREAMS, ("position",)),
    **dict.fromkeys(HEADS, ("position", "head")),
    "mlp_act": ("position", "neurons"),
    "pattern": ("head", "destination", "source"),
}
# Neurons are replaced in groups of this many, patterns at these destinations.
GROUP, DESTINATIONS = 16, (2, 6)
OPTIONS: dict[str, dict[str, Any]] = {
    "mlp_act": {"neurons": GROUP},
    "pattern": {"positions": DESTINATIONS},
}
CLEAN = ["we saw Ann near Rome and then", "so Fay is"]
CORRUPT = ["we saw Bo near Oslo and then", "so Gus is"]
ANSWERS, FOILS = ["Gus", "Jo"], ["Ida", "Cy"]
RELATIVE = 1e-5  # of the largest logit
STEP = 2e-3  # norms and softmax are taken in float32 even in float64 models
Where = tuple[Any, ...]


class Built:
    """One architecture, twice: as Hugging Face has it, and through `load_model`."""

    def __init__(self, name: str) -> None:
        self.architecture = ARCHITECTURES[name]
        self.hf = self.architecture.build()
        self.model = load_model(self.architecture.build(), tokenizer=build_tokenizer())
        self.layout = self.architecture.layout
        # Sites that cannot be patched, and the reason that is given.
        self.refused: dict[str, str] = {}
        if self.layout.parallel:
            self.refused["resid_mid"] = "in parallel"
        if self.layout.neurons is None:
            self.refused["mlp_act"] = "mixtures of experts"
        if not self.layout.patterns:
            self.refused["pattern"] = "only after they were used"

    @property
    def pairs(self) -> PromptPairs:
        answers, foils = ([f" {word}" for word in which] for which in (ANSWERS, FOILS))
        return PromptPairs(self.model, CLEAN, CORRUPT, answers, foils)

    @functools.cached_property
    def precise(self) -> Any:
        """The Hugging Face model in float64."""
        hf = self.architecture.build()
        hf.set_experts_implementation("eager")  # the others know no float64
        return hf.double()

    @functools.cache  # noqa: B019 (as long-lived as the tests of this module)
    def activation(self, hf: Any, site: str, layer: int, text: str) -> torch.Tensor:
        return surgery.activation(hf, self.layout, site, layer, self.model.token_ids(text))

    def changed(
        self, hf: Any, site: str, layer: int, example: int, *changes: surgery.Change
    ) -> tuple[list[float], float]:
        """By change the logit difference after the corrupted prompt, and the largest logit."""
        with surgery.intervened(hf, self.layout, site, layer, *changes):
            ids = self.model.token_ids(CORRUPT[example])
            logits = surgery.copies(hf, ids, len(changes))[:, -1]
        (answer,), (foil,) = words(ANSWERS[example]), words(FOILS[example])
        return (logits[:, answer] - logits[:, foil]).tolist(), float(logits.abs().max())

    def runs(self, site: str) -> Iterator[tuple[int, int, list[tuple[Where, Where]]]]:
        """Example, layer, and the cells there: index in a sweep, place in the activation."""
        for example, layer in itertools.product(
            range(len(CLEAN)), range(self.architecture.n_layers)
        ):
            shape = self.activation(self.hf, site, layer, CLEAN[example]).shape
            yield example, layer, list(places(site, shape))

    @functools.cache  # noqa: B019 (as long-lived as the tests of this module)
    def whole_passes(self, site: str) -> tuple[dict[Where, float], float]:
        """By cell [example, layer, …] the score of one pass, and the largest logit in any."""
        found: dict[Where, float] = {}
        largest = 0.0
        for example, layer, cells in self.runs(site):
            values = self.activation(self.hf, site, layer, CLEAN[example])

            def put(where: Where, value: torch.Tensor, values: Any = values) -> None:
                value[where] = values[where]

            puts = [functools.partial(put, where) for _, where in cells]
            scores, logit = self.changed(self.hf, site, layer, example, *puts)
            if not found:  # copies do not see each other
                alone, _ = self.changed(self.hf, site, layer, example, puts[-1])
                assert scores[-1:] == pytest.approx(alone, abs=RELATIVE * logit)
            for (index, _), score in zip(cells, scores, strict=True):
                found[(example, layer, *index)] = score
            largest = max(largest, logit)
        return found, largest

    def slopes(self, site: str, example: int, layer: int, cells: Sequence[Where]) -> list[float]:
        """Change of the score per step from the corrupted run's activation to the clean one's."""
        values = self.activation(self.hf, site, layer, CLEAN[example]).double()

        def move(where: Where, step: float, value: torch.Tensor) -> None:
            value[where] += step * (values[where] - value[where])

        moves = [functools.partial(move, where, s) for where in cells for s in (STEP, -STEP)]
        scores, _ = self.changed(self.precise, site, layer, example, *moves)
        return [
            (up - down) / (2 * STEP) for up, down in zip(scores[::2], scores[1::2], strict=True)
        ]


def places(site: str, shape: Sequence[int]) -> Iterator[tuple[Where, Where]]:
    """Indices along the axes of a sweep, and what they stand for in an activation [position, …]."""
    if site == "pattern":  # [head, destination, source]
        for head, (number, destination) in itertools.product(
            range(shape[0]), enumerate(DESTINATIONS)
        ):
            for source in range(destination + 1) if destination < shape[1] else ():
                yield (head, number, source), (head, destination, source)
    elif site == "mlp_act":
        for position, group in itertools.product(range(shape[0]), range(shape[1] // GROUP)):
            yield (position, group), (position, slice(group * GROUP, (group + 1) * GROUP))
    else:
        for where in itertools.product(*(range(n) for n in shape[: len(AXES[site])])):
            yield where, where


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest) -> Built:
    return Built(request.param)


def asked(site: str) -> dict[str, Any]:
    """By which axes, and what else."""
    return {"by": AXES[site], **OPTIONS.get(site, {})}


def compare(built: Built, site: str) -> None:
    """Every cell of the sweep, with the pass that it stands for."""
    expected, scale = built.whole_passes(site)
    found = sweep(built.model, built.pairs, site, **asked(site))
    assert found["patched"].dims == ("example", "layer", *AXES[site])
    values = found["patched"].values
    assert np.isfinite(values).sum() == len(expected)
    ours = np.array([values[cell] for cell in expected])
    np.testing.assert_allclose(ours, list(expected.values()), rtol=0, atol=RELATIVE * scale)
    assert float(np.abs(found["patched"] - found["corrupt"]).max()) > 1e-3 * scale


@pytest.mark.parametrize("site", AXES)
def test_each_cell_is_a_whole_forward_pass(built: Built, site: str) -> None:
    if site not in built.refused:
        compare(built, site)
        return
    for instrument in (sweep, estimate):
        with pytest.raises(SiteError, match=built.refused[site]) as caught:
            instrument(built.model, built.pairs, site)
        assert "\n" not in str(caught.value)


def test_the_stream_between_is_set_on_both_branches_with_gradients_on(built: Built) -> None:
    """TransformerLens hooks it on the MLP's branch, where a new tensor would miss the other."""
    if "resid_mid" in built.refused:
        pytest.skip("parallel blocks have no such stream")
    with torch.enable_grad():
        compare(built, "resid_mid")


@pytest.mark.parametrize("site", AXES)
def test_an_estimate_is_the_slope_along_the_patch(built: Built, site: str) -> None:
    if site in built.refused:
        pytest.skip("refused, see above")
    found = estimate(built.model, built.pairs, site, method="gradient", check=0, **asked(site))
    change = (found["patched"] - found["corrupt"]).values
    scale = float(np.nanmax(np.abs(change)))
    # Each example, and each layer, in one run of both: every run is a model of its own in float64.
    runs = [run for run in built.runs(site) if run[0] == run[1] % len(CLEAN)]
    step = max(1, sum(len(cells) for _, _, cells in runs) // 8)
    first = 0
    for example, layer, cells in runs:
        # As many of all cells, one run after the other.
        chosen = cells[first::step]
        first = (first - len(cells)) % step
        if not chosen:
            continue
        expected = built.slopes(site, example, layer, [where for _, where in chosen])
        ours = [change[(example, layer, *index)] for index, _ in chosen]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-3 * scale + 2e-4)


def test_integrated_gradients_know_the_architecture(built: Built) -> None:
    changes_anything(built, "integrated")


def test_the_default_estimate_knows_the_architecture(built: Built) -> None:
    changes_anything(built, "columns")
    with_all_positions_it_is_what_passes_are(built, "resid_pre")


# What attention is told apart by, and norms and MLPs: the rest is alike to these methods.
@pytest.mark.parametrize("built", ["Mixtral", "Gemma 2", "Phi", "BLOOM"], indirect=True)
def test_estimates_by_other_methods_know_the_architecture(built: Built) -> None:
    with_all_positions_it_is_what_passes_are(built, "k")
    changes_anything(built, "atp*")
    if "mlp_act" in built.refused:
        with pytest.raises(SiteError, match="does not show the neurons"):
            estimate(built.model, built.pairs, "attn_out", method="relp")
    else:
        changes_anything(built, "relp")


def with_all_positions_it_is_what_passes_are(built: Built, site: str) -> None:
    """An estimate by columns that leaves none out."""
    expected, scale = built.whole_passes(site)
    found = estimate(
        built.model, built.pairs, site, method="columns", columns=99, check=0, **asked(site)
    )
    ours = np.array([found["patched"].values[cell] for cell in expected])
    np.testing.assert_allclose(ours, list(expected.values()), rtol=0, atol=1e-4 * scale)


def changes_anything(built: Built, method: Any) -> None:
    """From the corrupted run's own score."""
    found = estimate(built.model, built.pairs, "attn_out", method=method, check=0)
    for example, text in enumerate(CORRUPT):
        (answer,), (foil,) = words(ANSWERS[example]), words(FOILS[example])
        last = surgery.logits(built.hf, built.model.token_ids(text))[-1]
        expected = float(last[answer] - last[foil])
        assert found["corrupt"].values[example] == pytest.approx(expected, abs=1e-3)
    change = (found["patched"] - found["corrupt"]).values
    there = ~np.isnan(change)
    assert there.sum(-1).tolist() == [
        [len(built.model.token_ids(text))] * built.architecture.n_layers for text in CORRUPT
    ]
    assert float(np.abs(change[there]).max()) > 1e-3


@pytest.mark.parametrize("site", AXES)
def test_activations_are_hugging_faces(built: Built, site: str) -> None:
    """Queries and keys before their norms, streams and what is added to them after all norms."""
    if site in built.refused and site != "pattern":
        with pytest.raises(SiteError, match=built.refused[site]):
            capture(built.model, CLEAN, site)
        return
    found = capture(built.model, CLEAN, site)
    for example, text in enumerate(CLEAN):
        for layer in range(built.architecture.n_layers):
            expected = built.activation(built.hf, site, layer, text).numpy()
            ours = found[f"{site}.{layer}"][example]
            ours = ours[tuple(slice(n) for n in expected.shape)]
            scale = float(np.abs(expected).max())
            np.testing.assert_allclose(ours, expected, rtol=0, atol=RELATIVE * scale)


def test_readout_is_hugging_faces_logits(built: Built) -> None:
    model, ids = built.model, built.model.token_ids(CLEAN[0])
    last = Site("resid_post", model.n_layers - 1)
    capture(model, CLEAN, "resid_pre.0")  # by now the model was checked, and stops early
    found = readout(model, record(model, torch.tensor([ids]), [last])[last])[0]
    expected = surgery.logits(built.hf, ids)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=RELATIVE * scale)


def test_a_prompt_may_be_longer_than_the_stream_is_wide() -> None:
    """OPT's MLP sees all positions in a row, which must not be taken for the stream's width."""
    small = ARCHITECTURES["OPT"]
    settings = {**small.settings, "max_position_embeddings": 48}
    hf = dataclasses.replace(small, settings=settings).build()
    model = load_model(hf, tokenizer=build_tokenizer())
    ids = torch.randint(3, 20, (2, 1, 40), generator=torch.Generator().manual_seed(0))
    pairs = PromptPairs(model, *ids, torch.tensor([5]), torch.tensor([6]))
    last = sweep(model, pairs, "resid_post", layers=[model.n_layers - 1], positions=[39])
    np.testing.assert_allclose(last["patched"].squeeze(), last["clean"].squeeze(), atol=1e-4)
