"""Quasi-Newton descent on all problems of all sites at once.

The features are read by matrix–matrix products that serve every problem. Each problem has its own
limited-memory history (Liu & Nocedal 1989) on top of a preconditioner that all share (see
`probes.fitting.basis`), and its own step, whose length costs no further product: along a line, the
objective needs only the linear predictors at its start and their change. Solved problems leave.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.fitting.basis import Basis
from probes.fitting.line import Line, good, probabilities, residual, search, vecdot
from probes.fitting.problems import Problems, Solution
from probes.fitting.workspace import Workspace

_HISTORY = 5
# After so many steps the history knows the curvature better than an average does.
_CURVATURE_STEPS = 4
# Gradients below so many units of rounding are noise.
_ROUNDING = 4
# The rest is moved together once no more than this share of the problems is left.
_LEFT = 0.8


def solve(
    basis: Basis,
    problems: Problems,
    *,
    tol: float = 1e-4,
    max_iter: int = 1000,
    trial: tuple[int, float] | None = None,
    start: Float[Tensor, "site problem column axis"] | None = None,
    workspace: Workspace | None = None,
) -> Solution:
    """Minimise Σ weight · −log p(label) + l2/2 · |coefficients|² for every site and problem.

    Args:
        basis: features of the sites.
        problems: what to solve on each.
        tol: a problem is solved when no entry of the mean loss' gradient exceeds this.
        max_iter: most steps of a problem.
        trial: give up after so many steps if any problem's gradient is still larger than that.
        start: weights to start from; zero if left out.
        workspace: memory to use again.
    """
    with torch.no_grad():
        state = _Descent(basis, problems, start, workspace or Workspace())
        for step in range(max_iter + 1):
            given_up = trial is not None and step == trial[0] and state.worst() > trial[1]
            if not state.go_on(tol, last=step == max_iter or given_up):
                break
            state.step(look=step < _CURVATURE_STEPS)
    return state.solution


class _Descent:
    """Where all unsolved problems are.

    Weights and gradients are [site, problem, column · axis], predictors [site, problem, column ·
    example].
    """

    def __init__(
        self, basis: Basis, problems: Problems, start: Tensor | None, work: Workspace
    ) -> None:
        x = basis.features
        sites, n, axes = x.shape
        count, columns = len(problems), problems.columns
        self.basis, self.work, self.x, self.columns = basis, work, x, columns
        weights = problems.weights.to(x)
        self.counted = work.take("counted", (count, columns * n), x)
        self.counted.view(count, columns, n).copy_(weights[:, None])
        self.negated = work.take("negated", (count, columns * n), x)
        for column in range(columns):
            of_class = 1 if columns == 1 else column
            out = self.negated[:, column * n : (column + 1) * n]
            torch.mul(weights, problems.labels == of_class, out=out)
        self.negated.neg_()
        self.total = weights.sum(1)
        self.visible = (
            _ROUNDING * float(torch.finfo(x.dtype).eps) * float((basis.spectrum.amax() / n).sqrt())
        )
        l2 = problems.l2.to(x).expand(sites, count)[..., None].repeat(1, 1, axes)
        l2[..., -1] = 0
        self.l2 = l2.repeat(1, 1, columns)
        shape = sites, count, columns * axes
        self.w = x.new_zeros(shape) if start is None else start.reshape(shape).clone()
        self.z = work.take("z", (sites, count, columns * n), x)
        if start is None:
            self.z.zero_()
        else:
            self._predict(self.w, self.z)
        self.curvature = x.new_full((sites, count), 0.25 if columns == 1 else 1 / columns)
        self.scale = self._scale()
        self.r = work.take("r", self.z.shape, x)
        residual(self.z, self.counted, self.negated, columns, self.r)
        self.gradient = self._gradient()
        self.past: list[tuple[Tensor, Tensor, Tensor]] = []
        self.kept = torch.arange(count, device=x.device)
        self.solved = torch.zeros(sites, count, dtype=torch.bool, device=x.device)
        self.solution = Solution(
            x.new_zeros(sites, count, columns, axes),
            x.new_full((sites, count), torch.inf),
            torch.zeros(sites, count, dtype=torch.long, device=x.device),
        )

    def worst(self) -> float:
        """The largest entry of any problem's mean gradient."""
        return float(self._largest_entries(0.0, everywhere=True).amax())

    def go_on(self, tol: float, *, last: bool) -> bool:
        """Note and drop what is solved; whether anything is left to do."""
        norm = self._largest_entries(max(tol, self.visible), everywhere=last)
        self.solved |= norm <= max(tol, self.visible)
        unsolved = ~self.solved.all(0)
        left = int(unsolved.sum())
        if not last:
            self.solution.iterations[:, self.kept] += ~self.solved
            if left > _LEFT * len(self.kept):
                return True
        shape = *self.solved.shape, self.columns, -1
        self.solution.weights[:, self.kept] = self.w.view(shape)
        self.solution.gradient[:, self.kept] = norm
        if not left or last:
            return False
        self._keep(unsolved.nonzero()[:, 0])
        return True

    def step(self, *, look: bool) -> None:
        """Move every unsolved problem along its own direction by its own length."""
        direction = self._direction()
        penalised = self.l2 * direction
        slope = vecdot(self.gradient, direction)
        bend = vecdot(self.w, penalised), vecdot(direction, penalised)
        zp = self.work.take("zp", self.z.shape, self.z)
        self._predict(direction, zp)
        z = self.work.take("spare", self.z.shape, self.z)
        torch.add(self.z, zp, out=z)
        residual(z, self.counted, self.negated, self.columns, self.r)
        length = self._lengths(z, zp, vecdot(self.r, zp) + bend[0] + bend[1], slope, bend)
        self.work.swap("spare", "z")
        self.z = z
        move = direction.mul_(length[..., None])
        self.w += move
        gradient = self._gradient()
        change = gradient - self.gradient
        bent = vecdot(move, change)
        inverse = torch.where(bent > 0, 1 / bent, 0.0)
        self.past = [*self.past, (move, change, inverse)][-_HISTORY:]
        self.gradient = gradient
        if look:
            self._look()

    def _lengths(
        self,
        z: Tensor,
        zp: Tensor,
        end: Tensor,
        start: Tensor,
        bend: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Step lengths: 1 where that is good; z and r are mended where it is not."""
        length = torch.ones_like(end)
        site, problem = (self.solved | ~good(end, start)).nonzero(as_tuple=True)
        if not len(site):
            return length
        at = site, problem
        line = Line(
            self.z[at],
            zp[at],
            self.counted[problem],
            self.negated[problem],
            self.columns,
            start[at],
            (bend[0][at], bend[1][at]),
        )
        length[at], z[at], self.r[at] = search(line, self.solved[at])
        return length

    def _direction(self) -> Tensor:
        """Minus the preconditioned gradient, corrected by the history (the two-loop recursion)."""
        q = self.gradient.clone()
        shares = []
        for move, change, inverse in reversed(self.past):
            share = (vecdot(move, q) * inverse)[..., None]
            q.addcmul_(change, share, value=-1)
            shares.append(share)
        q = self._precondition(q)
        if self.past:
            _, change, inverse = self.past[-1]
            bent = vecdot(change, self._precondition(change)) * inverse
            q /= torch.where(bent > 0, bent, 1.0)[..., None]
        for (move, change, inverse), share in zip(self.past, reversed(shares), strict=True):
            q.addcmul_(move, share - (vecdot(change, q) * inverse)[..., None])
        return q.neg_()

    def _precondition(self, gradient: Tensor) -> Tensor:
        if self.scale is not None:
            return gradient * self.scale
        return self.basis.solve(self._by_column(gradient)).view(gradient.shape)

    def _scale(self) -> Tensor | None:
        """One over the diagonal of the Hessian in the basis' axes; None where that is no use."""
        if self.basis.factor is not None:
            return None
        share = self.curvature * (self.total / self.x.shape[1])
        diagonal = share[..., None] * self.basis.spectrum.repeat(1, 1, self.columns)
        return 1 / diagonal.add_(self.l2).add_(1e-30)

    def _predict(self, weights: Tensor, out: Tensor) -> None:
        by_column = out.view(len(out), -1, self.x.shape[1])
        torch.matmul(self._by_column(weights), self.x.mT, out=by_column)

    def _gradient(self) -> Tensor:
        gradient: Tensor = self.r.view(len(self.r), -1, self.x.shape[1]) @ self.x
        return gradient.view(self.w.shape).addcmul_(self.l2, self.w)

    def _by_column(self, weights: Tensor) -> Tensor:
        return weights.view(len(weights), -1, self.x.shape[2])

    def _largest_entries(self, tol: float, *, everywhere: bool) -> Tensor:
        """Of each problem's mean gradient, or for those far from solved its norm."""
        norm = self.gradient.norm(dim=-1)
        # The largest entry takes a product. It is seldom much below twice the norm over √entries,
        # and where it is, a step more does no harm.
        near = (norm <= tol / 2 * self.gradient.shape[-1] ** 0.5 * self.total).any(0)
        some = (near | everywhere).nonzero()[:, 0]
        if len(some):
            gradient = self._by_column(self.gradient[:, some])
            largest = self.basis.largest_gradient(gradient)
            norm[:, some] = largest.view(len(norm), len(some), -1).amax(-1)
        largest_or_norm: Tensor = norm / self.total
        return largest_or_norm

    def _look(self) -> None:
        """The loss' mean curvature p(1 - p) where the problems are now."""
        p = self.work.take("zp", self.z.shape, self.z)
        probabilities(self.z, self.columns, p)
        p.addcmul_(p, p, value=-1)
        mean = vecdot(p, self.counted) / (self.total * max(1, self.columns - 1))
        self.curvature = mean.clamp(min=1e-6)
        self.scale = self._scale()

    def _keep(self, kept: Tensor) -> None:
        self.kept, self.total = self.kept[kept], self.total[kept]
        self.l2, self.w, self.gradient, self.curvature, self.solved = (
            value[:, kept]
            for value in (self.l2, self.w, self.gradient, self.curvature, self.solved)
        )
        self.scale = None if self.scale is None else self.scale[:, kept]
        self.past = [(a[:, kept], b[:, kept], c[:, kept]) for a, b, c in self.past]
        self.z = self.work.select("z", self.z, 1, kept)
        self.r = self.work.select("r", self.r, 1, kept)
        self.counted = self.work.select("counted", self.counted, 0, kept)
        self.negated = self.work.select("negated", self.negated, 0, kept)
