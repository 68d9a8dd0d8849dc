"""A TransformerLens bridge around a Hugging Face model, whose numbers are Hugging Face's."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from interp.errors import ModelError, first_sentence
from interp.loading.cutting import asks_for_numbers, bring_cut
from interp.model.along import Along, taken_along
from interp.model.identity.behaviour import Answers, answers, fixed_input
from interp.model.identity.fingerprint import hash_tensor
from interp.model.memory import is_out_of_memory
from interp.model.packed import parts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from interp.model.elsewhere import Elsewhere

__all__ = ["Wrapped", "check_finite", "wrap"]

# A wrong norm, mask or position is off by 0.1 or more, rounding in bfloat16 by less than this.
WRAPPED_TOLERANCE = 0.05


class Wrapped(NamedTuple):
    """A bridge that computes what Hugging Face does.

    Attributes:
        bridge: it.
        answered: what it answers to the fixed input, where finding that out reads blocks.
    """

    bridge: TransformerBridge
    answered: Answers | None


def wrap(
    hf_model: Any,
    tokenizer: Any,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    elsewhere: Elsewhere | None = None,
) -> Wrapped:
    """TransformerLens' bridge around a Hugging Face model, if it computes the same logits.

    Args:
        device: where it goes; where it computes, if some of its weights lie elsewhere.
        elsewhere: these. Each is read once.

    Raises:
        ModelError: TransformerLens does not know the architecture, or computes something else.
    """
    from transformer_lens.model_bridge import TransformerBridge

    boot = functools.partial(
        TransformerBridge.boot_transformers, name, tokenizer=tokenizer, device=device, dtype=dtype
    )
    if elsewhere is None:
        hf_model = hf_model.to(device).eval()
        config = hf_model.config.get_text_config()
        length = min(8, config.vocab_size, getattr(config, "max_position_embeddings", 8))
        ids = torch.arange(length, device=device)[None]
        expected = _expected(name, lambda: _logits(hf_model, ids))
        with _wrapping(name, hf_model):
            bridge = boot(hf_model=hf_model)
            found, answered = _logits(bridge, ids), None
    else:
        bridge, expected, answered = _side_by_side(hf_model.eval(), name, device, boot, elsewhere)
        found = answered[-1].float()
        answered = (*answered[:-1], answered[-1][:, -1:].clone())
    if not bool(torch.isfinite(expected).all()) and all(
        itertools.starmap(_is_finite, hf_model.named_parameters())
    ):
        raise ModelError(
            f"'{name}' computes no finite logits from finite weights, so a setting in its "
            "config.json is wrong; restore it from the original checkpoint."
        )
    difference = (found - expected).norm() / expected.norm().clamp(min=1e-12)
    # NaN is told of by the check of the weights, which names the tensor.
    if float(difference) > WRAPPED_TOLERANCE:
        raise ModelError(
            f"TransformerLens computes other logits for {type(hf_model).__name__} than Hugging "
            f"Face does (relative difference {float(difference):.2g}), so nothing measured on it "
            "would be true; use another architecture or version of transformer-lens."
        )
    return Wrapped(bridge, answered)


def _side_by_side(
    hf_model: Any,
    name: str,
    device: torch.device,
    boot: Callable[..., TransformerBridge],
    elsewhere: Elsewhere,
) -> tuple[TransformerBridge, torch.Tensor, Answers]:
    """The bridge of a model some of whose weights lie elsewhere, logits and answers.

    Hugging Face's own modules, which were not wrapped, and the bridge pass each block together, and
    all that is asked of its weights is asked while they are there.
    """
    elsewhere.examine = functools.partial(_examined, Path(name).name)
    # Those that are here at once: below, NaN stands for weights that are not.
    with elsewhere.closed():
        for weight, values in hf_model.named_parameters():
            if not elsewhere.owns(values):
                check_finite(Path(name).name, weight, values)
        plain = _same_weights(hf_model)
    with _wrapping(name, hf_model):
        # What it cuts out of weights while it wraps them would stay in memory.
        nan = asks_for_numbers(hf_model, lambda empty: boot(hf_model=empty))
        with elsewhere.closed(nan=nan):
            bridge = boot(hf_model=hf_model)
        bring_cut(bridge, elsewhere)
    ids = fixed_input(bridge, device)

    def place(along: Along[torch.Tensor] | None) -> None:
        elsewhere.along = along

    with taken_along(lambda: _logits(plain, ids), place) as along, _wrapping(name, hf_model):
        try:
            answered = answers(bridge, everywhere=True)
        except (ModelError, MemoryError):
            raise
        except Exception:
            _expected(name, along.result)  # if that fails as well, it is not the wrapping's fault
            raise
        expected = _expected(name, along.result)
    return bridge, expected, answered


def _same_weights(hf_model: Any) -> Any:
    """The same modules once more, with the same weights and tables in them."""
    shared = itertools.chain(hf_model.parameters(), hf_model.buffers())
    return copy.deepcopy(hf_model, {id(one): one for one in shared})


def _expected(name: str, run: Callable[[], torch.Tensor]) -> torch.Tensor:
    try:
        return run()
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # settings of which each is in order, and that do not fit together
        if _is_out_of_memory(error):
            raise
        raise ModelError(
            f"'{name}' computes nothing with the settings in its config.json "
            f"({first_sentence(error)}); restore it from the original checkpoint."
        ) from error


@contextlib.contextmanager
def _wrapping(name: str, hf_model: Any) -> Iterator[None]:
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            raise
        raise _cannot_wrap(name, hf_model, error) from error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and is_out_of_memory(error)


def _cannot_wrap(name: str, hf_model: Any, error: Exception) -> ModelError:
    architecture = type(hf_model).__name__
    return ModelError(
        f"TransformerLens cannot wrap '{name}' ({architecture}): {first_sentence(error)}"
    )


def _examined(name: str, weight: str, values: torch.Tensor) -> bytes:
    check_finite(name, weight, values)
    return hash_tensor(values)


def check_finite(name: str, weight: str, values: torch.Tensor) -> None:
    """Raise a ModelError if a weight of a model is infinite or NaN somewhere."""
    if not _is_finite(weight, values):
        plain = weight.replace("_original_component.", "")
        raise ModelError(
            f"{name} has non-finite weights in '{plain}'; no measurement on it would mean "
            "anything, so load an intact checkpoint."
        )


def _is_finite(name: str, values: torch.Tensor) -> bool:
    """Whether no number is infinite or NaN, in one pass over them: `torch.isfinite` makes several
    tensors of their size and takes 40 times as long."""
    numbers = (one for _, one in parts(name, values) if one.is_floating_point() and one.numel())
    # NaN goes through both.
    return all(bool(torch.isfinite(end)) for one in numbers for end in torch.aminmax(one.detach()))


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits in float32, from a Hugging Face model or a bridge."""
    with torch.no_grad():
        output = model(ids, use_cache=False)
    logits: torch.Tensor = getattr(output, "logits", output)
    return logits.float()
