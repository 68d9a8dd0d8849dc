"""Changes made to activations while a model reads or writes: add, ablate, clamp, silence, replace.

An `Intervention` is a plain value. `capture`, `logits` and `generate` take any number of them, and
`applied` keeps them in place for whatever else runs the model.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp import sites as site_names
from interp.errors import DirectionError, PromptError, SiteError
from interp.forward.access import Change, Points, changing
from interp.forward.trials import editable
from interp.model.model import Model
from interp.prompts.masks import Positions, TokenMask, fixed_mask, token_mask
from interp.sites import Site

Kind = Literal["add", "ablate", "clamp", "silence", "replace", "swap"]
Sites = str | Site | Iterable[str | Site]
Vector = Float[Tensor, "..."] | npt.ArrayLike


@typed
@dataclass(frozen=True, eq=False)
class Intervention:
    """One change of an activation x, with d the direction and u = d/|d|.

    Attributes:
        kind: "add": x + amount · d; "ablate": x − (x·u) u; "clamp": x − (x·u) u + amount · u;
            "silence": 0; "replace": what is given; "swap": see `Exchange`.
        sites: where; a name without a layer ("resid_post") is every layer.
        direction: of the shape that one token has at the site: [d_model], [d_head] at one head,
            [head, d_head] at all; None for "silence", "replace" and "swap".
        amount: the dose of "add", in lengths of d; the coordinate of "clamp", in the activation's
            unit.
        positions: "all"; "prompt", "last" (of the prompt) or "generated" (what comes after it);
            token numbers, negative ones from the prompt's end; or a mask [example, position]. In
            patterns they are the destinations.
        vectors: of "replace": one of the shape of a direction for all examples, or one for each
            [example, …].
    """

    kind: Kind
    sites: tuple[str | Site, ...]
    direction: Tensor | None = None
    amount: float = 0.0
    positions: Positions = "all"
    vectors: Tensor | None = None

    @classmethod
    def add(
        cls, direction: Vector, sites: Sites, dose: float = 1.0, *, positions: Positions = "all"
    ) -> Intervention:
        """Add `dose` times the direction (Turner et al. 2023)."""
        return cls._along("add", direction, sites, dose, positions)

    @classmethod
    def ablate(
        cls, direction: Vector, sites: Sites, *, positions: Positions = "all"
    ) -> Intervention:
        """Project the direction out (Arditi et al. 2024)."""
        return cls._along("ablate", direction, sites, 0.0, positions)

    @classmethod
    def clamp(
        cls, direction: Vector, sites: Sites, value: float, *, positions: Positions = "all"
    ) -> Intervention:
        """Set the coordinate along the direction to `value`, whatever it was."""
        return cls._along("clamp", direction, sites, value, positions)

    @classmethod
    def silence(cls, sites: Sites, *, positions: Positions = "all") -> Intervention:
        """Set whole activations to zero: "z.1.h2" takes a head out."""
        return cls("silence", _listed(sites), positions=positions)

    @classmethod
    def replace(cls, vectors: Vector, sites: Sites, *, positions: Positions) -> Intervention:
        """Put these vectors there instead, whatever stood there.

        Args:
            vectors: [d_model] for all examples or [example, d_model]; at one head [d_head] or
                [example, d_head], at all heads [head, d_head] or [example, head, d_head]. Every
                token that is named gets its example's.
            sites: as for the other kinds.
            positions: must be said; "all" includes what is written later.

        Raises:
            DirectionError: they are no finite numbers.
        """
        return cls(
            "replace",
            _listed(sites),
            positions=positions,
            vectors=_finite(vectors, "What is put in must be a vector"),
        )

    def changed(
        self, value: Tensor, examples: Tensor | None, positions: Tensor | None = None
    ) -> Tensor:
        """What becomes of an activation [row, …], were it changed at all of its tokens.

        Args:
            examples: the numbers of its rows' prompts; None where they are not known.
            positions: where its tokens stand in their texts [row, token]; from 0 on if left out.
        """
        return _changed(self, value, examples)

    @classmethod
    def _along(
        cls, kind: Kind, direction: Vector, sites: Sites, amount: float, positions: Positions
    ) -> Intervention:
        vector = as_direction(direction)
        if not math.isfinite(amount):
            raise DirectionError(f"A dose of {amount} has no effect that could be computed.")
        return cls(kind, _listed(sites), vector, float(amount), positions)


def as_direction(direction: Vector) -> Tensor:
    """A direction as a float32 tensor on the CPU.

    Raises:
        DirectionError: it is zero, or not finite.
    """
    vector = _finite(direction, "A direction must be a vector").float()
    if not bool(torch.isfinite(vector).all()):
        raise DirectionError("A direction is kept in float32, which cannot hold so large numbers.")
    if not bool(vector.any()):
        raise DirectionError("A direction of length zero points nowhere; give another vector.")
    return vector


def _finite(given: Vector, what: str) -> Tensor:
    """A copy on the CPU, in the numbers' own precision."""
    try:
        values = torch.as_tensor(given).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DirectionError(f"{what} of numbers.") from error
    if values.ndim == 0 or values.is_complex() or not bool(torch.isfinite(values).all()):
        raise DirectionError(f"{what} of finite numbers.")
    return values if values.is_floating_point() else values.float()


@dataclass(frozen=True)
class Plan:
    """Interventions as they will be made on a model that reads certain prompts.

    Attributes:
        edits: each a site, its intervention, and the tokens that it changes (None for all).
        points: the hook points of these sites, found on the model as it was.
    """

    model: Model
    edits: tuple[tuple[Site, Intervention, TokenMask | None], ...]
    points: Points

    @contextlib.contextmanager
    def placed(
        self,
        examples: Int[Tensor, " row"],
        positions: Int[Tensor, "row token"] | None = None,
    ) -> Iterator[None]:
        """Inside, the model is run on these examples only, and its activations are changed.

        Args:
            positions: where the tokens that it reads stand in their texts; from 0 on if left out.
        """
        changes = [
            (site, _edit(site, change, tokens, examples, positions))
            for site, change, tokens in self.edits
            if tokens is None or positions is None or tokens.holds(examples, positions)
        ]
        with changing(self.model, changes, points=self.points):
            yield

    def renewed(self) -> Plan:
        """The same, with sites looked up and tried again, for a model that was changed.

        Raises:
            SiteError: the model has no such site any more, or drops edits there.
        """
        return replace(self, points=editable(self.model, [site for site, *_ in self.edits]))


def plan(
    model: Model,
    interventions: Intervention | Iterable[Intervention],
    lengths: Int[Tensor, " example"],
    *,
    written: bool = False,
) -> Plan:
    """Check interventions against a model and the lengths of its prompts.

    Args:
        written: whether something may follow the prompts.

    Raises:
        SiteError: the model has no such site, or drops edits there.
        DirectionError: a direction or vector does not have the site's shape, or there is not one
            vector for each prompt.
        PromptError: positions that a prompt does not have.
    """
    edits = []
    points: dict[Site, Any] = {}
    for change in _several(interventions):
        if not written and isinstance(change.positions, str) and change.positions == "generated":
            raise PromptError(
                "Nothing is generated here, so an intervention there would do nothing; choose "
                "positions of the prompt."
            )
        tokens = token_mask(change.positions, lengths)
        found = _checked(model, change, len(lengths))
        edits += [(site, change, tokens) for site in found]
        points |= found
    return Plan(model, tuple(edits), points)


@typed
@contextlib.contextmanager
def applied(model: Model, *interventions: Intervention) -> Iterator[None]:
    """Inside, everything that runs the model sees it changed.

    The hooks are taken away at the end, whatever happens, and no other thread gets the model
    meanwhile. Positions are counted from the left here, because the prompts are not known.

    Raises:
        PromptError: positions that need to know where a prompt ends.
        SiteError, DirectionError: as for `plan`; also vectors for each example.
    """
    changes = []
    for change in interventions:
        tokens = fixed_mask(change.positions)
        changes += [
            (site, _edit(site, change, tokens, None, None))
            for site in _checked(model, change, None)
        ]
    with changing(model, changes, momentary=False):
        yield


def _several(interventions: Intervention | Iterable[Intervention]) -> list[Intervention]:
    if isinstance(interventions, Intervention):
        return [interventions]
    return list(interventions)


def _listed(sites: Sites) -> tuple[str | Site, ...]:
    return (sites,) if isinstance(sites, str | Site) else tuple(sites)


def _checked(model: Model, change: Intervention, n_examples: int | None) -> Points:
    found = editable(model, site_names.named(model, change.sites))
    if not found:
        raise SiteError("An intervention without a site does nothing; name one, or leave it out.")
    if change.direction is None and change.vectors is None:
        return found
    for site in found:
        if not site.kind.steerable:
            raise DirectionError(
                f"{site.kind.plural} are no vectors that a direction could be added to; silence "
                "them, or steer 'z' instead."
            )
        shape = site_names.shape_at(model, site.name)[0 if site.head is None else 1 :]
        if change.direction is not None and tuple(change.direction.shape) != shape:
            raise DirectionError(
                f"A direction of shape {tuple(change.direction.shape)} does not fit '{site}' of "
                f"{model.name}, where a token has the shape {shape}."
            )
        if change.direction is not None:
            along = change.direction if change.kind == "add" else _unit(change.direction)
            if not bool(torch.isfinite((change.amount * along).to(model.dtype)).all()):
                raise DirectionError(
                    f"A dose of {change.amount} along this direction is too large for "
                    f"{model.name}, which computes in {str(model.dtype).removeprefix('torch.')}; "
                    "give a smaller one."
                )
        if change.vectors is not None:
            _check_vectors(model, site, change.vectors, shape, n_examples)
    return found


def _check_vectors(
    model: Model, site: Site, vectors: Tensor, shape: tuple[int, ...], n_examples: int | None
) -> None:
    given = tuple(vectors.shape)
    if given != shape and given[1:] != shape:
        raise DirectionError(
            f"Vectors of shape {given} do not fit '{site}' of {model.name}, where a token has the "
            f"shape {shape}; give one of it for all examples, or one for each."
        )
    if not bool(torch.isfinite(vectors.to(model.dtype)).all()):
        raise DirectionError(
            f"Some of the vectors are too large for {model.name}, which computes in "
            f"{str(model.dtype).removeprefix('torch.')}; scale them down."
        )
    if given == shape:
        return
    if n_examples is None:
        raise DirectionError(
            "Which example a row belongs to is not known here; pass an intervention with a vector "
            "for each example to capture, logits or generate, or give one vector for all."
        )
    if given[0] != n_examples:
        raise DirectionError(f"There are {given[0]} vectors for {n_examples} examples.")


def _edit(
    site: Site,
    change: Intervention,
    tokens: TokenMask | None,
    examples: Tensor | None,
    positions: Tensor | None,
) -> Change:
    def edit(value: Tensor) -> Tensor:
        out = value.clone()
        part = out if site.head is None else out.select(site.kind.head_axis, site.head)
        new = change.changed(part, examples, positions)
        if tokens is not None:
            # In patterns the tokens are those that attend.
            mask = tokens.at(examples, part, site.token_axes[0], positions)
            new = torch.where(mask, new, part)
        part.copy_(new)
        return out

    return edit


def _unit(direction: Tensor) -> Tensor:
    scaled: Tensor = direction / direction.abs().max()  # its squares neither overflow nor vanish
    unit: Tensor = scaled / scaled.norm()
    return unit


def _changed(change: Intervention, value: Tensor, examples: Tensor | None) -> Tensor:
    if change.vectors is not None:
        given = change.vectors
        if given.ndim == value.ndim - 1:  # one for each example, for all of its tokens
            assert examples is not None
            given = given[examples.cpu()][:, None]
        return given.to(value.device, value.dtype).expand_as(value)
    if change.direction is None:
        return torch.zeros_like(value)
    direction = change.direction.to(value.device)
    exact = value if value.dtype == torch.float64 else value.float()
    if change.kind == "add":
        return (exact + change.amount * direction).to(value.dtype)
    unit = _unit(direction)
    axes = tuple(range(value.ndim - unit.ndim, value.ndim))
    along = (exact * unit).sum(axes, keepdim=True)
    target = change.amount if change.kind == "clamp" else 0.0
    changed: Tensor = exact + (target - along) * unit
    return changed.to(value.dtype)
