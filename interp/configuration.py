"""A checkpoint's configuration, read with suspicion and held against its weight files.

Whoever can write a config.json can ask for a million layers, or for a file elsewhere. So it is
read within bounds, and what it asks for is compared with what the weight files say that they hold,
before Hugging Face builds anything from it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cache.errors import StorageError
from cache.files import read_bytes
from interp.errors import ModelError
from interp.unknown import quoted

__all__ = ["Shapes", "check_configuration", "check_size", "read_json", "shapes_in"]

Shapes = Mapping[str, tuple[int, ...]]
"""The weights that stand in some files, by name."""

_MOST_JSON = 64 << 20  # bytes; an index of thousands of weights has a few
_DEEPEST = 32
# Hugging Face builds a module for each; the deepest models that exist have a few hundred.
_MOST_LAYERS = 4096
# A few layers too many or too few are told of by the names of their weights.
_FEW_LAYERS = 8
# Weights that are tied stand in a file once; beyond that a model takes what its files hold.
_SLACK, _SLACK_PACKED = 2, 32
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_COUNTS = (
    *_LAYERS,
    *("hidden_size", "n_embd", "d_model", "vocab_size"),
    *("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads", "n_kv_heads"),
    *("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "head_dim"),
    *("max_position_embeddings", "n_positions", "n_ctx"),
)
_POSITIVE = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "factor")
_NOT_NEGATIVE = ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_epsilon", "norm_eps")
_SHARES = ("partial_rotary_factor", "rotary_pct")
_BLOCK = re.compile(r"(.*?\.)(\d+)\.")
_ADVICE = "restore it from the original checkpoint"


def read_json(path: Path) -> Any:
    """The content of a JSON file of a checkpoint.

    Raises:
        ModelError: it is no regular file, too large, not JSON, or nested without end.
    """
    try:
        content = read_bytes(path, _MOST_JSON + 1)
    except StorageError as error:
        raise ModelError(str(error)) from error
    if len(content) > _MOST_JSON:
        raise ModelError(f"'{path}' is larger than {_MOST_JSON >> 20} MiB; {_ADVICE}.")
    try:
        found = json.loads(content)
        too_deep = _depth(found) > _DEEPEST
    except (ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' cannot be read as JSON; {_ADVICE}.") from error
    if too_deep:
        raise ModelError(f"'{path}' is nested more than {_DEEPEST} deep; {_ADVICE}.")
    return found


def shapes_in(shards: Sequence[Path]) -> Shapes:
    """The names and shapes of the weights in safetensors files; the weights are not read.

    Raises:
        ModelError: a file is truncated or damaged.
    """
    found: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        try:
            with safe_open(str(shard), framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (it is no mapping)
                    found[name] = tuple(weights.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"'{shard}' is truncated or damaged; copy the file again from its source."
            ) from error
    return found


def check_configuration(path: Path, shapes: Shapes) -> None:
    """Raise a ModelError unless a config.json can be meant for weights of these names."""
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"'{path}' names no model_type; it is not a Hugging Face configuration.")
    _check_code(path, config)
    for key, value in _settings(config):
        _check_setting(path, key, value)
    layers = [v for key, v in _settings(config) if key in _LAYERS and v is not None]
    blocks = max((int(match[2]) + 1 for match in map(_BLOCK.match, shapes) if match), default=0)
    if layers and max(layers) > min(_MOST_LAYERS, max(_FEW_LAYERS, 2 * blocks)):
        raise ModelError(
            f"'{path}' asks for {max(layers):,} layers, but the weights are of {blocks:,}; restore "
            "both from the same checkpoint."
        )


def check_size(path: str, wanted: int, shapes: Shapes, *, packed: bool) -> None:
    """Raise a ModelError if a configuration asks for more numbers than its weight files hold.

    Args:
        wanted: numbers in the model that would be built.
        packed: whether the files may hold several numbers in one.
    """
    held = sum(math.prod(shape) for shape in shapes.values())
    if wanted > (_SLACK_PACKED if packed else _SLACK) * held:
        raise ModelError(
            f"The weights in '{path}' do not fit its config.json: it asks for {wanted:,} numbers, "
            f"and they are {held:,}; restore both from the same checkpoint."
        )


def _check_code(path: Path, config: Mapping[str, Any]) -> None:
    """Nothing outside of the folder is opened, and no code that comes with it is run."""
    from transformers import CONFIG_MAPPING

    kind = config["model_type"]
    if "auto_map" in config and kind not in CONFIG_MAPPING:
        raise ModelError(
            f"The model in '{path.parent}' cannot be loaded: it brings code of its own for "
            f"{quoted(kind)}, which is never run; use one whose architecture transformers has."
        )
    if "transformers_weights" in config:
        raise ModelError(
            f"'{path}' names other weight files ('transformers_weights'); save the model again, "
            "which writes model.safetensors."
        )


def _check_setting(path: Path, key: str, value: Any) -> None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None:
        return
    if key in _COUNTS:
        # A few architectures give one for each layer.
        several = value if isinstance(value, list) and value and key not in _LAYERS else [value]
        if len(several) > _MOST_LAYERS or not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 < n < 1 << 40 for n in several
        ):
            raise _wrong(path, key, value, "an integer of 1 or more")
    elif key in _POSITIVE and not (plain and math.isfinite(value) and value > 0):
        raise _wrong(path, key, value, "a number above 0")
    elif key in _NOT_NEGATIVE and not (plain and math.isfinite(value) and value >= 0):
        raise _wrong(path, key, value, "a number of 0 or more")
    elif key in _SHARES and not (plain and 0 < value <= 1):
        raise _wrong(path, key, value, "a number above 0 and up to 1")


def _wrong(path: Path, key: str, value: Any, wanted: str) -> ModelError:
    given = repr(value) if len(repr(value)) <= 40 else repr(value)[:39] + "…"
    return ModelError(f"'{path}' gives {key} as {given}, which is not {wanted}; {_ADVICE}.")


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All settings, those in configurations of parts too."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _settings(value)
        else:
            yield key, value


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > _DEEPEST:
            break
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return deepest
