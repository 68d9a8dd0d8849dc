"""Which libraries' packed weights are read, and in what precision they compute.

What packs weights while it loads them, with code or with files of pickles, is none of them: only
checkpoints that were saved packed, as safetensors.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import ModelError
from interp.model.packed import LIBRARIES, how, is_packed, unpacked
from interp.model.vocabulary import quoted

__all__ = ["check_gradients", "dtype"]

# Rounding of a product in the precision that the model computes in; int8 rows keep seven bits.
_TOLERANCE = 0.05


def dtype(name: str, config: Any, wanted: torch.dtype | None) -> torch.dtype | None:
    """The precision that a model with packed weights computes in; for any other what is wanted.

    Raises:
        ModelError: its weights are packed in another way or for another precision, or the library
            is not installed.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return wanted
    told = settings if isinstance(settings, dict) else settings.to_dict()
    method = str(getattr(told.get("quant_method"), "value", told.get("quant_method")))
    if method not in LIBRARIES:
        raise ModelError(
            f"The weights of '{name}' are packed by {quoted(method)}, and only those of "
            f"{' and '.join(LIBRARIES)} are read; use a checkpoint in bfloat16."
        )
    if told.get("load_in_8bit"):
        raise ModelError(
            f"'{name}' is packed to 8 bits by bitsandbytes, which rounds activations too; use its "
            "4 bits, weights that torchao has packed alone, or a checkpoint in bfloat16."
        )
    if not installed(method):
        raise ModelError(
            f"The weights of '{name}' are packed by {method}, which is not installed; run pip "
            'install "obverse[quantised]", or use a checkpoint in bfloat16.'
        )
    given = getattr(config, "dtype", None)
    made = given if isinstance(given, torch.dtype) else torch.bfloat16
    if wanted not in (None, made):
        # Scales would be converted, and the products be others than those of the saved model.
        known = str(made).removeprefix("torch.")
        raise ModelError(
            f"The weights of '{name}' were packed for {known}, and in another precision it is "
            f"another model; load it with dtype='{known}'."
        )
    return made


def installed(library: str) -> bool:
    """Whether a library can be imported."""
    return importlib.util.find_spec(library) is not None


def check_gradients(name: str, hf_model: nn.Module) -> None:
    """See that gradients pass through packed weights, of each kind of them once.

    Where activations are rounded to integers as well, what comes out does not depend on what goes
    in as far as a gradient can tell, and estimates would be silently those of another model.

    Raises:
        ModelError: they do not.
    """
    tried: set[str] = set()
    for path, module in hf_model.named_modules():
        weight = module.weight if isinstance(module, nn.Linear) else None
        if not isinstance(module, nn.Linear) or weight is None or not is_packed(weight):
            continue
        kind = f"{type(weight)} {how(weight)} {module.in_features} {module.out_features}"
        if kind in tried:
            continue
        tried.add(kind)
        if not _passes(module, weight, _precision(hf_model)):
            plain = path.replace("._original_component", "")
            raise ModelError(
                f"No gradient passes through '{plain}' of '{name}', whose activations are rounded "
                "too, so that estimates and edges would be of another model; use weights that "
                "alone are packed, or a checkpoint in bfloat16."
            )


def _precision(hf_model: nn.Module) -> torch.dtype:
    plain = (p.dtype for p in hf_model.parameters() if not is_packed(p))
    return next((dtype for dtype in plain if dtype.is_floating_point), torch.bfloat16)


def _passes(module: nn.Linear, weight: Tensor, dtype: torch.dtype) -> bool:
    with torch.enable_grad():
        place = torch.linspace(-1, 1, 2 * module.in_features, device=weight.device, dtype=dtype)
        x = place.reshape(2, -1).requires_grad_()
        out: Tensor = module(x)
        if not out.requires_grad:
            return False
        back = torch.linspace(1, -1, out.numel(), device=out.device, dtype=out.dtype)
        (found,) = torch.autograd.grad(out, x, back.view_as(out))
    expected = back.view_as(out).float() @ unpacked(weight).float()
    apart = (found.float() - expected).norm() / expected.norm().clamp(min=1e-12)
    return bool(apart <= _TOLERANCE)
