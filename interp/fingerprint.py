"""A model's identity: a hash of what it computes with, not of where it was found."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

# Settings that change with the place or the library version, not with the function computed.
_VOLATILE = frozenset(
    {
        "_name_or_path",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "architectures",
        "attn_implementation",
        "dtype",
        "output_attentions",
        "output_hidden_states",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
_CHUNK = 1 << 24


def fingerprint(hf_model: torch.nn.Module) -> str:
    """Hash the configuration and every weight of a Hugging Face model: 32 hexadecimal digits.

    The same weights give the same fingerprint before and after TransformerLens has wrapped the
    model, whatever the device. Another dtype is another fingerprint: it computes other numbers.
    """
    digest = hashlib.sha256()
    settings = {k: v for k, v in hf_model.config.to_diff_dict().items() if k not in _VOLATILE}  # type: ignore[operator, union-attr]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(canonical_weights(hf_model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            piece = flat[start : start + _CHUNK].cpu().contiguous()
            digest.update(piece.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash what a tokenizer makes of texts: 32 hexadecimal digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        settings = json.loads(backend.to_str())
        # What the last call asked for, not what the tokenizer is.
        for volatile in ("truncation", "padding"):
            settings.pop(volatile, None)
        content = json.dumps(settings, sort_keys=True)
    else:
        content = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def n_parameters(hf_model: torch.nn.Module) -> int:
    """How many numbers the weights hold, each once.

    TransformerLens' split copies of fused matrices do not count.
    """
    return sum(parameter.numel() for parameter in twin(hf_model).parameters())


def canonical_weights(hf_model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights under Hugging Face's own names, whatever wraps the modules.

    TransformerLens inserts wrappers (`_original_component`) and split copies (q, k, v of a fused
    matrix) into the module tree; an empty twin of the architecture tells which names are real.
    """
    present: dict[str, Any] = {}
    for name, tensor in hf_model.state_dict().items():
        present.setdefault(name.replace("_original_component.", ""), tensor)
    names = twin(hf_model).state_dict().keys()
    # An architecture that builds its modules differently on the meta device still gets a stable
    # identity, from everything that is present.
    return {n: present[n] for n in names} if all(n in present for n in names) else present


def twin(hf_model: torch.nn.Module) -> torch.nn.Module:
    """The same architecture and configuration, with nothing in its weights."""
    with torch.device("meta"):
        return type(hf_model)(hf_model.config)
