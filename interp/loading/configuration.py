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
from typing import Any, NamedTuple

from cache.errors import StorageError
from cache.files import read_bytes
from interp.errors import ModelError
from interp.loading.headers import header
from interp.model.vocabulary import quoted

__all__ = ["Stored", "Weights", "check_configuration", "check_size", "read_json", "weights_in"]


class Stored(NamedTuple):
    """A weight as its file has it."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors name it: "F32", "BF16", "I8"."""


Weights = Mapping[str, Stored]
"""What stands in some files, by name."""

_MOST_JSON = 64 << 20  # bytes; an index of thousands of weights has a few
_DEEPEST = 32
# Hugging Face builds a module for each; the deepest models that exist have a few hundred.
_MOST_LAYERS = 4096
# A few layers too many or too few are told of by the names of their weights.
_FEW_LAYERS = 8
# Weights that are tied stand in a file once; beyond that a model takes what its files hold.
_SLACK, _SLACK_PACKED = 2, 32
# Masks and tables of positions, which no file holds: TinyStories-1M has 2**25 beside 2**22 weights.
_MOST_TABLES = 1 << 27
_PLAIN = {"F64", "F32", "F16", "BF16"}
# Hugging Face's classes take a second for some 100,000.
_MOST_SETTINGS = 20_000
# Hugging Face writes out a name for each.
_MOST_LABELS = 1 << 16
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_COUNTS = (
    *_LAYERS,
    *("hidden_size", "n_embd", "d_model", "vocab_size"),
    *("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads", "n_kv_heads"),
    *("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "head_dim"),
    *("max_position_embeddings", "n_positions", "n_ctx", "original_max_position_embeddings"),
    *("window_size", "sliding_window", "rotary_dim", "num_labels"),
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


def weights_in(shards: Sequence[Path]) -> Weights:
    """Names, shapes and types of the weights in safetensors files; the weights are not read.

    Raises:
        ModelError: a file is truncated or damaged, or two hold a weight of one name.
    """
    found: dict[str, Stored] = {}
    for shard in shards:
        for name, one in header(shard)[0].items():
            if name in found:
                raise ModelError(
                    f"'{shard}' holds {quoted(name)}, which stands in another of the model's files "
                    "too; copy the model again."
                )
            found[name] = Stored(one.shape, one.dtype)
    return found


def check_configuration(path: Path, weights: Weights) -> None:
    """Raise a ModelError unless a config.json can be meant for these weights."""
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"'{path}' names no model_type; it is not a Hugging Face configuration.")
    _check_code(path, config)
    if sum(1 for _ in _settings(config)) > _MOST_SETTINGS:
        raise ModelError(f"'{path}' holds more than {_MOST_SETTINGS:,} settings; {_ADVICE}.")
    for key, value in _settings(config):
        _check_setting(path, key, value)
    layers = [v for key, v in _settings(config) if key in _LAYERS and v is not None]
    blocks = max((int(match[2]) + 1 for match in map(_BLOCK.match, weights) if match), default=0)
    if layers and max(layers) > min(_MOST_LAYERS, max(_FEW_LAYERS, 2 * blocks)):
        raise ModelError(
            f"'{path}' asks for {max(layers):,} layers, but the weights are of {blocks:,}; restore "
            "both from the same checkpoint."
        )
    # Others may be integers: masks and positions that older versions stored.
    strange = [n for n, one in weights.items() if n.endswith(".weight") and one.dtype not in _PLAIN]
    if strange and not isinstance(config.get("quantization_config"), dict):
        raise ModelError(
            f"The weights in '{path.parent}' are stored as {weights[strange[0]].dtype} "
            f"({quoted(strange[0])} first), and its config.json does not say how they are to be "
            "read (quantization_config); use a checkpoint in float32, float16 or bfloat16."
        )


def check_size(path: str, wanted: int, tables: int, weights: Weights, *, packed: bool) -> None:
    """Raise a ModelError if a configuration asks for more numbers than its weight files hold.

    Args:
        wanted: weights in the model that would be built.
        tables: numbers in its buffers, which are computed.
        packed: whether the files may hold several numbers in one.
    """
    held = sum(math.prod(one.shape) for one in weights.values())
    if wanted > (_SLACK_PACKED if packed else _SLACK) * held:
        raise ModelError(
            f"The weights in '{path}' do not fit its config.json: it asks for {wanted:,} numbers, "
            f"and they are {held:,}; restore both from the same checkpoint."
        )
    if tables > _MOST_TABLES + _SLACK * held:
        raise ModelError(
            f"The config.json of '{path}' asks for tables of {tables:,} numbers beside {held:,} in "
            f"the weights; {_ADVICE}."
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
        if key == "num_labels" and value > _MOST_LABELS:
            raise _wrong(path, key, value, f"at most {_MOST_LABELS:,}")
    elif key == "attention_types":
        _check_pattern(path, key, value)
    elif key in _POSITIVE and not (plain and math.isfinite(value) and value > 0):
        raise _wrong(path, key, value, "a number above 0")
    elif key in _NOT_NEGATIVE and not (plain and math.isfinite(value) and value >= 0):
        raise _wrong(path, key, value, "a number of 0 or more")
    elif key in _SHARES and not (plain and 0 < value <= 1):
        raise _wrong(path, key, value, "a number above 0 and up to 1")


def _check_pattern(path: Path, key: str, value: Any) -> None:
    """GPT-Neo's kinds of attention, [[[kind, ...], times], ...], are written out layer by layer."""
    try:
        layers = sum(len(kinds) * max(0, int(times)) for kinds, times in value)
    except (TypeError, ValueError) as error:
        raise _wrong(path, key, value, "a list of [[kind, ...], times]") from error
    if layers > _MOST_LAYERS:
        raise _wrong(path, key, value, f"of at most {_MOST_LAYERS:,} layers")


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
