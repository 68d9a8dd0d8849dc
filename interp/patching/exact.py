"""Exact activation patching (Vig et al. 2020; Meng et al. 2022), many cells in one pass.

The prompts are run once each. Then the stack of blocks is walked once with a batch that grows:
cells patched at layer l join it just before block l, in the state that the unpatched run had
there, so that nothing below a patch is computed again, nor anything before its position. The
unembedding is applied only where the metric reads. The numbers are those of one full forward
pass for each cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.batching import batches, rows_that_fit
from interp.errors import SiteError
from interp.forward import Recording, packs, readout, record, recording_memory
from interp.metrics import Metric, get_metric
from interp.model import Model
from interp.patching.cells import By, check_by, check_layers, lay_out
from interp.patching.results import label
from interp.patching.sources import Source, constants
from interp.patching.walk import RUNS, Direction, Plan, walk
from interp.prompts import PromptPairs, Reading, Run
from interp.sites import Site
from interp.tokens import Prompts

Progress = Callable[[int, int], None]
Scores = npt.NDArray[np.float32]


def sweep(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric | str = "logit_diff",
    *,
    by: By | Sequence[By] | None = None,
    direction: Direction | None = None,
    source: Source = "other",
    reference: Prompts | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Replace one activation at a time and read the metric.

    Args:
        model: the model.
        pairs: clean and corrupted prompts with answers.
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z".
        metric: what to read, or its name.
        by: one cell for each "position" (the default of sites without heads), "span", "head" (all
            positions together; the default of sites with heads), or ("head", "position").
        direction: "denoising" (the default) puts clean activations into the corrupted run,
            "noising" corrupted ones into the clean run. With another source, the run that is
            changed: the corrupted one, or the clean one (the default there).
        source: what is put in: the "other" run's activation, "zero", the "mean" over the tokens of
            the `reference` prompts, or a value for each layer: {layer: [d_model]}, or [head,
            d_head] at sites with heads.
        reference: prompts for the mean.
        layers, heads: the ones to patch; all if left out.
        positions: the positions to patch, by number, label ("subject -1") or span ("subject");
            all if left out.
        batch_size: rows in one pass; from a memory estimate if left out. The result does not
            depend on it beyond rounding.
        progress: called with (cells done, cells in all).

    Returns:
        patched(example, layer, position | span | head): the raw metric after each patch, NaN where
        an example has no token; clean(example) and corrupt(example): the metric of the unpatched
        runs. Coordinates name tokens, prompts and answers. Where two prompts of a pair are of
        unequal length, tokens without a counterpart are never replaced; nor are those of a
        continuation that the metric forces after the prompt.

    Raises:
        SiteError: unknown or missing site, layer or head out of range, no heads there.
        PromptError: position out of range, or the metric needs foils that are not given.
        MetricError: there is no such metric.
    """
    axes = check_by(site, by)
    chosen = check_layers(model, site, layers)
    metric = get_metric(metric)
    direction = direction or ("denoising" if source == "other" else "noising")
    if direction not in RUNS:
        raise SiteError(f"Unknown direction '{direction}'; choose 'denoising' or 'noising'.")
    cells = lay_out(model, pairs.alignment, site, axes, len(pairs), positions, heads)
    replacement = constants(model, site, chosen, source, reference)
    total = len(cells) * len(chosen) * len(metric.reads)
    patched = np.zeros((len(cells), len(chosen)), dtype=np.float32)
    unpatched: dict[Run, Scores] = {
        "clean": np.zeros(len(pairs), np.float32),
        "corrupt": np.zeros(len(pairs), np.float32),
    }
    for number, read in enumerate(metric.reads):
        base, other = (pairs.reading(run, read) for run in RUNS[direction])
        terms = tuple((term, metric.targets(pairs, term)) for term in metric.terms_of(read))
        plan = Plan(
            model=model,
            pairs=pairs,
            site=site,
            layers=chosen,
            cells=cells,
            terms=terms,
            direction=direction,
            batch_size=batch_size,
            base=base,
            source=other,
            constants=replacement,
        )
        before = number * len(cells) * len(chosen)
        scores, unpatched_scores = _run(plan, _from(progress, before, total))
        patched += scores
        for run, value in unpatched_scores.items():
            unpatched[run] += value
    grid = cells.to_grid(patched, len(pairs))
    result = label(model, pairs, site, metric, direction, cells, chosen, grid, unpatched)
    return result.assign_attrs(source=source if isinstance(source, str) else "given")


def _run(plan: Plan, progress: Callable[[int], None]) -> tuple[Scores, dict[Run, Scores]]:
    """Patched scores [cell, layer] and unpatched ones [example], summed over the terms."""
    model, pairs = plan.model, plan.pairs
    last = Site("resid_post", model.n_layers - 1)
    patched = np.zeros((len(plan.cells), len(plan.layers)), dtype=np.float32)
    unpatched: dict[Run, list[Scores]] = {"clean": [], "corrupt": []}
    base_sites = {plan.entry(layer)[0] for layer in plan.layers}
    source_sites = {Site(plan.site, layer) for layer in plan.layers}
    packable = packs(model, plan.base.ids)

    def record_both(start: int, stop: int) -> tuple[Recording, Recording]:
        return (
            record(model, plan.base.ids[start:stop], base_sites | {last}, for_packing=packable),
            record(model, plan.source.ids[start:stop], source_sites | {last}),
        )

    # Keys and values of every block are kept as well, of the run that is changed.
    per_pair = 2 * recording_memory(model, plan.length, len(plan.layers) + 1 + model.n_layers)
    size = rows_that_fit(model, per_pair)
    for start, stop, recordings in batches(len(pairs), size, record_both):
        for run, reading, recording in zip(
            RUNS[plan.direction], (plan.base, plan.source), recordings, strict=True
        ):
            scores = _score(plan, recording[last], reading, np.arange(start, stop))
            unpatched[run].append(scores)
        cells = plan.cells
        mine = np.nonzero((cells.example >= start) & (cells.example < stop))[0]
        for first, beyond, scores in _patch(plan, recordings, mine, start):
            patched[mine[first:beyond]] = scores
            progress((int(mine[0]) + beyond) * len(plan.layers))
    return patched, {run: np.concatenate(parts) for run, parts in unpatched.items()}


def _patch(
    plan: Plan,
    recordings: tuple[Recording, Recording],
    mine: npt.NDArray[np.int64],
    offset: int,
) -> Iterator[tuple[int, int, Scores]]:
    """Scores [cell, layer] of the cells `mine`, batch by batch, which start at example `offset`."""
    model = plan.model

    def work(first: int, beyond: int) -> Scores:
        chosen = mine[first:beyond]
        examples = plan.cells.example[chosen]
        hidden = walk(plan, recordings, plan.edit(chosen, offset), examples - offset, offset)
        scores = _score(plan, hidden, plan.base, np.tile(examples, len(plan.layers)))
        return scores.reshape(len(plan.layers), -1).T

    rows = plan.batch_size or rows_that_fit(model, model.memory_per_row(plan.length))
    return batches(len(mine), max(1, rows // len(plan.layers)), work)


def _score(
    plan: Plan,
    hidden: Float[Tensor, "row position d_model"],
    reading: Reading,
    examples: npt.NDArray[np.int64],
) -> Scores:
    """The sum of the terms for each row; `examples` are the pairs that the rows belong to."""
    model = plan.model
    example = torch.from_numpy(examples)
    # A score of the prompt reads its last token, which is the first read.
    n_reads = max(targets.shape[1] for _, targets in plan.terms)
    positions = reading.positions[example][:, :n_reads].to(model.device)
    read = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
    wanted = [(term, targets[example].to(model.device)) for term, targets in plan.terms]

    def work(start: int, stop: int) -> Scores:
        logits = readout(model, read[start:stop])
        total = torch.zeros(stop - start, device=logits.device)
        for term, targets in wanted:
            total += term.weight * term.score(logits, targets[start:stop])
        return np.asarray(total.cpu().numpy(), dtype=np.float32)

    size = rows_that_fit(model, 3 * n_reads * model.d_vocab * 4)
    return np.concatenate([scores for _, _, scores in batches(len(read), size, work)])


def _from(progress: Progress | None, before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(before + done, total) if progress else None
