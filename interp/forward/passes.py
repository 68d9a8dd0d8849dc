"""The hooked forward passes that everything else is made of.

`observe` runs prompts as far as needed and keeps activations; `record` runs them to the end and
keeps what each block was called with too; `resume` goes on from any block with other rows in the
residual stream. Whether a model can be resumed is tried on the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from cache.arguments import typed
from interp.errors import ModelError, first_sentence
from interp.forward import packing
from interp.forward.calls import Gives, what_blocks_give
from interp.forward.packing import Active
from interp.forward.recording import (
    TOLERANCE,
    Recording,
    embedded,
    observe,
    readout,
    recorded,
    recording_memory,
    relative_error,
    resume,
)
from interp.model.identity.structure import hooks, walk
from interp.model.memory import batches, is_out_of_memory
from interp.model.model import Model
from interp.model.vocabulary import quoted
from interp.sites import Site

__all__ = [
    "TOLERANCE",
    "Recording",
    "check_resumable",
    "embedded",
    "no_numbers",
    "observe",
    "packs",
    "readout",
    "record",
    "recorded",
    "recording_memory",
    "relative_error",
    "resume",
]

# Positions at which the logits of a resumed run are compared: the last, which depend on the others.
_CHECKED = 16


@typed
def record(
    model: Model,
    ids: Int[Tensor, "example position"],
    sites: Iterable[Site],
    *,
    for_packing: bool = False,
    queries: bool = False,
    past: bool = False,
) -> Recording:
    """Run `ids` once and keep what `resume` needs, and the activations at `sites`.

    With `for_packing`, keys and values are kept too, and with `queries` these as well (see
    `interp.forward.packing`); with `past`, keys and values as they are compared (see
    `interp.forward.windows`).

    No gradients are recorded. The first call on a model checks, on the first two prompts, that
    resuming and reading out reproduce the model's logits, and refuses the model otherwise.

    Raises:
        ModelError: this architecture cannot be resumed exactly.
        SiteError: the model has no such site.
    """
    check_resumable(model, ids)
    return recorded(model, ids, sites, for_packing=for_packing, queries=queries, past=past)[0]


def packs(model: Model, ids: Int[Tensor, "example position"]) -> bool:
    """Whether `resume` with a span gives this model's numbers; tried once, on the first prompt.

    Everything outside of the span is zeroed for the trial, so that an architecture in which
    something else than the recorded keys and values reads it cannot pass.
    """
    if ids.shape[1] < 2:
        return False  # nothing to try it on

    if model.elsewhere is not None and _may_pack(model):
        check_resumable(model, ids)  # which tries this too, on the way

    def trial() -> bool:
        # One piece of one prompt, so that it is told where not even this fits into memory.
        return next(batches(1, 1, lambda *_: _packs(model, ids[:1])))[-1]

    return model.once("packs", trial)


def _may_pack(model: Model) -> bool:
    if not all(packing.can_pack(block) for block in model.bridge.blocks):
        return False
    # Hooks of others were written for whole activations.
    return all(hook.momentary for hook in hooks(walk(model.bridge)))


def _packs(model: Model, ids: Int[Tensor, "1 position"]) -> bool:
    if not _may_pack(model):
        return False
    entry, exit_ = Site("resid_pre", 0), Site("resid_post", model.n_layers - 1)
    recording = record(model, ids, [entry, exit_], for_packing=True)
    stream, row, span = _half(recording[entry])
    try:
        ours = resume(model, recording, stream, row, start=0, span=span)[:, -1]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError):
        return False
    return relative_error(ours, recording[exit_][:, -1]) <= TOLERANCE[model.dtype]


def _half(stream: Tensor) -> tuple[Tensor, Tensor, tuple[Active, Active]]:
    """The stream of a first row without what lies before a span, that row, and the span."""
    row = torch.zeros(1, dtype=torch.long, device=stream.device)
    length = stream.shape[1]
    changed = Active.between(row + length // 2, row + length - 1, length)
    read = Active.between(row + length - 1, row + length - 1, length)
    stream = stream[:1].clone()
    stream[:, : length // 2] = 0
    return stream, row, (changed, read)


def check_resumable(model: Model, ids: Int[Tensor, "example position"]) -> Gives | None:
    """See that resuming reproduces the logits; tried once, on the first two prompts.

    Returns:
        What its blocks give, if what they are called with can be found without running them.

    Raises:
        ModelError: it does not.
    """
    return model.once("resumes", lambda: _check_resumes(model, ids))


def _check_resumes(model: Model, ids: Int[Tensor, "example position"]) -> Gives | None:
    # Where blocks are not in memory, all that is to be tried is tried while they are.
    also = model.elsewhere is not None and ids.shape[1] > 1 and _may_pack(model)
    trial = _Trial(model, also)
    recording, logits = recorded(
        model, ids[:2], (), for_packing=also, whole=True, then=trial.pass_block
    )
    assert logits is not None
    sound = logits.amax(-1).isfinite().all(1)
    if not bool(sound.all()):
        row = ids[int((~sound).cpu().nonzero()[0])][None]
        text = model.decode(row[0].tolist())
        raise no_numbers(model, text, lambda sites: observe(model, row, sites))
    try:
        ours = readout(model, trial.resumed()[1:, -_CHECKED:])
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        raise ModelError(
            f"{model.name} cannot be resumed block by block ({first_sentence(error)}); choose "
            "another architecture, such as GPT-2 or Llama."
        ) from error
    found = relative_error(ours, logits[:1, -_CHECKED:].float())
    if not found <= TOLERANCE[model.dtype]:
        raise ModelError(
            f"Resuming {model.name} block by block does not reproduce its own logits (relative "
            f"error {found:.2g}); its architecture computes something between the blocks, so no "
            "patch on it would be exact."
        )
    packs = trial.packs()
    if packs is not None:
        model.once("packs", lambda: packs)
    return what_blocks_give(model, ids[:2], trial.entry, recording.calls)


class _Trial:
    """A run that is resumed while it is recorded: each block is run again when it has been run.

    Args:
        also_packed: whether its first row is resumed with a span as well.

    Attributes:
        entry: the stream into the first block [example, position, d_model].
    """

    def __init__(self, model: Model, also_packed: bool) -> None:
        self._model = model
        # Two rows, since arguments made for one example can look as if they were made for the
        # batch.
        self._rows = torch.zeros(2, dtype=torch.long, device=model.device)
        self._stream = self._packed = self._out = self.entry = torch.empty(0)
        self._failed: Exception | None = None
        self._packs: bool | None = True if also_packed else None

    def pass_block(self, so_far: Recording, into: Tensor, out: Tensor) -> None:
        layer = len(so_far.calls) - 1
        if layer == 0:
            self.entry, self._stream = into, into.index_select(0, self._rows)
        if self._failed is None:
            try:
                self._stream = self._through(so_far, self._stream, self._rows)
            except Exception as error:  # told when it is known whether the run itself is sound
                self._failed = error
        if self._packs:
            stream, row, span = _half(into if layer == 0 else self.entry)
            try:
                self._packed = self._through(
                    so_far, stream if layer == 0 else self._packed, row, span
                )
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
                full = isinstance(error, RuntimeError) and is_out_of_memory(error)
                self._packs = None if full else False
        self._out = out

    def _through(
        self,
        so_far: Recording,
        stream: Tensor,
        rows: Tensor,
        span: tuple[Active, Active] | None = None,
    ) -> Tensor:
        layer = len(so_far.calls) - 1
        return resume(self._model, so_far, stream, rows, start=layer, stop=layer + 1, span=span)

    def resumed(self) -> Tensor:
        """The stream out of the last block, of the first example twice; or what went wrong."""
        if self._failed is not None:
            raise self._failed
        return self._stream

    def packs(self) -> bool | None:
        """Whether the numbers of a span are those of the run; None if it was not tried."""
        if not self._packs:
            return self._packs
        ours, theirs = self._packed[:, -1], self._out[:1, -1]
        return relative_error(ours, theirs) <= TOLERANCE[self._model.dtype]


def no_numbers(
    model: Model, text: str, run: Callable[[Sequence[Site]], dict[Site, Tensor]]
) -> ModelError:
    """The error for a text after which the logits are infinite or NaN.

    Args:
        run: runs this text alone, and keeps the activations at some sites [1, position, …].
    """
    last = model.n_layers - 1
    streams = {"the embedding": Site("resid_pre", 0)}
    streams |= {f"block {layer}": Site("resid_post", layer) for layer in range(last + 1)}
    kept = run(list(streams.values()))
    finite = {name: bool(torch.isfinite(kept[site]).all()) for name, site in streams.items()}
    where = next((name for name, sound in finite.items() if not sound), "the unembedding")
    advice = (
        "load it in bfloat16 or float32, which hold larger numbers"
        if model.dtype == torch.float16
        else "look at its weights there, and at what is put or added into it"
    )
    return ModelError(
        f"{model.name} has no finite logits after {quoted(text)}: they overflow, or are NaN, from "
        f"{where} on; {advice}."
    )
