"""A model's identity: a hash of what it computes with, not of where it was found."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from interp.model.packed import parts

if TYPE_CHECKING:
    from interp.model.elsewhere import Elsewhere

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


class Outline(NamedTuple):
    """What a model holds by its class and configuration, whatever its weights.

    Attributes:
        kind: the class.
        names: of parameters and buffers, as a checkpoint has them.
        weights: numbers in its parameters, each once.
        tables, table_bytes: numbers in its buffers, and what they take.
    """

    kind: type[torch.nn.Module]
    names: tuple[str, ...]
    weights: int
    tables: int
    table_bytes: int

    @classmethod
    def of(cls, empty: torch.nn.Module) -> Outline:
        """Of a model, which may be on the meta device."""
        tables = list(empty.buffers())
        return cls(
            type(empty),
            tuple(empty.state_dict()),
            sum(weight.numel() for weight in empty.parameters()),
            sum(table.numel() for table in tables),
            sum(table.numel() * table.element_size() for table in tables),
        )


# With the class and configuration that they were built from, which somebody may change.
_OUTLINES: weakref.WeakKeyDictionary[torch.nn.Module, tuple[str, Outline]] = (
    weakref.WeakKeyDictionary()
)


def note_outline(hf_model: torch.nn.Module, built: Outline) -> None:
    """Note what was built from the model's configuration, so that it is not built again."""
    if built.kind is type(hf_model):
        _OUTLINES[hf_model] = configuration(hf_model), built


def outline(hf_model: torch.nn.Module) -> Outline:
    """What an empty model of the same class and configuration holds."""
    settings = configuration(hf_model)
    noted, found = _OUTLINES.get(hf_model, (None, None))
    if found is None or noted != settings or found.kind is not type(hf_model):
        found = Outline.of(twin(hf_model))
        _OUTLINES[hf_model] = settings, found
    return found


def configuration(hf_model: torch.nn.Module) -> str:
    """Everything in the configuration that decides what is computed, as JSON."""
    settings = {k: v for k, v in hf_model.config.to_diff_dict().items() if k not in _VOLATILE}  # type: ignore[operator, union-attr]
    return json.dumps(settings, sort_keys=True, default=str)


def hash_tensors(
    digest: Any, named: Mapping[str, torch.Tensor], known: Mapping[str, bytes] | None = None
) -> None:
    """Add names of tensors and what `hash_tensor` makes of each to a hash.

    Args:
        known: hashes of some of them, which are not looked up.
    """
    known = known or {}
    for name in sorted(named):
        if name in known:
            digest.update(f"{name} ".encode() + known[name])
            continue
        # Each is read only when its turn comes, where it lies elsewhere.
        for part, tensor in parts(name, named[name]):
            digest.update(f"{part} ".encode() + hash_tensor(tensor))


def hash_tensor(tensor: torch.Tensor) -> bytes:
    """SHA-256 of the dtype, shape and bytes of a tensor: 32 bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        piece = flat[start : start + _CHUNK].cpu().contiguous()
        digest.update(piece.view(torch.uint8).numpy().data)
    return digest.digest()


def fingerprint(hf_model: torch.nn.Module, elsewhere: Elsewhere | None = None) -> str:
    """Hash the configuration and every weight of a Hugging Face model: 32 hexadecimal digits.

    The same weights give the same fingerprint before and after TransformerLens has wrapped the
    model, whatever the device. Another dtype is another fingerprint: it computes other numbers.

    Args:
        elsewhere: weights that are read for it from where they lie, one at a time, unless they
            were hashed when they were brought.
    """
    if elsewhere is None:
        weights: Mapping[str, torch.Tensor] = canonical_weights(hf_model)
    else:
        with elsewhere.closed():
            weights = elsewhere.full(canonical_weights(hf_model))
    digest = hashlib.sha256()
    digest.update(configuration(hf_model).encode())
    hash_tensors(digest, weights, None if elsewhere is None else elsewhere.hashes)
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
    return outline(hf_model).weights


def canonical_weights(hf_model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights under Hugging Face's own names, whatever wraps the modules.

    TransformerLens inserts wrappers (`_original_component`) and split copies (q, k, v of a fused
    matrix) into the module tree; an empty twin of the architecture tells which names are real.
    """
    present: dict[str, Any] = {}
    for name, tensor in hf_model.state_dict().items():
        present.setdefault(plain_name(name), tensor)
    names = outline(hf_model).names
    # An architecture that builds its modules differently on the meta device still gets a stable
    # identity, from everything that is present.
    return {n: present[n] for n in names} if all(n in present for n in names) else present


def place(tensor: torch.Tensor) -> Hashable:
    """Where a tensor begins in memory; where it has none what stands for it (see `Elsewhere`)."""
    if tensor.is_meta:
        return "elsewhere", tensor.untyped_storage()._cdata
    return tensor.data_ptr()


def twin(hf_model: torch.nn.Module) -> torch.nn.Module:
    """The same architecture and configuration, with nothing in its weights."""
    with torch.device("meta"):
        return type(hf_model)(hf_model.config)


def built_anew(hf_model: torch.nn.Module) -> torch.nn.Module:
    """As `twin`, in eval mode and with the buffers that are computed and not saved.

    What somebody did to `hf_model` after it was built shows when both are compared.
    """
    with torch.random.fork_rng(devices=[]), _MatricesNowhere():
        return type(hf_model)(hf_model.config).eval()


def plain_name(name: str) -> str:
    """The name of a module or weight without TransformerLens' wrappers."""
    return ".".join(part for part in name.split(".") if part != "_original_component")


class _MatricesNowhere(TorchFunctionMode):
    """Inside, memory that is to hold a matrix of weights is made on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            shape = kwargs.get("size", args[0] if len(args) == 1 else args)
            if not isinstance(shape, int) and len(shape) > 1:
                kwargs["device"] = "meta"
        return func(*args, **kwargs)
