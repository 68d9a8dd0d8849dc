"""Directions found, taken out, held everywhere: against hooks by hand on Hugging Face's model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from interp import (
    ablate_everywhere,
    capture,
    clamp_to_mean,
    control_directions,
    difference_of_means,
    logits,
    mean_directions,
)
from interp.errors import DirectionError, PromptError
from interp.steering.everywhere import stream_sites
from interp.steering.finding import last_activations
from tests.interp.tiny import D_MODEL, N_LAYERS, Tiny

ONE = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo is near home and"]
OTHER = ["who is Jo", "we saw Ida and Hal near Oslo", "then Gus saw the friend of Dee"]
HELD = (["so Ann is home", "we saw Bo and Cy"], ["who saw the friend of Eve", "is Jo near Lima"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parts(tiny: Tiny) -> tuple[Any, list[tuple[Any, Any, Any]]]:
    """What embeds, and of each block itself, what attention adds and what the MLP adds."""
    if tiny.name == "gpt2":
        body = tiny.hf.transformer
        return body.drop, [(one, one.attn.c_proj, one.mlp.c_proj) for one in body.h]
    if tiny.name == "llama":
        body = tiny.hf.model
        return body.embed_tokens, [
            (one, one.self_attn.o_proj, one.mlp.down_proj) for one in body.layers
        ]
    body = tiny.hf.gpt_neox
    return body.emb_dropout, [
        (one, one.attention.dense, one.mlp.dense_4h_to_h) for one in body.layers
    ]


@contextlib.contextmanager
def by_hand(modules: list[tuple[Any, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(lambda _m, _a, out, change=change: change(out))
        for module, change in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_logits(tiny: Tiny, prompt: str) -> Tensor:
    with torch.no_grad():
        found: Tensor = tiny.hf(torch.tensor([tiny.ids(prompt)])).logits[0, -1]
    return found


def test_ablating_everywhere_is_projecting_out_of_all_that_writes(tiny: Tiny) -> None:
    direction = noise(D_MODEL, seed=4)
    unit = direction / direction.norm()

    def without(out: Tensor) -> Tensor:
        return out - (out @ unit)[..., None] * unit

    embedding, blocks = parts(tiny)
    written = [embedding, *(one for _, *both in blocks for one in both)]
    found = logits(tiny.model, ONE, interventions=ablate_everywhere(tiny.model, direction))
    with by_hand([(module, without) for module in written]):
        for prompt, ours in zip(ONE, found, strict=True):
            torch.testing.assert_close(ours, last_logits(tiny, prompt), rtol=0, atol=2e-4)
    assert not torch.allclose(found, logits(tiny.model, ONE), atol=1e-2)
    streams = ablate_everywhere(tiny.model, direction)
    for stream in capture(tiny.model, ONE[:1], "resid_post", interventions=streams).values():
        assert float((stream.cpu() @ unit).abs().max()) < 1e-4
    # Nothing is left behind.
    torch.testing.assert_close(logits(tiny.model, ONE)[0], last_logits(tiny, ONE[0]))


def test_ablating_everywhere_is_orthogonalising_the_weights(llama: Tiny) -> None:
    import copy

    direction = noise(D_MODEL, seed=5)
    unit = direction / direction.norm()
    changed = copy.deepcopy(llama.hf)
    changed.lm_head.weight = torch.nn.Parameter(llama.hf.lm_head.weight.detach().clone())
    with torch.no_grad():
        changed.model.embed_tokens.weight -= torch.outer(
            changed.model.embed_tokens.weight @ unit, unit
        )
        for block in changed.model.layers:
            for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
                matrix.weight -= torch.outer(unit, unit @ matrix.weight)
                if matrix.bias is not None:
                    matrix.bias -= (matrix.bias @ unit) * unit
        expected = changed(torch.tensor([llama.ids(ONE[0])])).logits[0, -1]
    ours = logits(llama.model, ONE[:1], interventions=ablate_everywhere(llama.model, direction))
    torch.testing.assert_close(ours[0], expected, rtol=0, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["last", "all"])
def test_clamping_sets_the_coordinate_of_every_stream_to_its_mean(llama: Tiny, at: Any) -> None:
    """By hand: what each part adds is corrected so that the stream has the coordinate."""
    direction = noise(D_MODEL, seed=6)
    unit = direction / direction.norm()
    means = {}
    for name in stream_sites(llama.model):
        kept = []
        for prompt in OTHER:
            stream = capture(llama.model, [prompt], name)[name][0].cpu()
            kept += [stream[-1:]] if at == "last" else [stream]
        means[name] = float((torch.cat(kept) @ unit).mean())
    embedding, blocks = parts(llama)
    stream: list[Tensor] = []
    modules = []
    names = iter(stream_sites(llama.model))

    def adding(name: str, start: bool = False) -> Callable[[Tensor], Tensor]:
        def change(out: Tensor) -> Tensor:
            whole = out if start else stream[0] + out
            changed = whole.clone()
            where = slice(-1, None) if at == "last" else slice(None)
            part = whole[:, where]
            changed[:, where] = part + (means[name] - part @ unit)[..., None] * unit
            new = changed if start else changed - stream[0]
            stream[:] = [changed]
            return new

        return change

    modules.append((embedding, adding(next(names), start=True)))
    for _, attention, mlp in blocks:
        modules += [(attention, adding(next(names))), (mlp, adding(next(names)))]
    clamped = clamp_to_mean(llama.model, direction, OTHER, at=at)
    found = logits(llama.model, ONE, interventions=clamped)
    with by_hand(modules):
        for prompt, ours in zip(ONE, found, strict=True):
            torch.testing.assert_close(ours, last_logits(llama, prompt), rtol=0, atol=5e-4)


def test_the_streams_are_all_that_is_read(tiny: Tiny) -> None:
    names = stream_sites(tiny.model)
    assert names[0] == "resid_pre.0"
    assert len(names) == 1 + N_LAYERS * (1 if tiny.parallel else 2)


@pytest.mark.slow
def test_directions_are_differences_of_hugging_face_s_hidden_states(tiny: Tiny) -> None:
    found = mean_directions(tiny.model, ONE, OTHER, positions=(-1, -3), held_out=HELD)

    def hidden(prompts: list[str], layer: int, position: int) -> np.ndarray:
        rows = []
        for prompt in prompts:
            with torch.no_grad():
                ids = torch.tensor([tiny.ids(prompt)])
                states = tiny.hf(ids, output_hidden_states=True).hidden_states
            rows.append(states[layer + 1][0, position].double().numpy())
        return np.array(rows)

    # Hugging Face's last one is normed.
    for layer in range(N_LAYERS - 1):
        for position in (-1, -3):
            cell = found.sel(layer=layer, position=position)
            one, other = hidden(ONE, layer, position), hidden(OTHER, layer, position)
            direction = one.mean(0) - other.mean(0)
            np.testing.assert_allclose(cell["direction"], direction, atol=2e-5)
            unit = direction / np.linalg.norm(direction)
            assert float(cell["positive"]) == pytest.approx((one @ unit).mean(), abs=1e-4)
            assert float(cell["negative"]) == pytest.approx((other @ unit).mean(), abs=1e-4)
            along = [hidden(held, layer, position) @ unit for held in HELD]
            area = roc_auc_score([1, 1, 0, 0], np.concatenate(along))
            assert float(cell["auroc"]) == pytest.approx(area)


def test_control_directions_vary_as_activations_do_within_classes() -> None:
    """Two classes far apart along one axis: the total covariance is that axis."""
    spread = noise(8, 8, seed=1)
    apart = 60 * torch.eye(8)[0]
    classes = [noise(300, 8, seed=seed) @ spread + seed * apart for seed in (2, 3)]
    like = difference_of_means(classes[1], classes[0])
    unit = like / like.norm()
    found = control_directions(like, classes, 400, seed=5)
    assert found.total > 0.8
    assert float(found.cosine.mean()) < 0.5
    assert float((found.directions @ unit).abs().max()) < 1e-3
    torch.testing.assert_close(found.directions.norm(dim=1), like.norm().expand(400))
    # Before they are scaled they have the covariance within classes, without the direction.
    within = torch.cat([one - one.mean(0) for one in classes])
    rest = within - torch.outer(within @ unit, unit)
    strongest = torch.linalg.svd(rest, full_matrices=False)[2][0]
    drawn = torch.linalg.svd(found.directions, full_matrices=False)[2][0]
    assert float((strongest @ drawn).abs()) > 0.9
    again = control_directions(like, classes, 400, seed=5)
    assert torch.equal(found.directions, again.directions)


def test_what_has_no_direction_is_refused(llama: Tiny) -> None:
    model = llama.model
    with pytest.raises(DirectionError, match="does not fit the stream"):
        clamp_to_mean(model, noise(3), OTHER)
    with pytest.raises(DirectionError, match="length zero"):
        ablate_everywhere(model, torch.zeros(D_MODEL))
    with pytest.raises(DirectionError, match="counted from each prompt's end"):
        mean_directions(model, ONE, OTHER, positions=(0,))
    with pytest.raises(DirectionError, match="counted from each prompt's end"):
        mean_directions(model, ONE, OTHER, positions=(-1, -1))
    with pytest.raises(DirectionError, match="no vector of the stream"):
        last_activations(model, ONE, "pattern")
    with pytest.raises(PromptError, match="position −9 is asked for"):
        mean_directions(model, ONE, OTHER, positions=(-9,))
    with pytest.raises(DirectionError, match="Both classes have the same mean"):
        mean_directions(model, ONE, ONE)
    with pytest.raises(DirectionError, match="two activations or more"):
        control_directions(noise(4), [noise(1, 4), noise(3, 4)], 2)
    with pytest.raises(DirectionError, match="do not vary but along"):
        control_directions(torch.tensor([1.0, 0.0]), [torch.tensor([[1.0, 0.0], [2.0, 0.0]])], 2)
    with pytest.raises(DirectionError, match="draw more"):
        control_directions(noise(4), [noise(3, 4)], 0)
