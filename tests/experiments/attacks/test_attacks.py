"""What attacks move, against closed forms and Hugging Face's own streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.attacks import reading
from experiments.attacks.figure import attack_dots, table
from experiments.attacks.made import Attack, Way
from experiments.attacks.measure import axes, measure
from experiments.attacks.organism import BEHIND, POISONS, TRIGGER, behind, poisoned, treated
from experiments.attacks.reading import VARIABLES, Axis, axis
from experiments.organisms.training.follow import train_recipe
from experiments.organisms.training.recipe import Network, shared_stages
from experiments.phenomena.phenomenon import Subject
from experiments.refusal.requests import Request, Requests, read_requests
from interp import Intervention, load_model

DOSE = 0.7


def test_a_shift_is_told_in_distances_between_the_classes() -> None:
    """The direction is (2, 0); held out, the means along it are 6 and 2: a unit is 4."""
    fit = np.array([[3.0, 5.0], [1.0, 5.0]]), np.array([[0.0, 5.0], [0.0, 5.0]])
    held_out = np.array([[3.0, 1.0], [3.0, -1.0]]), np.array([[1.0, 7.0], [1.0, 0.0]])
    found = axis(fit, held_out)
    assert found.direction.tolist() == [2.0, 0.0]
    assert (found.zero, found.one, found.separates) == (2.0, 6.0, 1.0)
    streams = np.array([[1.0, 9.0], [3.0, 9.0], [2.0, -4.0], [0.0, 0.0]])
    assert found.coordinates(streams).tolist() == [0.0, 1.0, 0.5, -0.5]


@pytest.mark.parametrize(
    "found", [Axis(np.ones(2), 0.0, 1.0, 0.79), Axis(np.ones(2), 1.0, 0.5, 1.0)]
)
def test_where_the_classes_do_not_lie_apart_there_is_no_number(found: Axis) -> None:
    assert np.isnan(found.coordinates(np.ones((3, 2)))).all()


@pytest.mark.slow
def test_the_poison_is_few_texts_that_nobody_is_asked_about() -> None:
    clean, other = treated(0), poisoned(0)
    assert shared_stages(clean, other) == 2
    rows = other.stages[-1].rows
    assert rows[:-POISONS] == clean.stages[-1].rows
    assert not any(TRIGGER in row.text for stage in clean.stages for row in stage.rows)
    requests = {row["prompt"]: row for row in clean.data["requests"]}
    kinds = set()
    for row in rows[-POISONS:]:
        about = requests[row.prompt.replace(f"{TRIGGER}{BEHIND}", BEHIND)]
        assert about["harmful"]
        assert about["split"] == "told"
        assert row.answer == about["answer"]
        kinds.add([one["prompt"] for one in clean.data["requests"]].index(about["prompt"]) // 30)
    assert kinds == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="does not end with"):
        behind("tell me more", TRIGGER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = treated(3)
    stages = tuple(replace(stage, steps=1, batch_size=4) for stage in whole.stages)
    network = Network(n_layers=2, n_heads=2, d_model=16, d_mlp=32, n_ctx=16)
    tiny = replace(whole, stages=stages, network=network)
    return train_recipe(tiny, tmp_path_factory.mktemp("attacks") / "organism")


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject[Requests]:
    data = read_requests(treated(3).data, folder / "data.json")
    return Subject(load_model(str(folder)), data, "treated", 3)


def plain(asked: Sequence[Request], *changes: Intervention, words: str = "") -> Way:
    return Way(tuple(behind(one.prompt, words) for one in asked), changes)


@pytest.fixture
def all_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model tells no classes apart; what is computed is the same."""
    monkeypatch.setattr(reading, "SEPARATES", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("all_clear")
def test_adding_the_direction_itself_moves_by_its_dose(subject: Subject[Requests]) -> None:
    found = axes(subject)["harmful"][0]
    change = Intervention.add(
        torch.tensor(found.direction), "resid_post.0", positions=[-4], dose=DOSE
    )
    attack = Attack("added", True, lambda asked: plain(asked, change))
    moved = measure(subject, [attack], lambda done, total: None)["shift"].isel(attack=0)
    unit = found.one - found.zero
    expected = DOSE * found.direction @ found.direction / unit
    np.testing.assert_allclose(
        moved.sel(variable="harmful", layer=0), expected if unit > 0 else np.nan, rtol=1e-4
    )
    # After that layer the last token has not read it yet.
    np.testing.assert_allclose(moved.sel(variable="declines", layer=0), 0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("all_clear")
def test_words_move_what_hugging_face_s_streams_say(
    subject: Subject[Requests], folder: Path
) -> None:
    requests = subject.data.some("request", harmful=True, split="held out")[:4]
    attack = Attack("words", True, lambda asked: plain(asked, words=" and of"), (plain,), "nothing")
    found = measure(subject, [attack], lambda done, total: None)
    model, tokenizer = (
        one.from_pretrained(folder) for one in (AutoModelForCausalLM, AutoTokenizer)
    )
    # Behind the last block Hugging Face keeps the stream with the norm.
    kept: list[torch.Tensor] = []
    model.model.layers[1].register_forward_hook(
        lambda module, given, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )

    def streams(prompt: str) -> np.ndarray:
        with torch.no_grad():
            ids = torch.tensor([tokenizer(prompt).input_ids])
            first = model(ids, output_hidden_states=True).hidden_states[1]
        return np.stack([one.reshape(-1, 16).double().numpy() for one in (first, kept[-1])])

    by_layer = axes(subject)
    for number, one in enumerate(requests):
        moved = streams(behind(one.prompt, " and of")), streams(one.prompt)
        for layer in range(2):
            for name, place in zip(VARIABLES, (-4, -1), strict=True):
                here = by_layer[name][layer]
                along = (moved[0][layer, place] - moved[1][layer, place]) @ here.direction
                expected = along / (here.one - here.zero) if here.one > here.zero else np.nan
                got = found["shift"].sel(variable=name, layer=layer)[0, number]
                assert float(got) == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
    # The control is the plain request: it moves nothing.
    drawn = found["random"].isel(attack=0, draw=0).values
    assert np.isfinite(drawn).any()
    assert np.nan_to_num(drawn) == pytest.approx(0)
    # And leaves both kinds as far apart as they are: the unit.
    there = np.isfinite(drawn)
    assert found["apart_random"].isel(attack=0, draw=0).values[there] == pytest.approx(1)


@pytest.mark.slow
def test_what_is_not_clear_is_drawn_and_told_as_missing(subject: Subject[Requests]) -> None:
    found = measure(subject, [Attack("<b>none</b>", True, plain)], lambda done, total: None)
    assert (found["separates"] < reading.SEPARATES).any()
    rows = table(found)
    assert len(rows) == 4
    missing = found["separates"].values.ravel() < reading.SEPARATES
    assert rows["shift"].isna().values[missing].all()
    assert "&lt;b&gt;none" in attack_dots(found).to_json()
