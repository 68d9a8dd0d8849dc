"""The split forward pass that edges are checked against gives Hugging Face's logits."""

from __future__ import annotations

import pytest
import torch

from tests.interp import reference
from tests.interp.circuits.split import Split
from tests.interp.pairs import CASES, Case
from tests.interp.tiny import Tiny


@pytest.mark.parametrize("case", CASES)
def test_split_forward_gives_hugging_faces_logits(tiny: Tiny, case: Case) -> None:
    split = Split(tiny.hf)
    ids = case.ids(tiny, "clean")
    with torch.no_grad():
        found = split.run(split.embed(ids)).logits[0]
    expected = reference.logits(tiny, ids)
    assert float(expected.abs().max()) > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_the_same_added_for_every_reader_is_a_shifted_embedding(tiny: Tiny) -> None:
    """Each reader counts, and once: all of them shifted is the embedding shifted."""
    split = Split(tiny.hf)
    embedding = split.embed(CASES[0].ids(tiny, "clean"))
    torch.manual_seed(0)
    shift = torch.randn_like(embedding)
    with torch.no_grad():
        expected = split.run(embedding + shift).logits
        added = dict.fromkeys(split.destinations(), shift)
        torch.testing.assert_close(split.run(embedding, added=added).logits, expected)
        for name in split.destinations():
            rest = {other: value for other, value in added.items() if other != name}
            assert not torch.allclose(split.run(embedding, added=rest).logits, expected, atol=1e-3)
