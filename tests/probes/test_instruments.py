"""Transfer, retrieval and steering, where the right answer is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from interp.errors import ProbeError
from interp.model.model import Model
from interp.steering.directions import random_directions
from probes import Features, probe_report, retrieve, steering_check, transfer_sites
from probes.controls.significance import against_shuffled
from probes.figures import probe_lines, retrieval_lines, steering_lines, transfer_map
from probes.probes import Probes
from probes.transfer import transfer_conditions
from tests.probes.material import data

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def test_a_direction_that_two_sites_share_carries_over_and_another_does_not() -> None:
    y = RNG.integers(0, 2, 400)
    x = RNG.standard_normal((3, 400, 8))
    x[0, :, 0] += 3 * y
    x[1, :, 0] += 3 * y
    x[2, :, 5] += 3 * y
    found = transfer_sites(x, y)["accuracy"].values
    assert (found[:2, :2] > 0.9).all()
    assert found[2, 2] > 0.9
    assert (np.abs(found[:2, 2] - 0.5) < 0.15).all()


def test_transfer_between_sites_is_that_of_a_loop() -> None:
    x, y = data("plain", 3)
    groups = np.repeat(np.arange(60), 5)
    found = transfer_sites(x, y, groups=groups, folds=4)
    fold_of = probe_report(x, y, groups=groups, folds=4)["fold"].values
    # Folds are drawn from the same seed by another generator, so they are drawn again here.
    from probes.controls.splits import folds
    from probes.labels import encode

    fold_of = folds(encode(y, 300), groups, 4, np.random.default_rng(0))
    for train in range(2):
        l2 = 10 * x[train].var(0).mean()
        right = np.zeros((2, 300))
        for fold in range(4):
            out = fold_of == fold
            fitted = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=5000)
            fitted.fit(x[train][~out], y[~out])
            for test in range(2):
                right[test, out] = fitted.predict(x[test][out]) == y[out]
        np.testing.assert_allclose(found["accuracy"][train], right.mean(1), atol=1 / 300)


def test_conditions_with_opposite_directions_do_not_transfer() -> None:
    y = np.tile(RNG.integers(0, 2, 200), 3)
    groups = np.tile(np.arange(200), 3)
    condition = np.repeat(["a", "b", "c"], 200)
    x = RNG.standard_normal((1, 600, 6))
    x[0, :, 0] += 2 * (2 * y - 1) * np.where(condition == "c", -1, 1)
    found = transfer_conditions(x, y, condition, groups=groups)["accuracy"]
    assert found.sel(train="a", test="b").item() > 0.9
    assert found.sel(train="c", test="c").item() > 0.9
    assert found.sel(train="a", test="c").item() < 0.3


def test_retrieval_finds_what_is_linearly_there_and_nothing_else() -> None:
    vectors = {f"item {i}": torch.from_numpy(RNG.standard_normal(6)) for i in range(60)}
    items = [f"item {i // 2}" for i in range(120)]
    wanted = np.stack([vectors[name].numpy() for name in items])
    there = wanted @ RNG.standard_normal((6, 10)) + 0.3 * RNG.standard_normal((120, 10))
    features = Features(
        torch.from_numpy(np.stack([there, RNG.standard_normal((120, 10))])), ("there", "noise")
    )
    found = retrieve(features, items, vectors)
    assert found["preferred"][0] > 0.9
    assert found["p_corrected"][0] < 0.05
    assert found["preferred_low"][1] < 0.5 < found["preferred_high"][1]
    assert found["p_corrected"][1] > 0.05
    assert abs(float(found["null"].mean()) - 0.5) < 0.05
    fig = retrieval_lines({"a <b>": found, "again": found})
    first, again = (trace for trace in fig.data if trace.mode == "lines+markers")
    np.testing.assert_allclose(first.y, found["preferred"])
    assert (first.name, again.name) == ("a &lt;b&gt;", "again")
    assert list(first.marker.symbol) == ["circle", "circle-open"]
    band = next(trace for trace in fig.data if trace.fill == "toself")
    np.testing.assert_allclose(band.y[:2], found["preferred_high"])
    (chance,) = fig.layout.shapes
    assert chance.y0 == 0.5
    with pytest.raises(ProbeError, match="2 kinds"):
        retrieval_lines({"two": found, "one": found.isel(site=[0])})


def test_intervals_of_retrieval_cover_chance_at_sites_of_noise() -> None:
    """Items of a fold are judged by one map and vary together, more than groups alone tell."""
    rng = np.random.default_rng(5)
    vectors = {f"item {i}": torch.from_numpy(rng.standard_normal(24)) for i in range(40)}
    features = torch.from_numpy(rng.standard_normal((100, 40, 24)))
    sites = tuple(f"noise {number}" for number in range(100))
    found = retrieve(Features(features, sites), list(vectors), vectors)
    covers = (found["preferred_low"] <= 0.5) & (found["preferred_high"] >= 0.5)
    assert 0.92 <= float(covers.mean()) <= 0.99


def test_retrieval_is_that_of_a_loop() -> None:
    vectors = {f"item {i:02d}": torch.from_numpy(RNG.standard_normal(3)) for i in range(20)}
    items = sorted(vectors)
    target = np.stack([vectors[name].numpy() for name in items])
    x = target @ RNG.standard_normal((3, 5)) + RNG.standard_normal((20, 5))
    found = retrieve(x, items, vectors, strengths=[10.0], folds=4)
    from probes.controls.splits import folds
    from probes.labels import Labels

    fold_of = folds(
        Labels(np.zeros(20, np.int64), ("all",)), np.arange(20), 4, np.random.default_rng(0)
    )
    for fold in range(4):
        out = np.flatnonzero(fold_of == fold)
        train = fold_of != fold
        fitted = Ridge(alpha=10 * x[train].var(0).mean()).fit(x[train], target[train])
        centre = target[train].mean(0)
        said, known = fitted.predict(x[out]) - centre, target[out] - centre
        cosine = said @ known.T
        cosine /= np.linalg.norm(said, axis=1)[:, None] * np.linalg.norm(known, axis=1)
        for row, example in enumerate(out):
            beaten = (cosine[row] < cosine[row, row]).sum() / (len(out) - 1)
            assert float(found["beaten"][0, example]) == pytest.approx(beaten)


def test_a_direction_of_the_unembedding_steers_and_random_ones_do_not(organism: Model) -> None:
    """After the last block the model's answer is linear in the direction, but for the norm."""
    head = organism.bridge.original_model.get_output_embeddings().weight
    blue, red = (organism.token_ids(f" {name}")[-1] for name in ("blue", "red"))
    probes = Probes(
        "mean",
        (head[red] - head[blue]).detach()[None, None],
        torch.zeros(1, 1),
        ("resid_post.2",),
        ("blue", "red"),
        {},
        organism.identity,
    )
    names = ["Tom Cruise", "Kate Hudson", "John Lennon", "Liza Minnelli", "Jake Appleby"]
    prompts = [f"{name}'s favourite colour is" for name in names]
    answers = {"blue": " blue", "red": " red"}
    found = steering_check(organism, prompts, probes, "resid_post.2", answers, towards="red")
    assert float(found["effect"]) > 1
    assert float(found["p_value"]) < 0.01
    assert (found["value"].mean("example").diff("dose") > 0).all()
    at_zero = found["value"].sel(dose=0.0)
    np.testing.assert_allclose(at_zero, found["plain"], atol=1e-4)
    for example, text in enumerate(prompts):
        with torch.no_grad():
            out = organism.bridge.original_model(torch.tensor([organism.token_ids(text)])).logits
        expected = float(out[0, -1, red] - out[0, -1, blue])
        assert float(found["plain"][example]) == pytest.approx(expected, abs=1e-3)
    back = steering_check(organism, prompts, probes, "resid_post.2", answers, towards="blue")
    assert float(back["effect"]) > 1
    assert float(found["p_value"]) == max(float(found["p_control"]), float(found["p_isotropic"]))
    assert found["isotropic"].shape == found["control"].shape
    fig = steering_lines(found)
    assert len(fig.data) == 41
    assert [trace.name for trace in fig.data if trace.showlegend] == [
        "random, as activations vary",
        "random, everywhere alike",
    ]


@pytest.mark.parametrize("strength", [0.0, 1.0, 12.0])
def test_a_used_direction_is_found_and_an_unused_one_is_not(strength: float) -> None:
    """A model that is linear from here on: an effect of 20 logits, and none.

    However much of the activations' variance the concept makes, and though the direction is only
    an estimate of it."""
    rng = np.random.default_rng(0)
    p: dict[bool, list[float]] = {True: [], False: []}
    for trial in range(100):
        told = rng.permutation(24) % 2 - 0.5
        scale = np.linspace(2, 0.3, 32)
        concept = np.eye(32)[trial % 32] + 0.3 * rng.standard_normal(32)
        concept /= np.linalg.norm(concept)
        own = strength * np.outer(told, concept) + rng.standard_normal((24, 32)) * scale
        direction = concept + 0.05 * rng.standard_normal(32)
        direction /= np.linalg.norm(direction)
        length = 8 * (own @ direction).std()
        other = rng.standard_normal(32)
        other -= (other @ concept) * concept
        for used in p:
            weight = 20 / length * concept * used + other * 5 / length / np.linalg.norm(other)
            pushes = [
                random_directions(
                    torch.from_numpy(direction * length),
                    20,
                    seed=trial,
                    activations=like,
                    apart=True,
                )
                for like in (torch.from_numpy(own), None)
            ]
            effect = np.array([direction @ weight * length])
            p[used].append(
                max(
                    float(against_shuffled(effect, (drawn.numpy() @ weight)[None])[0])
                    for drawn in pushes
                )
            )
    assert np.mean(np.array(p[True]) < 0.05) >= 0.9
    assert np.mean(np.array(p[False]) < 0.05) <= 0.05


def test_figures_show_the_control_beside_the_probe() -> None:
    x, y = data("plain", sites=3)
    report = probe_report(Features(torch.from_numpy(x), ("a", "<b>", "c")), y)
    words = probe_report(x[0], y)
    fig = probe_lines(report, words=words, names=["a", "<b>", "c"], axis="site", title="a title")
    lines = {trace.name: trace for trace in fig.data if trace.mode == "lines+markers"}
    assert list(lines) == ["shuffled labels", "control labels", "probe"]
    for name, measured in (("probe", "accuracy"), ("control labels", "control")):
        np.testing.assert_allclose(lines[name].y, report[measured])
        area = next(trace for trace in fig.data if trace.name == measured)
        ends = report[f"{measured}_low"].values, report[f"{measured}_high"].values
        np.testing.assert_allclose(area.y, [*ends[1], *ends[0][::-1]])
    hollow = [symbol == "circle-open" for symbol in lines["probe"].marker.symbol]
    assert hollow == (report["p_corrected"].values >= 0.05).tolist()
    assert fig.layout.xaxis.ticktext[1] == "&lt;b&gt;"
    across = {note.text: note.y for note in fig.layout.annotations}
    assert across["commonest class"] == float(report["majority"])
    assert across["words alone"] == words["accuracy"].item()
    (alone,) = (t for t in probe_lines(words).data if t.name == "probe")
    top = alone.y + alone.error_y.array
    np.testing.assert_allclose(top, words["accuracy_high"])
    with pytest.raises(ProbeError, match="2 names do not fit 3 sites"):
        probe_lines(report, names=["a", "b"])
    heat = transfer_map(transfer_sites(x, y)).data[0]
    assert heat.z.shape == (3, 3)
