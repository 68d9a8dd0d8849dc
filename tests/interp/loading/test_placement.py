"""Models whose blocks lie on disk: the numbers of the same model in memory, to the last bit."""

from __future__ import annotations

import pytest

from interp import Model, load_model
from tests.interp.tiny import Tiny

BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers"}
SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "pattern", "q", "z")


@pytest.fixture(scope="module")
def on_disk(tiny: Tiny) -> Model:
    """All blocks on disk."""
    return load_model(tiny.folder, device_map={"": "cpu", BLOCKS[tiny.name]: "disk"})


def test_a_model_on_disk_has_the_fingerprint_of_the_one_in_memory(
    tiny: Tiny, on_disk: Model
) -> None:
    assert on_disk.elsewhere is not None
    assert on_disk.fingerprint == tiny.model.fingerprint
    assert on_disk.changes == ()
