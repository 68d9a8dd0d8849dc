"""A language model that instruments can be pointed at."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from interp.errors import ModelError
from interp.model import vocabulary
from interp.model.identity.fingerprint import (
    canonical_weights,
    n_parameters,
    tokenizer_fingerprint,
)
from interp.model.identity.identity import Identity, Seen
from interp.model.identity.structure import walk
from interp.notebook import cut, picture

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from cache.keys.source import ActivationSource
    from interp.model.elsewhere import Elsewhere
    from interp.model.identity.behaviour import Answers
    from interp.model.identity.change import Change
    from interp.model.placed import Placed

Offsets = list[tuple[int, int]]
T = TypeVar("T")

# A model with and without hooks, and a few more.
_STATES = 16
# Parameters of a model that a notebook looks at whenever it is shown: some tenths of a second.
_SMALL = 50_000_000


class Model:
    """A TransformerLens bridge, and what it lacks: an identity, a lock, and safe tokenising.

    The weights are frozen and the model is in eval mode. Hook points are shared state, so
    everything that places hooks holds `lock` (re-entrant) while it does.

    Attributes:
        bridge: the TransformerBridge, with Hugging Face's own numerics (nothing folded).
        source: what the model was loaded from, as the user wrote it.
        path: the local folder, or None for a hub id or a model in memory.
        revision: branch, tag or commit on the hub that was asked for, or None.
        in_memory: whether it was made in memory, so that `source` is a name and no place.
        placed: where its parts lie, if on several devices or on disk.
        elsewhere: the weights that do not lie where it computes, if there are any.
        tokenizer: the Hugging Face tokenizer.

    Args:
        answered: what the bridge has just answered to the fixed input, if it was asked.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        *,
        source: str,
        path: Path | None,
        tokenizer: Any,
        activation_source: Callable[[Model], ActivationSource],
        revision: str | None = None,
        in_memory: bool = False,
        placed: Placed | None = None,
        elsewhere: Elsewhere | None = None,
        answered: Answers | None = None,
    ) -> None:
        self.bridge = bridge
        self.source = source
        self.path = path
        self.tokenizer = tokenizer
        self.revision = revision
        self.in_memory = in_memory
        self.placed = placed
        self.elsewhere = elsewhere
        self._activation_source = activation_source
        self.lock = threading.RLock()
        # Which visits every module several times.
        if any(module.training for module in walk(bridge).values()):
            bridge.eval()
        with self.unread():
            for parameter in bridge.original_model.parameters():
                parameter.requires_grad_(False)
        for block in bridge.blocks:
            block.register_forward_hook(_forget_pattern)
        self._identity = Identity(
            bridge, from_memory=in_memory, elsewhere=elsewhere, answered=answered
        )
        self._found: OrderedDict[Hashable, dict[Hashable, Any]] = OrderedDict()

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.n_layers} layers, {self.n_heads} heads, "
            f"d_model {self.d_model}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    def _repr_html_(self) -> str:
        heads = f"{self.n_heads:,}"
        if self.n_key_value_heads != self.n_heads:
            heads += f", of keys and values {self.n_key_value_heads:,}"
        rows = [
            ("layers", f"{self.n_layers:,}"),
            ("heads", heads),
            ("d_model", f"{self.d_model:,}"),
            ("parameters", f"{self.n_parameters:,}"),
            ("dtype", str(self.dtype).removeprefix("torch.")),
            ("device", str(self.device)),
            ("fingerprint", self._fingerprint_shown()),
        ]
        return picture(f"Model {cut(self.name)}", (), rows)

    def _fingerprint_shown(self) -> str:
        """The fingerprint of a small model; a large one is not run only to be shown."""
        if self.n_parameters > _SMALL:
            return "(ask for model.fingerprint)"
        if not self.lock.acquire(blocking=False):
            return "(the model is running)"
        try:
            return self.fingerprint
        except ModelError:
            return "(unknown)"
        finally:
            self.lock.release()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Hooks, locks and what identifies it belong to this object; a copy would share them.
        raise ModelError(
            f"A Model is neither copied nor pickled; load {self.name} again with load_model, or "
            "hand over its name."
        )

    @property
    def name(self) -> str:
        """A short name for labels and file names: the last part of the source."""
        return Path(self.source).name or self.source

    @property
    def n_layers(self) -> int:
        return int(self.bridge.cfg.n_layers)

    @property
    def n_heads(self) -> int:
        return int(self.bridge.cfg.n_heads)

    @property
    def n_key_value_heads(self) -> int:
        """Heads of keys and values: fewer than `n_heads` with grouped-query attention."""
        return int(self.bridge.cfg.n_key_value_heads or self.bridge.cfg.n_heads)

    @property
    def d_model(self) -> int:
        return int(self.bridge.cfg.d_model)

    @property
    def d_vocab(self) -> int:
        return int(self.bridge.cfg.d_vocab)

    @property
    def n_ctx(self) -> int:
        """The longest sequence the model takes, in tokens."""
        return int(self.bridge.cfg.n_ctx)

    @property
    def parallel_blocks(self) -> bool:
        """Whether attention and MLP read the same stream (GPT-NeoX, GPT-J)."""
        return bool(self.bridge.cfg.parallel_attn_mlp)

    @functools.cached_property
    def n_parameters(self) -> int:
        """Numbers in the weights, as Hugging Face counts them."""
        return n_parameters(self.bridge.original_model)

    @functools.cached_property
    def block_bytes(self) -> int:
        """Bytes of the weights of one block (the first)."""
        block = self.bridge.blocks[0].original_component
        with self.unread():
            return sum(p.numel() * p.element_size() for p in block.parameters())

    @functools.cached_property
    def mlp_widths(self) -> tuple[int, ...]:
        """Neurons of each block's MLP, as its weights have it: configurations may not tell."""
        cfg = self.bridge.cfg
        told = int(cfg.d_mlp or 4 * self.d_model)
        with self.unread():
            blocks = self.bridge.blocks
            return tuple(_inputs(getattr(block, "mlp", None)) or told for block in blocks)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        if self.elsewhere is not None:
            return self.elsewhere.device
        return next(self._parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        with self.unread():
            return next(self._parameters()).dtype

    def unread(self) -> contextlib.AbstractContextManager[None]:
        """Inside, this thread sees weights that lie elsewhere by their shapes, without numbers."""
        return contextlib.nullcontext() if self.elsewhere is None else self.elsewhere.closed()

    def brought(self, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        """A parameter that was found inside `unread`, with its numbers."""
        slot = None if self.elsewhere is None else self.elsewhere.stands_for(parameter)
        if self.elsewhere is None or slot is None:
            return parameter
        return self.elsewhere.lend(slot)

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Weights and saved buffers by Hugging Face's names.

        Those that lie elsewhere are read when they are looked up, each time anew, and on the CPU.
        """
        with self.unread():
            found = canonical_weights(self.bridge.original_model)
        return found if self.elsewhere is None else self.elsewhere.full(found)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that name what the model computes now.

        As long as nobody changes the model these are the hash of its weights and configuration,
        the same wherever it is loaded. Edited weights have their own; what has no name, such as a
        hook or other code, gives one that no other process has.
        """
        return self.look().fingerprint

    @property
    def changes(self) -> tuple[Change, ...]:
        """What the model is beside its weights and configuration: hooks, other code, settings."""
        return self.look().changes

    def look(self) -> Seen:
        """Fingerprint and changes at this moment: a digest of all weights and a short forward pass.

        Raises:
            ModelError: some weights are not in memory.
        """
        with self.lock:
            return self._identity.look(self.bridge)

    def once(self, key: Hashable, trial: Callable[[], T]) -> T:
        """What `trial` finds out about the model, tried once for the model as it is now.

        Another hook, module, setting, code or weight makes it a model that was not tried yet. What
        instruments place for a moment (`interp.forward.hooks`) does not count. Weights changed
        behind PyTorch's back (through `.data` or a NumPy view) show at the next `look`.

        Args:
            key: names the trial.
            trial: runs with the model's lock held; an error is raised on, and not kept.
        """
        with self.lock:
            state = self._identity.state(self.bridge)
            found: dict[Hashable, T] = self._found.setdefault(state, {})
            self._found.move_to_end(state)
            while len(self._found) > _STATES:
                self._found.popitem(last=False)
            if key not in found:
                found[key] = trial()
            return found[key]

    def is_as_built(self) -> bool:
        """Whether nobody has changed anything but weights: no hooks, other modules, or code."""
        with self.lock:
            return self._identity.is_as_built(self.bridge)

    @functools.cached_property
    def tokenizer_fingerprint(self) -> str:
        """32 hexadecimal digits that name what the tokenizer makes of texts."""
        return tokenizer_fingerprint(self.tokenizer)

    def activation_source(self) -> ActivationSource:
        """What `cache.ActivationStore` asks a model for."""
        return self._activation_source(self)

    @property
    def identity(self) -> dict[str, str]:
        """What every result notes of the model that it was measured on."""
        return {
            "model": self.name,
            "fingerprint": self.fingerprint,
            "obverse_version": _version(),
        }

    @property
    def prepends_bos(self) -> bool:
        """Whether prompts given as text start with the BOS token (TransformerLens' default)."""
        return bool(self.bridge.cfg.default_prepend_bos) and self.tokenizer.bos_token_id is not None

    def encode(
        self, texts: Sequence[str], *, what: str = "texts", check: bool = True
    ) -> list[tuple[list[int], Offsets | None]]:
        """For each text its token ids and the characters (start, end) of each token.

        BOS comes first where the model's prompts start with it; it stands at (0, 0). Offsets are
        None for tokenizers that cannot tell them (the slow, Python ones).

        Args:
            what: what to call the texts in an error.
            check: whether all that the texts hold must be known to the tokenizer.

        Raises:
            PromptError: a text holds what the tokenizer does not know, or leaves out.
        """
        vocabulary.check_unicode(texts, what)
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        try:
            encoded = self.tokenizer(
                list(texts), add_special_tokens=False, return_offsets_mapping=fast, truncation=False
            )
        except Exception as error:  # tokenizers raises bare ones for a word without a token
            raise vocabulary.unreadable(self.tokenizer, self.name, texts, what) from error
        offsets = encoded["offset_mapping"] if fast else [None] * len(texts)
        found = list(zip(encoded["input_ids"], offsets, strict=True))
        if check:
            vocabulary.check_known(self.tokenizer, self.name, texts, found, what)
        bos = [int(self.tokenizer.bos_token_id)] if self.prepends_bos else []
        before = [(0, 0)] * len(bos)
        return [
            ([*bos, *ids], None if spans is None else [*before, *spans]) for ids, spans in found
        ]

    def token_ids(self, text: str) -> list[int]:
        """The token ids of one text, as `encode` gives them."""
        return self.encode([text])[0][0]

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as running text, without special tokens."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def token_strings(self, ids: list[int]) -> list[str]:
        """Each token as text, with its leading space where it has one."""
        return [_visible_token(self.tokenizer, i) for i in ids]

    def memory_per_row(self, length: int) -> int:
        """Bytes that one sequence of `length` tokens takes at the peak of one block (estimate).

        Residual streams, and whichever is more: the attention's scores (with mask, biases and
        softmax), or the MLP's inner activations (a gelu written out takes five), in each expert
        that is asked, beside the pattern that the block still holds.
        """
        cfg = self.bridge.cfg
        scores = self.n_heads * length
        experts = max(1, int(getattr(cfg, "experts_per_token", None) or 1))
        neurons = experts * max(self.mlp_widths)
        width = 8 * self.d_model + max(5 * scores, 5 * neurons + 2 * scores)
        return length * width * self.dtype.itemsize

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        parameters: Iterator[torch.nn.Parameter] = self.bridge.original_model.parameters()
        return parameters


@functools.cache
def _version() -> str:
    return version("obverse")


def _forget_pattern(block: Any, _args: object, _output: object) -> None:
    # Where queries, keys and values are one matrix, TransformerLens keeps the last pattern of every
    # layer [row, head, position, position]: more than all else that a sweep holds.
    if getattr(getattr(block, "attn", None), "_pattern", None) is not None:
        block.attn._pattern = None


def _inputs(mlp: Any) -> int | None:
    """What the last matrix of an MLP multiplies, where there is one such matrix."""
    matrix = getattr(getattr(mlp, "out", None), "original_component", None)
    if isinstance(matrix, torch.nn.Linear):
        return matrix.in_features
    if type(matrix).__name__ == "Conv1D":  # GPT-2's holds its matrix the other way round
        return int(cast(torch.nn.Module, matrix).get_parameter("weight").shape[0])
    return None


def _visible_token(tokenizer: Any, token_id: int) -> str:
    # Decoding one id alone drops the word-start mark of SentencePiece ("▁is" → "is").
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    raw = tokenizer.convert_ids_to_tokens(token_id)
    starts_word = isinstance(raw, str) and raw.startswith("▁") and not text.startswith(" ")
    return f" {text}" if starts_word else text
