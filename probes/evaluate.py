"""What fitted problems answer on the examples they were not fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes.design import CONTROL, TRUE, Design
from probes.solver import Basis, Problems, Solution, Workspace, solve

# Linear predictors of problems that are solved together, in bytes.
_SMALL, _LARGE = 2 << 20, 128 << 20


@dataclass(frozen=True)
class Held:
    """Held-out answers of one batch of sites.

    Attributes:
        right: 1 where the answer is right.
        bits: -log2 of the label's probability.
    """

    right: Tensor
    bits: Tensor


@dataclass(frozen=True)
class Findings:
    """What a report keeps of each site; the first axis is always the site.

    Attributes:
        l2: penalties of the path [site, strength].
        path: held-out answers [site, true or control, strength, example].
        chosen: index of the strength with the least held-out loss [site].
        chosen_folds: the same for each fold, judged by the other folds only
            [site, true or control, fold].
        null: held-out answers to shuffled labels [site, null, example].
        area: under the ROC curve, held out, at the middle strength: of the true labels, and then
            of the shuffled ones [site, 1 + null].
        resampled: accuracy on the groups that were not drawn [site, bootstrap].
        cosine: of a resample's coefficients and those of all examples [site, bootstrap].
        code: bits of the online code [site, true or control].
        coef, intercept: of the probe of all examples at the chosen strength.
        gradient, iterations: of all problems [site, problem].
    """

    l2: Tensor
    path: Held
    chosen: Tensor
    chosen_folds: Tensor
    null: Held
    area: Tensor
    resampled: Tensor
    cosine: Tensor
    code: Tensor
    coef: Tensor
    intercept: Tensor
    gradient: Tensor
    iterations: Tensor


def sites_at_once(design: Design, example_bytes: int, n_columns: int, device: str) -> int:
    """How many sites to solve together: enough that each step is worth its overhead."""
    budget = _SMALL if device == "cpu" else _LARGE * 8
    each = design.n_problems * n_columns * len(design.labels) * example_bytes
    return max(1, budget // each)


def find(basis: Basis, design: Design, tol: float, max_iter: int, work: Workspace) -> Findings:
    """Solve all problems of a batch of sites, and test them."""
    x = basis.features
    sites = len(x)
    scale = basis.variance
    path = design.path(scale)
    solved = _solve(basis, path, tol, max_iter, work)
    weights = solved.weights.reshape(sites, *design.path_shape, *solved.weights.shape[2:])
    labels = torch.as_tensor(design.labels.codes, device=x.device)
    control = torch.as_tensor(design.control, device=x.device)
    nulls = torch.as_tensor(design.nulls, device=x.device)
    z = _by_fold(x, weights[:, :, :, :-1], design)
    held = answers(z, torch.stack([labels, control])[:, None])
    area = ranked(z[:, TRUE, design.middle, None], labels[None], design)
    fold_of = torch.as_tensor(design.fold_of, device=x.device)
    by_fold = torch.zeros(sites, 2, len(design.strengths), design.folds, dtype=torch.float64)
    by_fold = by_fold.to(x.device).index_add_(3, fold_of, held.bits.double())
    total = by_fold.sum(3)
    chosen = total[:, TRUE].argmin(1)
    # A fold's own loss has no say in the strength that it is judged by.
    chosen_folds = (total[..., None] - by_fold).argmin(2)
    l2 = scale[:, None] * torch.tensor(design.strengths).to(scale)
    rest = design.rest(l2[:, design.middle], l2.gather(1, chosen[:, None])[:, 0])
    others = _solve(basis, rest, tol, max_iter, work)
    each = torch.arange(sites, device=x.device)
    whole = weights[each, TRUE, chosen, -1]
    coef, intercept = basis.coefficients(whole)
    first = len(design.nulls) * design.folds
    second = first + len(design.resamples)
    shuffled = others.weights[:, :first]
    shape = sites, len(design.nulls), design.folds, *shuffled.shape[2:]
    z = _by_fold(x, shuffled.reshape(shape), design)
    resampled, cosine = _resampled(x, others.weights[:, first:second], whole, design)
    return Findings(
        l2,
        held,
        chosen,
        chosen_folds,
        answers(z, nulls),
        torch.cat([area, ranked(z, nulls, design)], 1),
        resampled,
        cosine,
        _code(x, others.weights[:, second:], design),
        coef,
        intercept,
        torch.cat([solved.gradient, others.gradient], 1),
        torch.cat([solved.iterations, others.iterations], 1),
    )


def answers(z: Float[Tensor, "*batch column example"], labels: Tensor) -> Held:
    """Right or wrong, and how many bits the labels [*batch, example] cost."""
    if z.shape[-2] == 1:
        flat = z[..., 0, :]
        sign = 2 * labels.to(z) - 1
        bits = torch.nn.functional.softplus(-sign * flat) / math.log(2)
        return Held(((flat > 0) == (labels > 0)).to(z), bits)
    log_p = torch.log_softmax(z, -2).movedim(-2, -1)
    index = labels.expand(log_p.shape[:-1])
    bits = -log_p.gather(-1, index[..., None])[..., 0] / math.log(2)
    return Held((z.argmax(-2) == index).to(z), bits)


def ranked(
    z: Float[Tensor, "site batch column example"], labels: Tensor, design: Design
) -> Float[Tensor, "site batch"]:
    """The area under the ROC curve, held out: of each class against the others, and averaged.

    Ranks are taken inside of folds, in which labels are shuffled, so that neither the strength of
    conviction nor what one fold says on the whole counts; 1/2 is chance (Mann & Whitney 1947).

    Args:
        labels: [batch, example].
    """
    n_classes, binary = design.labels.n_classes, z.shape[-2] == 1
    # Of two classes, one area is the other's.
    scores = z if binary else torch.log_softmax(z, -2)
    won = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
    pairs = torch.zeros(z.shape[1], dtype=torch.float64, device=z.device)
    for fold in range(design.folds):
        tested = torch.as_tensor(design.fold_of == fold, device=z.device)
        of_fold, index = scores[..., tested].contiguous(), labels[:, tested]
        ordered = of_fold.sort(-1).values
        # Half of the ties count as won.
        below = torch.searchsorted(ordered, of_fold)
        above = torch.searchsorted(ordered, of_fold, right=True)
        rank = (below + above).double() / 2
        member = torch.nn.functional.one_hot(index, n_classes).mT.to(rank)
        member = member[:, 1:] if binary else member
        size = member.sum(-1)
        won += (rank * member).sum((-2, -1)) - (size**2).sum(-1) / 2
        pairs += (size * (index.shape[1] - size)).sum(-1)
    return won / pairs.clamp(min=1)


def _solve(
    basis: Basis, problems: Problems, tol: float, max_iter: int, work: Workspace
) -> Solution:
    """In one go, or in pieces where there are too many examples and classes for that."""
    x = basis.features
    each = len(x) * problems.columns * x.shape[1] * x.element_size()
    size = max(1, _LARGE * (1 if x.device.type == "cpu" else 8) // each)
    parts = [
        solve(
            basis,
            Problems(
                problems.labels[i : i + size],
                problems.weights[i : i + size],
                problems.l2[:, i : i + size],
                problems.n_classes,
            ),
            tol=tol,
            max_iter=max_iter,
            workspace=work,
        )
        for i in range(0, len(problems), size)
    ]
    if len(parts) == 1:
        return parts[0]
    return Solution(
        torch.cat([part.weights for part in parts], 1),
        torch.cat([part.gradient for part in parts], 1),
        torch.cat([part.iterations for part in parts], 1),
    )


def _by_fold(
    x: Float[Tensor, "site example axis"],
    weights: Float[Tensor, "site *batch fold column axis"],
    design: Design,
) -> Float[Tensor, "site *batch column example"]:
    """Linear predictors, fold by fold: only those of the examples that a fold left out."""
    sites, *batch, _, columns, _ = weights.shape
    z = x.new_empty(sites, *batch, columns, x.shape[1])
    for fold in range(design.folds):
        tested = torch.as_tensor(design.fold_of == fold, device=x.device)
        inner = weights[..., fold, :, :].reshape(sites, -1, weights.shape[-1])
        z[..., tested] = (inner @ x[:, tested].mT).view(sites, *batch, columns, -1)
    return z


def _resampled(x: Tensor, weights: Tensor, whole: Tensor, design: Design) -> tuple[Tensor, Tensor]:
    labels = torch.as_tensor(design.labels.codes, device=x.device)
    z = (weights.flatten(1, 2) @ x.mT).view(*weights.shape[:3], -1)
    left_out = torch.as_tensor(design.resamples == 0, device=x.device).to(x)
    right = answers(z, labels).right * left_out
    # Rotations keep angles; the intercept has none.
    first, second = weights[..., :-1].flatten(2), whole[:, None, :, :-1].flatten(2)
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=2, eps=1e-30)
    return right.sum(2) / left_out.sum(1), cosine


def _code(x: Tensor, weights: Tensor, design: Design) -> Tensor:
    """Length of the online code in bits [site, true or control]: each block by the probe of all
    before it, the first by a uniform code, and the choice of the strength."""
    blocks = len(design.ends) - 1
    labels = [
        torch.as_tensor(codes, device=x.device) for codes in (design.labels.codes, design.control)
    ]
    n_classes = design.labels.n_classes
    told = design.ends[0] * math.log2(n_classes) + math.log2(len(design.strengths))
    total = torch.full((len(x), 2), told, dtype=torch.float64, device=x.device)
    grouped = weights.reshape(len(x), 2, blocks, *weights.shape[2:])
    for block in range(blocks):
        some = torch.as_tensor(design.order[design.ends[block] : design.ends[block + 1]])
        some = some.to(x.device)
        for kind in (TRUE, CONTROL):
            z = grouped[:, kind, block] @ x[:, some].mT
            total[:, kind] += answers(z, labels[kind][some]).bits.double().sum(1)
    return total
