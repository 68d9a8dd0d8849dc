"""Training on a store is a for-loop, and reaches the answer that is known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache import ActivationStore
from cache.keys.space import Ids, SiteShape
from tests.cache.fake import FakeSource

pytestmark = pytest.mark.slow

WIDTH, FEATURES = 16, 24
SITE = "resid_post.0"
VERBS = 500


class Planted(FakeSource):
    """Activations that are sparse sums of known directions, and tell verbs from other tokens.

    The first direction is added where the token id is below `VERBS`, three others of 24 as the
    ids decide, and 100 times a further one to the first token, as the norm of BOS is huge.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(FEATURES + 1, WIDTH, generator=generator)
        self.directions = directions / directions.norm(dim=1, keepdim=True)

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for ids in rows:
            out = torch.zeros(len(ids), WIDTH)
            for position, token in enumerate(ids.tolist()):
                chosen = np.random.default_rng(token).integers(1, FEATURES, 3)
                strengths = np.random.default_rng(token + 10_000).uniform(1, 2, 3)
                for feature, strength in zip(chosen, strengths, strict=True):
                    out[position] += strength * self.directions[feature]
                out[position] += 2 * self.directions[0] * (token < VERBS)
            out[0] += 100 * self.directions[FEATURES]
            yield 1, {SITE: out}

    def sites(self, sites: Any) -> Sequence[SiteShape]:
        return [SiteShape(SITE, (WIDTH,))]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 1000, 40).tolist() for _ in range(200)]
    store = ActivationStore(tmp_path_factory.mktemp("train") / "store", shard_size=40_000)
    store.get(Planted(), rows, SITE)
    return store


def test_a_probe_learns_what_was_planted(store: ActivationStore) -> None:
    def train(row: Any) -> bool:
        return bool(row.key[0] < 200)

    after_bos = slice(1, None)
    data = store.stream(
        "fake", SITE, batch_size=256, where=train, positions=after_bos, info=True, pool="100kB"
    )
    probe = torch.nn.Linear(WIDTH, 1)
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.05)
    while data.epoch < 8:
        for x, info in data:
            labels = (info.token < VERBS).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(probe(x)[:, 0], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    held_out = store.dataset(
        "fake", SITE, where=lambda row: not train(row), positions=after_bos, info=True
    )
    x, info = held_out[:]
    right = (probe(x)[:, 0] > 0) == (info.token < VERBS)
    assert right.float().mean() > 0.97
    assert len(held_out) + data.n_tokens == 200 * 39


def test_a_sparse_autoencoder_finds_the_directions(store: ActivationStore) -> None:
    """Half of the planted directions at least are columns of the decoder (cosine > .9)."""
    torch.manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(2 * FEATURES, WIDTH), dim=1)
    encoder, bias = decoder.clone(), torch.zeros(2 * FEATURES)
    parameters = [decoder, encoder, bias]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    data = store.stream("fake", SITE, batch_size=512, positions=slice(1, None), seed=1)
    losses = []
    while data.epoch < 120:
        for x in data:
            features = torch.relu(x @ encoder.T + bias)
            error = (features @ decoder - x).square().sum(dim=1).mean()
            loss = error + 0.15 * (features * decoder.norm(dim=1)).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(error.item() / x.square().sum(dim=1).mean().item())
    assert losses[-1] < 0.05
    found = torch.nn.functional.normalize(decoder.detach(), dim=1)
    best = (Planted().directions[:FEATURES] @ found.T).max(dim=1).values
    assert (best > 0.9).float().mean() > 0.5


def test_the_page_on_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "cache.md").read_text(encoding="utf-8")
    section = page.split("## Training on a store")[1].split("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "cache.md", "exec"), names)
    assert names["stream"].epoch == 20
    assert json.loads(names["cursor"])["epoch"] == 20
    assert names["labels"].shape == (len(names["x"]),)
    assert names["train"].epoch == 2
    assert names["train"].n_tokens + len(names["held_out"]) == 8 * 6 + 2 * 7
