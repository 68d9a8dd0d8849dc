"""A block of which a few positions of each row are run, and nothing else is laid out.

Position by position a block does the same anywhere, so that its norms and MLP are run on these
positions as if they were a text of their own. What its attention does is told here, from the
queries, keys and values of the recorded run and those of the positions that are run: head outputs
there, and by how much those of all other positions move the metric, to first order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.forward.access import Change, changing
from interp.forward.attending import Compared, at_positions, attending
from interp.forward.passes import TOLERANCE, Recording, record, relative_error, resume
from interp.model.model import Model
from interp.sites import Site

# Of a softmax, relative to what it was: below, what is left of it is rounding.
_LEAST = 1e-11


@dataclass(frozen=True)
class Run:
    """The positions of each row that are run.

    Attributes:
        position: their places in the text, the first one again where a row has fewer [row, run].
        index: for each place in the text which of them it is, -1 where it is not run [row, place].
        own: for each of them which of them it is, the first one for those that are it again.
    """

    position: Int[Tensor, "row run"]
    index: Int[Tensor, "row position"]
    own: Int[Tensor, "row run"]

    @classmethod
    def of(cls, active: Bool[Tensor, "row position"]) -> Run:
        count = active.sum(1, keepdim=True)
        most = max(1, int(count.max()))
        # Those that are run come first, in the order of the text.
        order = active.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
        number = torch.arange(most, device=active.device)
        own = torch.where(number < count, number, 0)
        index = torch.where(active, active.int().cumsum(1) - 1, -1)
        return cls(order.gather(1, own), index, own)

    def first(self, n: int) -> Run:
        return Run(self.position[:n], self.index[:n], self.own[:n])

    def scatter(self, values: Float[Tensor, "row run width"], full: Tensor) -> Tensor:
        """Write what was computed into `full`, in place."""
        row = torch.arange(len(full), device=full.device)[:, None]
        full[row, self.position] = values[row, self.own]
        return full

    def gather(self, full: Float[Tensor, "row position width"]) -> Float[Tensor, "row run width"]:
        """What stands at these positions, of the first rows."""
        index = self.position[: len(full), :, None]
        return full.gather(1, index.expand(-1, -1, full.shape[-1]))


@dataclass(frozen=True)
class Attended:
    """What a block's attention did in the recorded run.

    Attributes:
        base: what it compared, in float32 or more, by example.
        bias: what was added to scaled products of queries and keys: masks, slopes.
        scale, cap: what products were multiplied with, and softly capped at.
    """

    base: Compared
    bias: Float[Tensor, "example head destination source"]
    scale: float
    cap: float | None

    @classmethod
    def of(cls, model: Model, recording: Recording, layer: int) -> Attended:
        """
        Raises:
            KeyError: the attention does not show what it compares.
        """
        stream = recording[Site("resid_pre", layer)]
        rows = torch.arange(len(stream), device=stream.device)
        with attending(model, layer) as seen:
            resume(model, recording, stream, rows, start=layer, stop=layer + 1)
        found = seen[-1]
        base = Compared(*map(_exact, (found.q, found.k, found.v, found.scores)))
        attention = model.bridge.blocks[layer].attn.original_component
        scale = getattr(attention, "scaling", None)
        cap = getattr(attention, "attn_logit_softcapping", None)
        scale = base.q.shape[-1] ** -0.5 if scale is None else float(scale)
        products = _capped(base.q @ base.k.transpose(-1, -2) * scale, cap)
        hidden = base.scores <= torch.finfo(found.scores.dtype).min / 2
        bias = torch.where(hidden, base.scores, base.scores - products)
        return cls(base, bias, scale, cap)

    def products(self, q: Tensor, k: Tensor) -> Tensor:
        return _capped(q @ k.transpose(-1, -2) * self.scale, self.cap)

    def heads(self, now: Compared, run: Run, example: Tensor) -> Tensor:
        """What heads put out at the positions that are run [row, run, head, d_head]."""
        now = _with_own(now, run)
        out = torch.empty_like(now.q)
        for one, mine in _by_example(example):
            position, q = run.position[mine], now.q[mine]
            bias = self.bias[one][:, position].movedim(1, 0)  # [row, head, run, source]
            there = position[:, None, None, :].expand(*bias.shape[:3], -1)
            before = self.products(q, self.base.k[one]) + bias
            here = self.products(q, now.k[mine]) + bias.gather(-1, there)
            before = before.scatter(-1, there, -torch.inf)
            again = run.own[mine] != torch.arange(run.own.shape[1], device=q.device)
            here = here.masked_fill(again[:, None, None, :], -torch.inf)
            pattern = torch.cat([before, here], -1).softmax(-1)
            n = before.shape[-1]
            out[mine] = pattern[..., :n] @ self.base.v[one] + pattern[..., n:] @ now.v[mine]
        return out.transpose(1, 2)

    def moved(
        self,
        now: Compared,
        run: Run,
        example: Tensor,
        by_z: Float[Tensor, "example position head d_head"],
    ) -> Float[Tensor, " row"]:
        """What attention to these positions moves the metric by at the others, by gradients."""
        now = _with_own(now, run)
        out = torch.zeros(len(example), device=by_z.device, dtype=torch.float64)
        for one, mine in _by_example(example):
            gradient = _exact(by_z[one]).transpose(0, 1)  # [head, position, d_head]
            asked = (gradient != 0).any(-1).any(0)
            asked &= (run.index[mine] < 0).any(0)
            if not bool(asked.any()):
                continue
            gradient, scores = gradient[:, asked], self.base.scores[one][:, asked]
            worth = gradient @ self.base.v[one].transpose(-1, -2)  # [head, destination, source]
            # Of what a softmax leaves out, the rest is what it was: told in double precision, the
            # difference is exact enough where little is left.
            all_of_it = scores.double().logsumexp(-1, keepdim=True)
            pattern = (scores.double() - all_of_it).exp()
            was = (pattern * worth).sum(-1, keepdim=True)
            there = run.position[mine][:, None, None, :].expand(-1, *scores.shape[:2], -1)
            own = run.own[mine] == torch.arange(run.own.shape[1], device=asked.device)
            own = own[:, None, None, :]

            def at(value: Tensor, there: Tensor = there) -> Tensor:
                return value.expand(len(there), *value.shape).gather(-1, there)

            old = at(pattern) * own
            new = self.products(self.base.q[one][:, asked], now.k[mine])
            told = new + at(self.bias[one][:, asked])
            new = (told.double() - all_of_it).masked_fill(~own, -torch.inf)
            pays = gradient @ now.v[mine].transpose(-1, -2)
            top = new.amax(-1, keepdim=True).clamp(min=0)
            new, rest = (new - top).exp(), (-top).exp()
            left = rest * (1 - old.sum(-1, keepdim=True)).clamp(min=0)
            total = left + new.sum(-1, keepdim=True)
            paid = rest * (was - (old * at(worth)).sum(-1, keepdim=True))
            change = (paid + (new * pays).sum(-1, keepdim=True)) / total - was
            elsewhere = (run.index[mine][:, asked] < 0)[:, None, :, None]
            change = torch.where(elsewhere, change, 0.0)
            row, head, query, _ = (elsewhere & ~(total > _LEAST)).nonzero(as_tuple=True)
            if len(row):  # nothing is left, so that the rest is summed up anew
                at_row = there[row, head, query]
                anew = scores[head, query].scatter(-1, at_row, told[row, head, query])
                pay = worth[head, query].scatter(-1, at_row, pays[row, head, query])
                found = (anew.softmax(-1) * pay).sum(-1) - was[head, query, 0]
                change[row, head, query, 0] = found
            out[mine] = change.flatten(1).sum(1)
        return out.float()


def through(
    model: Model,
    recording: Recording,
    layer: int,
    hidden: Float[Tensor, "row run d_model"],
    run: Run,
    example: Int[Tensor, " row"],
    attended: Attended,
    by_z: Float[Tensor, "example position head d_head"],
    changes: Sequence[tuple[Site, Change]] = (),
) -> tuple[Float[Tensor, "row run d_model"], Float[Tensor, " row"]]:
    """The positions that are run out of the block, and what moves the metric elsewhere.

    Args:
        changes: made inside of the block, to activations of the positions that are run.
    """
    moved: list[Tensor] = []

    def instead(compared: Compared) -> Tensor:
        now = Compared(*map(_exact, (compared.q, compared.k, compared.v, compared.scores)))
        moved.append(attended.moved(now, run, example, by_z))
        return attended.heads(now, run, example)

    length = run.index.shape[1]
    args, kwargs = at_positions(
        recording.calls[layer], example, recording.batch, run.position, length
    )
    with model.lock, torch.no_grad(), contextlib.ExitStack() as stack:
        stack.enter_context(changing(model, changes))
        stack.enter_context(attending(model, layer, instead))
        output = model.bridge.blocks[layer](hidden, *args, **kwargs)
    return output[0] if isinstance(output, tuple) else output, moved[-1]


def is_compact(model: Model, ids: Int[Tensor, "example position"]) -> bool:
    """Whether blocks can be run so; tried once, on the first prompt."""
    if ids.shape[1] < 4:
        return False  # nothing to try it on
    return model.once("runs few positions", lambda: _is_compact(model, ids[:1]))


def _is_compact(model: Model, ids: Int[Tensor, "1 position"]) -> bool:
    layers, length = range(model.n_layers), ids.shape[1]
    sites = [Site(name, layer) for name in ("resid_pre", "z") for layer in layers]
    recording = record(model, ids, sites)
    row = torch.zeros(1, dtype=torch.long, device=model.device)
    active = torch.zeros(1, length, dtype=torch.bool, device=model.device)
    active[:, [length // 2 - 1, length - 1]] = True
    run = Run.of(active)
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        stream = recording[Site("resid_pre", layer)].clone()
        # Another token's stream, as a patch would put it there.
        stream[:, length // 2 - 1] = stream[:, length - 2]
        z = recording[Site("z", layer)]
        by_z = torch.randn(z.shape, generator=generator).to(z)
        try:
            attended = Attended.of(model, recording, layer)
            with attending(model, layer) as seen:
                theirs = resume(model, recording, stream, row, start=layer, stop=layer + 1)
            pattern = _exact(seen[-1].scores).softmax(-1)
            new = (pattern @ _exact(seen[-1].v)).transpose(1, 2)
            expected = ((new - _exact(z)) * _exact(by_z) * ~active[..., None, None]).sum()
            ours, moved = through(
                model, recording, layer, run.gather(stream), run, row, attended, by_z
            )
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return False
        scale = float((_exact(z) * _exact(by_z)).norm()) or 1.0
        if not relative_error(ours, run.gather(theirs)) <= TOLERANCE[model.dtype]:
            return False
        if not abs(float(moved[0]) - float(expected)) <= TOLERANCE[model.dtype] * scale:
            return False
    return True


def _by_example(example: Tensor) -> list[tuple[int, Tensor]]:
    """The rows of each example."""
    return [(one, (example == one).nonzero()[:, 0]) for one in sorted(set(example.tolist()))]


def _with_own(now: Compared, run: Run) -> Compared:
    """Positions that stand for the first one again have its keys and values."""
    index = run.own[:, None, :, None].expand(-1, now.k.shape[1], -1, now.k.shape[3])
    return Compared(now.q, now.k.gather(2, index), now.v.gather(2, index), now.scores)


def _exact(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _capped(scores: Tensor, cap: float | None) -> Tensor:
    return scores if cap is None else cap * torch.tanh(scores / cap)
