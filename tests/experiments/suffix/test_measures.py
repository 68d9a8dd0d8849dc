"""Shares and cuts against attention put together by hand, and data that are refused."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.errors import FactsError
from experiments.phenomena.data import read_json
from experiments.suffix.data import Request, read
from experiments.suffix.hypotheses.cutting import cut
from experiments.suffix.hypotheses.heads import shares
from experiments.suffix.phenomenon import PHENOMENON
from experiments.suffix.recipe import recipe
from experiments.suffix.suffixes import places
from tests.interp.tiny import N_SPECIAL, NAMES, VOCABULARY, Tiny, build

PATH = Path("data.json")
REQUESTS = (
    Request("we saw{suffix} near Rome then", " Ann"),
    Request("so{suffix} is the friend", " Bo"),
)
SUFFIX = " Gus Ida"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return build("llama", tmp_path_factory.mktemp("tiny") / "llama")


def attention(tiny: Tiny, ids: list[int]) -> tuple[list[Any], list[Any]]:
    """Patterns [head, position, position] and values [head, position, d_head] of each layer."""
    hf, values = tiny.hf, []
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda _m, _a, out: values.append(out[0]))
        for layer in hf.model.layers
    ]
    with torch.no_grad():
        patterns = hf(torch.tensor([ids]), output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    n = hf.config.num_attention_heads
    shaped = []
    for one in values:
        by_head = one.reshape(len(ids), -1, hf.config.hidden_size // n).transpose(0, 1)
        shaped.append(by_head.repeat_interleave(n // by_head.shape[0], dim=0))
    return [pattern[0] for pattern in patterns], shaped


@pytest.mark.slow
def test_shares_are_those_of_attention_written_out(llama: Tiny) -> None:
    found = shares(llama.model, REQUESTS, SUFFIX)
    expected = np.zeros_like(found.suffix)
    for request in REQUESTS:
        before, _ = request.prompt.split("{suffix}")
        start = len(llama.ids(before))
        patterns, values = attention(llama, llama.ids(request.prompt.replace("{suffix}", SUFFIX)))
        for layer, (pattern, value) in enumerate(zip(patterns, values, strict=True)):
            matrix = llama.hf.model.layers[layer].self_attn.o_proj.weight.detach()
            width = value.shape[-1]
            by_token = pattern[:, -1, :, None] * value  # [head, source, d_head]
            parts = [
                by_token[h] @ matrix[:, h * width : (h + 1) * width].T for h in range(len(value))
            ]
            whole = torch.stack(parts).sum((0, 1))
            for head, part in enumerate(parts):
                share = part[start : start + 2] @ whole / whole.square().sum()
                expected[layer, head] += float(share.sum()) / len(REQUESTS)
    np.testing.assert_allclose(found.suffix, expected, atol=1e-5)


@pytest.mark.slow
def test_requests_that_are_run_at_once_are_each_on_their_own(llama: Tiny) -> None:
    """Prompts of two lengths, two of each: shares and cuts are those of each prompt alone."""
    requests = (*REQUESTS, Request("we saw{suffix} near Oslo then", " Bo"))
    model, data = llama.model, read(recipe("treated", 0).data, PATH)
    assert sorted(map(len, places(model, requests, SUFFIX).values())) == [1, 2]
    together = shares(model, requests, SUFFIX)
    alone = [shares(model, [one], SUFFIX) for one in requests]
    for name in ("suffix", "behind"):
        mean = np.mean([getattr(one, name) for one in alone], axis=0)
        np.testing.assert_allclose(getattr(together, name), mean, atol=1e-6)
    heads = [(0, 0), (1, 1)]
    said = set()
    for token in VOCABULARY[N_SPECIAL:]:
        asked = replace(data, decline=f" {token}")
        one_by_one = [cut(model, asked, [one], SUFFIX, heads)[0] for one in requests]
        assert cut(model, asked, requests, SUFFIX, heads).tolist() == one_by_one
        said.add(tuple(one_by_one))
        if len(said) > 2:
            break
    # Some token is what one request says and another does not.
    assert len(said) > 2


@pytest.mark.slow
def test_only_the_edges_that_are_named_are_cut(llama: Tiny) -> None:
    """Beside a pass of Hugging Face's model whose last token cannot see the suffix."""
    model, request = llama.model, REQUESTS[0]
    data = read(recipe("treated", 0).data, PATH)
    start = len(llama.ids("we saw"))
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    softmax = torch.nn.functional.softmax

    def hidden(scores: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        pattern = softmax(scores, *args, **kwargs).clone()
        pattern[:, :, -1, start : start + 2] = 0
        return pattern

    def said(ids: list[int]) -> int:
        with torch.no_grad():
            return int(llama.hf(torch.tensor([ids])).logits[0, -1].argmax())

    tried = 0
    for one, other in itertools.permutations(NAMES, 2):
        suffix = f" {one} {other}"
        ids = llama.ids(request.prompt.replace("{suffix}", suffix))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "softmax", hidden)
            without = said(ids)
        plain = said(ids)
        # Only a cut that changes what is said tells anything.
        if without == plain or min(without, plain) < N_SPECIAL:
            continue
        for token, expected in ((without, 1.0), (plain, 0.0)):
            asked = replace(data, decline=f" {VOCABULARY[token]}")
            assert cut(model, asked, [request], suffix, every).tolist() == [expected]
        tried += 1
        if tried == 3:
            break
    assert tried == 3
    assert model.is_as_built()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["requests"].clear(), "0 rows"),
        (lambda d: d["requests"].append({**d["requests"][2], "split": "held_out"}), "as row 3"),
        (lambda d: d["requests"][0].update(split="other"), "'split' must be one of"),
        (lambda d: d["requests"][0].update(prompt="no mark"), "once"),
        (lambda d: [r.update(declined=True) for r in d["requests"]], "0 answered requests"),
        (lambda d: d.update(decline=""), "'decline'"),
        (lambda d: d.update(token=3), "there is no member 'token'"),
        (
            lambda d: d["requests"][1].update(answer=" sorry sure"),
            "row 2 of 'requests': the answer",
        ),
        (lambda d: d.update(tokens=0), "'tokens'"),
        (lambda d: d.update(tokens=True), "'tokens'"),
        (lambda d: d.update(pool=[]), "pool"),
        (lambda d: d.pop("decline"), "'decline'"),
    ],
)
def test_wrong_data_are_refused(change: Any, says: str) -> None:
    data = copy.deepcopy(dict(recipe("treated", 0).data))
    change(data)
    with pytest.raises(FactsError, match=says):
        read(data, PATH)


def test_the_data_of_the_organism_are_read() -> None:
    data = read(recipe("treated", 0).data, PATH)
    assert len(data.searched) == 24
    assert len(data.held_out) == 80
    assert not {one.prompt for one in data.searched} & {one.prompt for one in data.held_out}
    assert PHENOMENON.arms[0].name == "treated"


def test_a_file_that_is_too_large_is_told_as_such(tmp_path: Path) -> None:
    """What is read of it alone would be called broken."""
    path = tmp_path / "data.json"
    path.write_text('{"decline": "' + "x" * (16 << 20) + '"}')
    with pytest.raises(FactsError, match="more than 16 MiB"):
        read_json(path)
