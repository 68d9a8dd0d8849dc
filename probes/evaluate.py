"""What fitted problems answer on the examples they were not fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.controls.design import TRUE, Design
from probes.fitting import Basis, Problems, Solution, Workspace, solve
from probes.labels import Codes

# Linear predictors of problems that are solved together, in bytes.
SMALL, LARGE = 2 << 20, 128 << 20


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
        chosen: index of the strength with the least held-out loss [site, true or control].
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
    budget = SMALL if device == "cpu" else LARGE * 8
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
    folds = torch.as_tensor(design.fold_of, device=x.device)[None]
    area = ranked(z[:, TRUE, design.middle, None], labels[None], folds, design.labels.n_classes)
    fold_of = torch.as_tensor(design.fold_of, device=x.device)
    by_fold = torch.zeros(sites, 2, len(design.strengths), design.folds, dtype=torch.float64)
    by_fold = by_fold.to(x.device).index_add_(3, fold_of, held.bits.double())
    total = by_fold.sum(3)
    chosen = total.argmin(2)
    # A fold's own loss has no say in the strength that it is judged by.
    chosen_folds = (total[..., None] - by_fold).argmin(2)
    l2 = scale[:, None] * torch.tensor(design.strengths).to(scale)
    rest = design.rest(l2[:, design.middle], *l2.gather(1, chosen).unbind(1))
    others = _solve(basis, rest, tol, max_iter, work)
    each = torch.arange(sites, device=x.device)
    whole = weights[each, TRUE, chosen[:, TRUE], -1]
    coef, intercept = basis.coefficients(whole)
    first = len(design.nulls) * design.folds
    second = first + len(design.resamples)
    shuffled = others.weights[:, :first]
    shape = sites, len(design.nulls), design.folds, *shuffled.shape[2:]
    z = _with_nulls(x, shuffled.reshape(shape), design)
    null_folds = torch.as_tensor(design.null_folds, device=x.device)
    resampled, cosine = _resampled(x, others.weights[:, first:second], whole, design)
    return Findings(
        l2,
        held,
        chosen,
        chosen_folds,
        answers(z, nulls),
        torch.cat([area, ranked(z, nulls, null_folds, design.labels.n_classes)], 1),
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
    z: Float[Tensor, "site batch column example"],
    labels: Int[Tensor, "batch example"],
    folds: Int[Tensor, "batch example"],
    n_classes: int,
) -> Float[Tensor, "site batch"]:
    """The area under the ROC curve, held out: of each class against the others, and averaged.

    Ranks are taken inside of folds, so that neither the strength of conviction nor what one fold
    says on the whole counts; 1/2 is chance (Mann & Whitney 1947).
    """
    binary, n = z.shape[-2] == 1, z.shape[-1]
    # Of two classes, one area is the other's.
    scores = z if binary else torch.log_softmax(z, -2)
    value, order = scores.sort(-1)
    higher = torch.zeros_like(order)
    higher[..., 1:] = (value[..., 1:] > value[..., :-1]).cumsum(-1)
    # Places among all examples, ties in one, and folds one after another.
    place = torch.empty_like(order).scatter_(-1, order, higher) + n * folds[:, None]
    ordered = place.sort(-1).values
    below = torch.searchsorted(ordered, place)
    above = torch.searchsorted(ordered, place, right=True)
    in_fold = torch.nn.functional.one_hot(folds).double()
    sizes = in_fold.sum(1)
    before = (in_fold @ (sizes.cumsum(1) - sizes)[..., None])[..., 0]
    # Half of the ties count as won.
    rank = (below + above).double() / 2 - before[:, None]
    member = torch.nn.functional.one_hot(labels, n_classes).mT.double()
    member = member[:, 1:] if binary else member
    size = member @ in_fold
    won = (rank * member).sum((-2, -1)) - (size**2).sum((-2, -1)) / 2
    pairs = (size * (sizes[:, None] - size)).sum((-2, -1))
    return won / pairs.clamp(min=1)


def _solve(
    basis: Basis, problems: Problems, tol: float, max_iter: int, work: Workspace
) -> Solution:
    """In one go, or in pieces where there are too many examples and classes for that."""
    x = basis.features
    each = len(x) * problems.columns * x.shape[1] * x.element_size()
    size = max(1, LARGE * (1 if x.device.type == "cpu" else 8) // each)
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
        found = (inner @ x[:, tested].mT).view(sites, *batch, columns, -1)
        for kind, codes in enumerate((design.labels.codes, design.control)):
            complete(found[:, kind], design.counts(codes, design.fold_of != fold))
        z[..., tested] = found
    return z


def _with_nulls(
    x: Float[Tensor, "site example axis"],
    weights: Float[Tensor, "site null fold column axis"],
    design: Design,
) -> Float[Tensor, "site null column example"]:
    """The same for shuffled labels, each of which have folds of their own."""
    sites, n_nulls, n_folds, columns, _ = weights.shape
    z = x.new_empty(sites, n_nulls, columns, x.shape[1])
    for null, (codes, folds) in enumerate(zip(design.nulls, design.null_folds, strict=True)):
        everywhere = (weights[:, null].flatten(1, 2) @ x.mT).view(sites, n_folds, columns, -1)
        for fold in range(n_folds):
            complete(everywhere[:, fold], design.counts(codes, folds != fold))
        index = torch.as_tensor(folds, device=x.device).expand(sites, 1, columns, -1)
        z[:, null] = everywhere.gather(1, index)[:, 0]
    return z


def complete(z: Float[Tensor, "*batch column example"], counts: Codes) -> None:
    """Mend predictors of a probe that was trained on examples that lack a class.

    Without a penalty on the intercept its probability goes to zero for ever, and where it stops is
    a matter of the tolerance. So classes that were not seen get 1/(examples + classes) each, the
    rule of succession (Laplace 1774), and the others share the rest as the probe says.

    Args:
        z: changed in place.
        counts: how many examples of each class were trained on [class].
    """
    lacking = counts == 0
    if not lacking.any():
        return
    each = 1 / (counts.sum() + len(counts))
    rest = math.log(1 - each * lacking.sum())
    if z.shape[-2] == 1:
        z.fill_((rest - math.log(each)) * (1 if lacking[0] else -1))
        return
    unseen = torch.as_tensor(lacking, device=z.device)
    z[..., unseen, :] = -torch.inf
    z.copy_(torch.log_softmax(z, -2) + rest)
    z[..., unseen, :] = math.log(each)


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
    n_classes = design.labels.n_classes
    told = design.ends[0] * math.log2(n_classes) + math.log2(len(design.strengths))
    total = torch.full((len(x), 2), told, dtype=torch.float64, device=x.device)
    grouped = weights.reshape(len(x), 2, blocks, *weights.shape[2:])
    for block, seen in enumerate(design.prefix_training()):
        some = design.order[design.ends[block] : design.ends[block + 1]]
        for kind, codes in enumerate((design.labels.codes, design.control)):
            z = grouped[:, kind, block] @ x[:, torch.as_tensor(some, device=x.device)].mT
            complete(z, design.counts(codes, seen > 0))
            labels = torch.as_tensor(codes[some], device=x.device)
            total[:, kind] += answers(z, labels).bits.double().sum(1)
    return total
