"""Quasi-Newton descent on all problems of all sites at once.

The features are read by matrix–matrix products that serve every problem. Each problem has its own
limited-memory history (Liu & Nocedal 1989) on top of a preconditioner that all share (see
`probes.solver.basis`), and its own step, whose length costs no further product: along a line, the
objective needs only the linear predictors at its start and their change. Solved problems leave.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.solver.basis import Basis
from probes.solver.line import Line, good, residual, search, slopes
from probes.solver.problems import Problems, Solution
from probes.solver.workspace import Workspace

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
    start: Float[Tensor, "site problem column axis"] | None = None,
    workspace: Workspace | None = None,
) -> Solution:
    """Minimise Σ weight · −log p(label) + l2/2 · |coefficients|² for every site and problem.

    Args:
        basis: features of the sites.
        problems: what to solve on each.
        tol: a problem is solved when no entry of the mean loss' gradient exceeds this.
        max_iter: most steps of a problem.
        start: weights to start from; zero if left out.
        workspace: memory to use again.
    """
    with torch.no_grad():
        state = _Descent(basis, problems, start, workspace or Workspace())
        for step in range(max_iter + 1):
            if not state.go_on(tol, step, last=step == max_iter):
                break
            state.step(look=step < _CURVATURE_STEPS)
    return state.solution


class _Descent:
    """Where all unsolved problems are. Shapes: [site, problem, column, axis or example]."""

    def __init__(
        self, basis: Basis, problems: Problems, start: Tensor | None, work: Workspace
    ) -> None:
        x = basis.features
        sites, n, axes = x.shape
        count, columns = len(problems), problems.columns
        self.basis, self.work, self.x = basis, work, x
        self.spread = max(1, columns - 1)
        self.kept = torch.arange(count, device=x.device)
        weights = problems.weights.to(x)
        self.counted = work.take("counted", (count, 1, n), x)
        self.counted.copy_(weights[:, None])
        self.negated = work.take("negated", (count, columns, n), x)
        for column in range(columns):
            of_class = 1 if columns == 1 else column
            torch.mul(weights, problems.labels == of_class, out=self.negated[:, column])
        self.negated.neg_()
        self.total = weights.sum(1)
        largest = float((basis.spectrum.amax() / n).sqrt())
        self.visible = _ROUNDING * float(torch.finfo(x.dtype).eps) * largest
        l2 = problems.l2.to(x).expand(sites, count)
        self.l2 = l2[..., None, None].repeat(1, 1, 1, axes)
        self.l2[..., -1] = 0
        self.w = x.new_zeros(sites, count, columns, axes) if start is None else start.clone()
        self.z = work.take("z", (sites, count, columns, n), x)
        if start is None:
            self.z.zero_()
        else:
            self._predict(self.w, self.z)
        self.curvature = x.new_full((sites, count, 1, 1), 1 / problems.n_classes)
        if columns == 1:
            self.curvature.fill_(0.25)
        self.r = residual(self.z, self.counted, self.negated, work.take("r", self.z.shape, x))
        self.gradient = self._gradient()
        self.past: list[tuple[Tensor, Tensor, Tensor]] = []
        self.solved = torch.zeros(sites, count, dtype=torch.bool, device=x.device)
        self.solution = Solution(
            self.w.clone(),
            x.new_full((sites, count), torch.inf),
            torch.zeros(sites, count, dtype=torch.long, device=x.device),
        )

    def go_on(self, tol: float, step: int, *, last: bool) -> bool:
        """Note and drop what is solved; whether anything is left to do."""
        tol = max(tol, self.visible)
        flat = self.gradient.flatten(1, 2)
        norm = flat.norm(dim=-1).view(*self.solved.shape, -1).amax(-1) / self.total
        # The largest entry takes a product; no vector's is below its norm over √axes.
        if last or float(norm.min()) <= tol * flat.shape[-1] ** 0.5:
            largest = self.basis.largest_gradient(flat)
            norm = largest.view(*self.solved.shape, -1).amax(-1) / self.total
        newly = (norm <= tol) & ~self.solved
        self.solved |= newly
        open_ = ~self.solved.all(0)
        left = int(open_.sum())
        self.solution.iterations[:, self.kept] += (~self.solved).long() * (not last)
        if left and left > _LEFT * len(self.kept) and not last:
            return True
        self.solution.weights[:, self.kept] = self.w
        self.solution.gradient[:, self.kept] = norm
        if not left or last:
            return False
        self._keep(open_.nonzero()[:, 0])
        return True

    def step(self, *, look: bool) -> None:
        """Move every unsolved problem along its own direction by its own length."""
        direction = self._direction()
        penalised = self.l2 * direction
        slope = slopes(self.gradient, direction)
        bend = slopes(self.w, penalised), slopes(direction, penalised)
        zp = self.work.take("zp", self.z.shape, self.z)
        self._predict(direction, zp)
        z = self.work.take("spare", self.z.shape, self.z)
        torch.add(self.z, zp, out=z)
        residual(z, self.counted, self.negated, self.r)
        length = self._lengths(z, zp, slopes(self.r, zp) + bend[0] + bend[1], slope, bend)
        self.work.swap("spare", "z")
        self.z = z
        move = direction * length[..., None, None]
        self.w += move
        gradient = self._gradient()
        change = gradient - self.gradient
        curvature = slopes(move, change)
        inverse = torch.where(curvature > 0, 1 / curvature, 0.0)[..., None, None]
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
        length[self.solved] = 0
        mended = (length == 0) | ~good(end, start)
        site, problem = mended.nonzero(as_tuple=True)
        if not len(site):
            return length
        at = site, problem
        line = Line(
            self.z[at],
            zp[at],
            self.counted[problem],
            self.negated[problem],
            start[at],
            (bend[0][at], bend[1][at]),
        )
        frozen = self.solved[at]
        found, new_z, new_r = search(line, frozen)
        z[at], self.r[at], length[at] = new_z, new_r, found
        return length

    def _direction(self) -> Tensor:
        """Minus the preconditioned gradient, corrected by the history (the two-loop recursion)."""
        q = self.gradient.clone()
        shares = []
        for move, change, inverse in reversed(self.past):
            share = slopes(move, q)[..., None, None] * inverse
            q.addcmul_(change, share, value=-1)
            shares.append(share)
        q = self._precondition(q)
        if self.past:
            move, change, inverse = self.past[-1]
            bent = slopes(change, self._precondition(change))[..., None, None] * inverse
            q /= torch.where(bent > 0, bent, 1.0)
        for (move, change, inverse), share in zip(self.past, reversed(shares), strict=True):
            q.addcmul_(move, share - slopes(change, q)[..., None, None] * inverse)
        return q.neg_()

    def _precondition(self, gradient: Tensor) -> Tensor:
        curvature = self.curvature * (self.total / self.x.shape[1])[:, None, None]
        spread = (-1, -1, gradient.shape[2], -1)
        flat = self.basis.precondition(
            gradient.flatten(1, 2),
            curvature.expand(spread).flatten(1, 2),
            self.l2.expand(spread).flatten(1, 2),
        )
        return flat.view(gradient.shape)

    def _predict(self, weights: Tensor, out: Tensor) -> None:
        torch.matmul(weights.flatten(1, 2), self.x.mT, out=out.flatten(1, 2))

    def _gradient(self) -> Tensor:
        return (self.r.flatten(1, 2) @ self.x).view(self.w.shape).addcmul_(self.l2, self.w)

    def _look(self) -> None:
        """The loss' mean curvature p(1 - p) where the problems are now."""
        p = self.work.take("zp", self.z.shape, self.z)
        if self.z.shape[2] == 1:
            torch.sigmoid(self.z, out=p)
        else:
            torch.softmax(self.z, -2, out=p)
        p.addcmul_(p, p, value=-1)
        mean = (p * self.counted).sum((-2, -1)) / (self.total * self.spread)
        self.curvature = mean.clamp(min=1e-6)[..., None, None]

    def _keep(self, kept: Tensor) -> None:
        self.kept, self.total = self.kept[kept], self.total[kept]
        self.l2, self.w, self.gradient, self.curvature, self.solved = (
            value[:, kept]
            for value in (self.l2, self.w, self.gradient, self.curvature, self.solved)
        )
        self.past = [tuple(value[:, kept] for value in of) for of in self.past]  # type: ignore[misc]
        self.z = self.work.select("z", self.z, 1, kept)
        self.r = self.work.select("r", self.r, 1, kept)
        self.counted = self.work.select("counted", self.counted, 0, kept)
        self.negated = self.work.select("negated", self.negated, 0, kept)
