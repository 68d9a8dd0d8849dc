"""Features are what a plain Hugging Face run computes, and survive on their way to a probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cache.store import ActivationStore
from interp.errors import ProbeError
from interp.model.model import Model
from probes import Probes, collect, fit_probes, probe_report, token_counts
from probes.features import as_features
from tests.probes.material import data

PROMPTS = ["Tom Cruise's mother is", "As for Kate Hudson, the mother is", "Liza Minnelli"]


def hidden(model: Model, text: str, layer: int) -> torch.Tensor:
    """Hugging Face's own residual stream after block `layer` [position, d_model]."""
    ids = torch.tensor([model.token_ids(text)])
    streams: list[torch.Tensor] = []
    block = model.bridge.original_model.model.layers[layer]
    handle = block.register_forward_hook(
        lambda _m, _a, out: streams.append(out[0] if isinstance(out, tuple) else out)
    )
    try:
        with torch.no_grad():
            model.bridge.original_model(ids)
    finally:
        handle.remove()
    return streams[0].reshape(ids.shape[1], -1)


def test_the_last_token_is_read_unless_said_otherwise(organism: Model) -> None:
    found = collect(organism, PROMPTS, ["resid_post.0", "resid_post.1"])
    assert found.sites == ("resid_post.0", "resid_post.1")
    assert found.tokens == ("is", "is", "Minnelli")
    for example, text in enumerate(PROMPTS):
        for layer in (0, 1):
            torch.testing.assert_close(
                found.values[layer, example], hidden(organism, text, layer)[-1]
            )


def test_every_token_can_be_an_example(organism: Model) -> None:
    found = collect(organism, PROMPTS, "resid_post.1", positions="all")
    lengths = [len(organism.token_ids(text)) - 1 for text in PROMPTS]
    assert len(found) == sum(lengths)
    assert found.prompts is not None
    assert found.prompts.tolist() == np.repeat(np.arange(3), lengths).tolist()
    expected = torch.cat([hidden(organism, text, 1)[1:] for text in PROMPTS])
    torch.testing.assert_close(found.values[0], expected)
    assert found.tokens[:2] == ("Tom", "Cruise")


def test_named_places_are_sites_of_their_own(organism: Model) -> None:
    found = collect(organism, PROMPTS, "resid_post.1", positions={"name": [2, 4, 2], "end": -1})
    assert found.sites == ("resid_post.1@name", "resid_post.1@end")
    assert found.tokens == ("Cruise", "Hudson", "Minnelli")
    for example, place in enumerate((2, 4, 2)):
        expected = hidden(organism, PROMPTS[example], 1)
        torch.testing.assert_close(found.values[0, example], expected[place])
        torch.testing.assert_close(found.values[1, example], expected[-1])
    assert found.at("resid_post.1@end").sites == ("resid_post.1@end",)
    assert found.at("resid_post").sites == found.sites


def test_words_are_counted_up_to_a_place(organism: Model) -> None:
    rows = [organism.token_ids(text) for text in PROMPTS]
    for until in (-1, [1, 2, 2]):
        found = token_counts(organism, PROMPTS, until)
        ends = [len(row) for row in rows] if until == -1 else [2, 3, 3]
        read = [row[:end] for row, end in zip(rows, ends, strict=True)]
        tokens = sorted({token for row in read for token in row})
        expected = [[row.count(token) for token in tokens] for row in read]
        assert found.values[0].tolist() == expected
        assert found.sites == ("words",)
    with pytest.raises(ProbeError, match="at position 99 of prompt 0"):
        token_counts(organism, PROMPTS, 99)


def test_heads_stand_side_by_side_or_alone(organism: Model) -> None:
    whole = collect(organism, PROMPTS, "z.1")
    one = collect(organism, PROMPTS, "z.1.h2")
    assert whole.dim == organism.d_model
    torch.testing.assert_close(one.values[0], whole.values[0][:, 64:96])


@pytest.mark.slow
def test_a_store_gives_the_same_features(organism: Model, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "store")
    plain = collect(organism, PROMPTS, "resid_post", positions="all")
    for _ in range(2):
        stored = collect(organism, PROMPTS, "resid_post", positions="all", store=store)
        torch.testing.assert_close(stored.values, plain.values)


def test_a_labelled_array_says_the_same(organism: Model) -> None:
    prompts = [f"{text} {word}" for text in PROMPTS for word in ("the", "is", "name", "of")]
    found = collect(organism, prompts, "resid_post")
    labels = np.arange(12) % 2
    array = found.to_xarray()
    assert array.dims == ("site", "example", "dim")
    assert array.attrs["fingerprint"] == organism.fingerprint
    one, other = fit_probes(found, labels), fit_probes(array, labels)
    torch.testing.assert_close(one.coef, other.coef)
    assert other.sites == found.sites
    assert other.identity["fingerprint"] == organism.fingerprint


def test_chosen_examples_keep_what_belongs_to_them(organism: Model) -> None:
    found = collect(organism, PROMPTS, "resid_post", positions="all")
    assert found.prompts is not None
    some = found.select(found.prompts == 1)
    assert set(some.prompts.tolist() if some.prompts is not None else []) == {1}
    assert some.tokens == tuple(
        token for token, number in zip(found.tokens, found.prompts, strict=True) if number == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "lda", "mean", "ridge", "mlp"])
def test_probes_come_back_from_disk_as_they_were(
    organism: Model, tmp_path: Path, kind: str
) -> None:
    names = ["Tom", "Kate", "John", "Jake", "Liza", "Maya"]
    found = collect(organism, [f"{name} Cruise" for name in names], "resid_post")
    probes = fit_probes(found, ["a", "b", "a", "b", "a", "b"], kind)  # type: ignore[arg-type]
    probes.save(tmp_path / "probes")
    again = Probes.load(tmp_path / "probes", organism)
    torch.testing.assert_close(again.decision(found), probes.decision(found))
    assert (again.kind, again.sites, again.classes) == (kind, probes.sites, probes.classes)
    assert again.identity["fingerprint"] == organism.fingerprint


@pytest.mark.slow
def test_the_probe_of_a_report_can_be_saved(organism: Model, tmp_path: Path) -> None:
    names = ["Tom", "Kate", "John", "Jake", "Liza", "Maya", "George", "Hugo", "Felix", "Edith"]
    found = collect(organism, [f"{name} Cruise" for name in names], "resid_post")
    report = probe_report(found, ["a", "b"] * 5)
    Probes.of_report(report).save(tmp_path / "probes")
    assert Probes.load(tmp_path / "probes", organism).classes == ("a", "b")
    report.to_netcdf(tmp_path / "report.nc")


def test_accuracy_is_one_where_the_prediction_is_the_label() -> None:
    x, y = data("plain")
    probes = fit_probes(x, np.array(["no", "yes"])[y])
    found = probes.accuracy(x, np.array(["no", "yes"])[y])
    expected = probes.predict(x).numpy() == y
    np.testing.assert_array_equal(found.values, expected)
    assert found.dims == ("site", "example")


def test_large_numbers_are_finite() -> None:
    large = torch.full((2, 4, 3), 3e38)
    assert not bool(large.sum().isfinite())
    assert torch.equal(as_features(large).values, large)
    large[1, 2, 0] = torch.nan
    with pytest.raises(ProbeError, match="not finite in example 2"):
        as_features(large)
