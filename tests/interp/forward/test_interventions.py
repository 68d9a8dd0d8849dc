"""An intervention is what it says: the same change by torch's own hooks on Hugging Face's model.

Prompts have unequal lengths and are read together here, alone and unpadded there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache import ActivationStore
from interp import Model, Site, capture, load_model
from interp.errors import DirectionError, SiteError
from interp.forward.interventions import Intervention, applied
from interp.forward.source import is_hooked
from interp.generation.logits import logits
from interp.sites import shape_at
from tests.interp import surgery
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import N_LAYERS, Tiny, build_tokenizer

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is near home and"]
SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "mlp_act",
    "q",
    "k",
    "v",
    "z",
)
KINDS = ("add", "ablate", "clamp", "silence")
LAYER = 1


class Built:
    """One architecture, twice."""

    def __init__(self, name: str) -> None:
        architecture = ARCHITECTURES[name]
        self.layout = architecture.layout
        self.hf = architecture.build()
        self.model = load_model(architecture.build(), tokenizer=build_tokenizer())

    def sites(self) -> tuple[str, ...]:
        absent = {"resid_mid"} if self.layout.parallel else set()
        absent |= {"mlp_act"} if self.layout.neurons is None else set()
        return tuple(site for site in SITES if site not in absent)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest) -> Built:
    return Built(request.param)


def direction_at(model: Model, site: str, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape_at(model, site), generator=generator)


def made(kind: str, direction: Tensor, site: str | Site, **options: Any) -> Intervention:
    if kind == "silence":
        return Intervention.silence(site, **options)
    if kind == "ablate":
        return Intervention.ablate(direction, site, **options)
    amount = {"add": -1.5, "clamp": 4.0}[kind]
    return getattr(Intervention, kind)(direction, site, amount, **options)  # type: ignore[no-any-return]


def changed(kind: str, direction: Tensor, x: Tensor) -> Tensor:
    """The definition, one token after the other."""
    if kind == "silence":
        return 0 * x
    if kind == "add":
        return x - 1.5 * direction
    flat, d = x.flatten(), direction.flatten()
    share = (flat @ d) / (d @ d)
    wanted = 0.0 if kind == "ablate" else 4.0 / float(d.norm())
    return (flat + (wanted - share) * d).reshape(x.shape)


def by_hand(
    built: Built, text: str, site: str, change: Callable[[Tensor], Tensor], positions: list[int]
) -> Tensor:
    """Logits of the next token [vocabulary]."""

    def edit(value: Tensor) -> None:
        for position in positions:
            value[position] = change(value[position].clone())

    with surgery.intervened(built.hf, built.layout, site, LAYER, edit):
        return surgery.logits(built.hf, built.model.token_ids(text))[-1]


def test_a_change_at_any_site_is_the_change_by_hand(built: Built) -> None:
    plain = logits(built.model, PROMPTS)
    for number, site in enumerate(built.sites()):
        direction = direction_at(built.model, site)
        kind = KINDS[number % len(KINDS)]
        change = made(kind, direction, f"{site}.{LAYER}", positions=[1, -1])
        found = logits(built.model, PROMPTS, interventions=change)
        for row, text in enumerate(PROMPTS):
            expected = by_hand(
                built, text, site, functools.partial(changed, kind, direction), [1, -1]
            )
            scale = float(expected.abs().max())
            torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-5 * scale)
            assert float((found[row] - plain[row]).abs().max()) > 1e-3 * scale, site


def _given(vector: Tensor, _: Tensor) -> Tensor:
    return vector


def test_vectors_that_are_given_stand_where_they_were_put(built: Built) -> None:
    """For each example its own."""
    plain = logits(built.model, PROMPTS)
    for site in built.sites():
        if site not in ("resid_pre", "resid_mid", "k", "z"):
            continue
        vectors = torch.stack([direction_at(built.model, site, seed) for seed in range(3)])
        change = Intervention.replace(vectors, f"{site}.{LAYER}", positions=[1, -1])
        found = logits(built.model, PROMPTS, interventions=change)
        for row, text in enumerate(PROMPTS):
            expected = by_hand(built, text, site, functools.partial(_given, vectors[row]), [1, -1])
            scale = float(expected.abs().max())
            torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-5 * scale)
            assert float((found[row] - plain[row]).abs().max()) > 1e-3 * scale, site


def test_one_vector_serves_all_and_a_head_has_its_own(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama.model
    heads = torch.stack([direction_at(model, "z", seed)[2] for seed in range(3)])
    one = direction_at(model, "resid_post").double()  # of another precision
    changes = [
        Intervention.replace(heads, "z.1.h2", positions="last"),
        Intervention.replace(one.numpy(), "resid_post.0", positions=[0]),
        Intervention.replace(torch.zeros(32), "resid_post.0", positions=[1]),
    ]
    plain = capture(model, PROMPTS, ["z.1", "resid_post.0"])
    for budget in (None, 1):
        if budget:
            monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
        found = capture(model, PROMPTS, ["z.1", "resid_post.0"], interventions=changes)
        assert torch.equal(found["resid_post.0"][:, 0], one.float().expand(3, -1))
        assert not found["resid_post.0"][:, 1].any()
        torch.testing.assert_close(
            found["resid_post.0"][:, 2:], plain["resid_post.0"][:, 2:], equal_nan=True
        )
        for row, text in enumerate(PROMPTS):
            last = found["z.1"][row, len(llama.ids(text)) - 1]
            assert torch.equal(last[2], heads[row])
            assert not torch.equal(last[1], heads[row])


@pytest.mark.parametrize(
    ("vectors", "site", "message"),
    [
        (torch.ones(2, 32), "resid_post.0", "2 vectors for 3 examples"),
        (torch.ones(3, 31), "resid_post.0", "do not fit"),
        (torch.ones(3, 2, 32), "resid_post.0", "do not fit"),
        (torch.ones(3, 4, 8), "z.0.h1", "do not fit"),
        (torch.ones(3, 32), "pattern.0", "silence"),
        (torch.tensor([float("nan")] * 32), "resid_post.0", "finite"),
        (torch.tensor(1.0), "resid_post.0", "finite"),
        ("up", "resid_post.0", "numbers"),
    ],
)
def test_vectors_that_cannot_be_put_in_are_refused(
    llama: Tiny, vectors: Any, site: str, message: str
) -> None:
    with pytest.raises(DirectionError, match=message):
        logits(
            llama.model,
            PROMPTS,
            interventions=Intervention.replace(vectors, site, positions="last"),
        )
    assert not is_hooked(llama.model)


def test_vectors_that_half_precision_cannot_hold_are_refused() -> None:
    hf = ARCHITECTURES["Llama"].build().to(torch.float16)
    model = load_model(hf, tokenizer=build_tokenizer())
    change = Intervention.replace(torch.full((32,), 1e6), "resid_post.0", positions="last")
    with pytest.raises(DirectionError, match="too large"):
        logits(model, PROMPTS, interventions=change)


def test_double_precision_is_kept() -> None:
    """Nothing is added, so that nothing changes."""
    hf = ARCHITECTURES["Llama"].build().double()
    model = load_model(hf, tokenizer=build_tokenizer())
    idle = Intervention.add(torch.ones(32), "resid_post", 0.0)
    assert torch.equal(logits(model, PROMPTS, interventions=idle), logits(model, PROMPTS))
    text = PROMPTS[:1]
    changed = capture(model, text, "resid_post.0", interventions=idle)["resid_post.0"]
    assert torch.equal(changed, capture(model, text, "resid_post.0")["resid_post.0"])


def test_a_vector_for_each_example_needs_examples(llama: Tiny) -> None:
    change = Intervention.replace(torch.ones(3, 32), "resid_post.0", positions=[0])
    with pytest.raises(DirectionError, match="not known"), applied(llama.model, change):
        pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", ["resid_mid", "z", "z.h2", "k.h1"])
def test_each_kind_is_its_formula(kind: str, site: str) -> None:
    built = Built("Llama")
    name, _, head = site.partition(".h")
    direction = direction_at(built.model, name)
    direction = direction[int(head)] if head else direction
    where = Site(name, LAYER, int(head) if head else None)

    def change(x: Tensor) -> Tensor:
        if not head:
            return changed(kind, direction, x)
        x[int(head)] = changed(kind, direction, x[int(head)])
        return x

    found = logits(built.model, PROMPTS, interventions=made(kind, direction, where))
    for row, text in enumerate(PROMPTS):
        n = len(built.model.token_ids(text))
        expected = by_hand(built, text, name, change, list(range(n)))
        torch.testing.assert_close(found[row], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("positions", "where"),
    [
        ("all", lambda n: range(n)),
        ("prompt", lambda n: range(n)),
        ("last", lambda n: [n - 1]),
        ([0, 2], lambda n: [0, 2]),
        ([-2], lambda n: [n - 2]),
        (torch.tensor([[True, False, True]] * 3), lambda n: [0, 2]),
        (np.array([[True, False, True]] * 3), lambda n: [0, 2]),
    ],
)
def test_positions_are_those_of_each_prompt(
    positions: Any, where: Callable[[int], Any], tiny: Tiny
) -> None:
    direction = direction_at(tiny.model, "resid_post")
    change = Intervention.add(direction, "resid_post.1", 0.5, positions=positions)
    before = capture(tiny.model, PROMPTS, "resid_post.1")["resid_post.1"]
    after = capture(tiny.model, PROMPTS, "resid_post.1", interventions=change)["resid_post.1"]
    for row, text in enumerate(PROMPTS):
        n = len(tiny.ids(text))
        expected = before[row, :n].clone()
        for position in where(n):
            expected[position] += 0.5 * direction
        torch.testing.assert_close(after[row, :n], expected)


def test_changes_at_one_place_follow_each_other(llama: Tiny) -> None:
    one, two = (direction_at(llama.model, "resid_post", seed) for seed in (1, 2))
    site = "resid_post.0"
    changes = [Intervention.add(one, site), Intervention.clamp(two, site, 3.0)]
    found = capture(llama.model, PROMPTS[:1], site, interventions=changes)[site]
    plain = capture(llama.model, PROMPTS[:1], site)[site]
    expected = torch.stack([changed("clamp", two, x + one) for x in plain[0]])
    expected += (3.0 - 4.0) * two / two.norm()
    torch.testing.assert_close(found[0], expected)


def test_a_name_without_a_layer_is_every_layer(llama: Tiny) -> None:
    direction = direction_at(llama.model, "resid_post")
    ablated = Intervention.ablate(direction, ["resid_post"])
    found = capture(llama.model, PROMPTS, "resid_post", interventions=ablated)
    assert len(found) == N_LAYERS
    for value in found.values():
        along = value[value.isfinite().all(-1)] @ (direction / direction.norm())
        assert len(along) == sum(map(len, map(llama.ids, PROMPTS)))
        torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-5)


def test_a_silenced_pattern_is_attention_to_nothing(llama: Tiny) -> None:
    silent = Intervention.silence("pattern.1.h2", positions=[-1])
    found = capture(llama.model, PROMPTS[1:2], ["pattern.1", "z.1"], interventions=silent)
    plain = capture(llama.model, PROMPTS[1:2], ["pattern.1", "z.1"])
    assert not found["pattern.1"][0, 2, -1].any()
    assert not found["z.1"][0, -1, 2].any()
    for name, index in (("pattern.1", (0, 2, -1)), ("z.1", (0, -1, 2))):
        plain[name][index] = 0
        torch.testing.assert_close(found[name], plain[name])


def test_batches_change_the_right_prompts(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    change = Intervention.silence("z.1", positions="last")
    whole = logits(llama.model, PROMPTS, interventions=change)
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    torch.testing.assert_close(logits(llama.model, PROMPTS, interventions=change), whole)


def test_inside_applied_everything_is_changed_and_nothing_after(llama: Tiny) -> None:
    direction = direction_at(llama.model, "resid_post")
    change = Intervention.add(direction, "resid_post.0", positions=[1])
    plain = logits(llama.model, PROMPTS)
    with applied(llama.model, change):
        inside = logits(llama.model, PROMPTS)
    torch.testing.assert_close(inside, logits(llama.model, PROMPTS, interventions=change))
    assert not torch.allclose(inside, plain)
    torch.testing.assert_close(logits(llama.model, PROMPTS), plain)


def test_hooks_and_lock_are_given_back_after_an_error(llama: Tiny) -> None:
    change = Intervention.silence("z.0")
    with pytest.raises(KeyboardInterrupt), applied(llama.model, change):
        raise KeyboardInterrupt
    # Too few rows in the mask's batch: the model fails in the middle of its pass.
    model = llama.model
    handle = model.bridge.blocks[1].register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(RuntimeError("broken"))
    )
    try:
        with pytest.raises(RuntimeError, match="broken"):
            logits(model, PROMPTS, interventions=change)
    finally:
        handle.remove()
    assert not is_hooked(model)
    assert not model.bridge.unembed._forward_pre_hooks
    assert model.lock.acquire(blocking=False)
    model.lock.release()


def test_changed_activations_never_enter_a_store(llama: Tiny, tmp_path: Any) -> None:
    change = Intervention.silence("z.0")
    with ActivationStore(tmp_path / "store") as store:
        found = capture(llama.model, PROMPTS, "resid_post", interventions=change, store=store)
        assert store.missing(llama.model, PROMPTS, "resid_post") == len(PROMPTS)
        stored = capture(llama.model, PROMPTS, "resid_post", store=store)
    assert not torch.allclose(found["resid_post.0"], stored["resid_post.0"], equal_nan=True)


def test_all_positions_of_logits_are_hugging_faces(built: Built) -> None:
    found = logits(built.model, PROMPTS, positions="all")
    for row, text in enumerate(PROMPTS):
        expected = surgery.logits(built.hf, built.model.token_ids(text))
        scale = float(expected.abs().max())
        torch.testing.assert_close(found[row, : len(expected)], expected, rtol=0, atol=1e-5 * scale)


def test_edits_that_would_be_dropped_are_refused() -> None:
    built = Built("OPT")
    with pytest.raises(SiteError, match="would be dropped"):
        logits(built.model, PROMPTS, interventions=Intervention.silence("pattern.0"))


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@pytest.mark.parametrize("kind", ["ablate", "clamp"])
def test_how_long_a_direction_is_does_not_matter(llama: Tiny, kind: str, scale: float) -> None:
    """Its square may be more than float32 can hold, or less."""
    rest = (2.0,) if kind == "clamp" else ()
    short, long = (
        logits(
            llama.model,
            PROMPTS,
            interventions=getattr(Intervention, kind)(one * torch.ones(32), "resid_post.0", *rest),
        )
        for one in (1.0, scale)
    )
    torch.testing.assert_close(long, short)
