"""Directions in activation space: found in activations, or drawn at random to compare with.

All take activations as `capture(…, positions="last")` gives them, [example, …], and give vectors of
one token's shape, ready for an `Intervention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import DirectionError
from interp.forward.interventions import Vector, as_direction

Activations = Float[Tensor, "example ..."]


@dataclass(frozen=True)
class Principal:
    """Principal directions of activations.

    Attributes:
        directions: of length 1 and at right angles, the one with most variance first
            [direction, …]; the largest entry of each is positive.
        explained: the share of the variance along each [direction].
        mean: of the activations […].
    """

    directions: Float[Tensor, "direction ..."]
    explained: Float[Tensor, " direction"]
    mean: Tensor


@dataclass(frozen=True)
class Controls:
    """Random directions that vary as activations do within their classes.

    Attributes:
        directions: as long as the direction that they are compared with, at right angles to it
            [draw, …].
        cosine: |cos| of each draw with that direction before it was turned away from it [draw].
        total: the mean |cos| of as many draws that vary as all activations do, classes together.
            Near 1 these would be the direction itself.
    """

    directions: Float[Tensor, "draw ..."]
    cosine: Float[Tensor, " draw"]
    total: float


@typed
def difference_of_means(positive: Activations, negative: Activations) -> Tensor:
    """The mean of one class minus that of another (Marks & Tegmark 2023; Arditi et al. 2024).

    Raises:
        DirectionError: activations of different shapes, none, not finite, or with equal means.
    """
    first, second = _examples(positive), _examples(negative)
    if first.shape[1:] != second.shape[1:]:
        raise DirectionError(
            f"Activations of shapes {tuple(first.shape)} and {tuple(second.shape)} have no "
            "difference; take both from one site and one position each."
        )
    difference = first.mean(0) - second.mean(0)
    if not bool(difference.any()):
        raise DirectionError("Both classes have the same mean, so nothing tells them apart.")
    return difference.float()


@typed
def principal_directions(activations: Activations, n: int = 1) -> Principal:
    """The directions along which activations vary most (principal component analysis).

    Of differences between paired prompts they are those of Zou et al. 2023.

    Args:
        n: how many; at most one less than there are examples.

    Raises:
        DirectionError: too few examples, no variance, or activations that are not finite.
    """
    values = _examples(activations)
    flat = values.flatten(1)
    most = min(len(flat) - 1, flat.shape[1])
    if not 1 <= n <= most:
        raise DirectionError(
            f"{len(flat)} activations have no {n} principal directions; ask for 1 to {most}."
            if most
            else "A single activation has no principal direction; give more examples."
        )
    mean = flat.mean(0)
    _, size, right = torch.linalg.svd(flat - mean, full_matrices=False)
    variance = size.square()
    if not float(variance[n - 1]) > 1e-20 * max(1.0, float(flat.square().sum())):
        raise DirectionError(f"These activations do not vary along {n} directions; ask for fewer.")
    found = right[:n]
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    found = found * largest.sign()
    return Principal(
        found.reshape(n, *values.shape[1:]).float(),
        (variance[:n] / variance.sum()).float(),
        mean.reshape(values.shape[1:]).float(),
    )


@typed
def random_directions(
    like: Vector,
    n: int,
    *,
    seed: Seed = 0,
    activations: Activations | None = None,
    apart: bool = False,
) -> Float[Tensor, "draw ..."]:
    """Random directions as long as another one, to see what any change of that size does.

    Args:
        like: the direction to compare with.
        n: how many.
        seed: of the draws.
        activations: if given, directions vary as these do; otherwise they are equally likely
            everywhere, and mostly point where activations hardly ever go.
        apart: at right angles to the direction. Of the activations, what goes with their
            coordinate along it is left out too: where one concept makes most of their variance,
            directions that vary as they do would be that concept's own.

    Raises:
        DirectionError: no such direction, activations of another shape, or ones that do not vary
            (but along the direction).
    """
    direction = as_direction(like)
    if n < 1:
        raise DirectionError(f"{n} random directions are nothing to compare with; draw more.")
    generator = torch.Generator().manual_seed(seed)
    if activations is None:
        drawn = torch.randn(n, direction.numel(), generator=generator, dtype=torch.float64)
    else:
        values = _examples(activations)
        if values.shape[1:] != direction.shape or len(values) < 2:
            raise DirectionError(
                f"Activations of shape {tuple(values.shape)} say nothing of how directions of "
                f"shape {tuple(direction.shape)} vary; give several of one token each."
            )
        flat = values.flatten(1)
        mixing = torch.randn(n, len(flat), generator=generator, dtype=torch.float64)
        drawn = mixing @ _spread(flat - flat.mean(0), direction, apart)
    if apart:
        unit = (direction.double() / direction.double().norm()).flatten()
        drawn = drawn - (drawn @ unit)[:, None] * unit
    length = drawn.norm(dim=1, keepdim=True)
    if not bool((length > 0).all()):
        raise DirectionError("These activations do not vary, so no direction can be drawn.")
    scaled: Tensor = drawn / length * direction.double().norm()
    return scaled.reshape(n, *direction.shape).float()


@typed
def control_directions(
    like: Vector, classes: Sequence[Activations], n: int, *, seed: Seed = 0
) -> Controls:
    """Random directions with the covariance that activations have within their classes.

    The fairest rivals of a difference of means: where two classes lie far apart most of the total
    variance is that difference, so that directions with the total covariance are nearly the one
    that is tested (`Controls.total` says how nearly).

    Args:
        like: the direction to compare with.
        classes: the activations of each class [example, …], two or more examples each.
        n: how many.
        seed: of the draws.

    Raises:
        DirectionError: no such direction, activations of another shape, or classes that do not
            vary but along the direction.
    """
    direction = as_direction(like)
    if n < 1:
        raise DirectionError(f"{n} random directions are nothing to compare with; draw more.")
    values = [_examples(each) for each in classes]
    if not values or any(each.shape[1:] != direction.shape or len(each) < 2 for each in values):
        raise DirectionError(
            f"Each class must have two activations or more of the direction's shape "
            f"{tuple(direction.shape)}."
        )
    flat = [each.flatten(1) for each in values]
    within = torch.cat([each - each.mean(0) for each in flat])
    whole = torch.cat(flat)
    unit = (direction.double() / direction.double().norm()).flatten()
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n, len(whole), generator=generator, dtype=torch.float64)
    drawn, total = mixing @ within, mixing @ (whole - whole.mean(0))
    apart = drawn - (drawn @ unit)[:, None] * unit
    length = apart.norm(dim=1, keepdim=True)
    if not bool((length > 1e-6 * float(within.norm())).all()):
        raise DirectionError(
            "Within their classes these activations do not vary but along the direction, so no "
            "other direction can be drawn; give more of them."
        )

    def cosines(vectors: Tensor) -> Tensor:
        found: Tensor = (vectors @ unit).abs() / vectors.norm(dim=1)
        return found

    scaled = apart / length * direction.double().norm()
    return Controls(
        scaled.reshape(n, *direction.shape).float(),
        cosines(drawn).float(),
        float(cosines(total).mean()),
    )


def _spread(
    centred: Float[Tensor, "example dim"], direction: Tensor, apart: bool
) -> Float[Tensor, "example dim"]:
    """How activations vary; with `apart`, how they do given their coordinate along a direction."""
    if not apart:
        return centred
    coordinate = centred @ direction.double().flatten()
    size = coordinate @ coordinate
    told = torch.outer(coordinate, coordinate @ centred)
    rest = centred - told / size if float(size) > 0 else centred
    if not float(rest.norm()) > 1e-6 * float(centred.norm()):
        raise DirectionError(
            "These activations do not vary but along the direction, so no other direction can be "
            "drawn; give more of them."
        )
    return rest


def _examples(activations: Activations) -> Tensor:
    values = torch.as_tensor(activations).detach().cpu().double()
    if values.ndim < 2 or len(values) == 0:
        raise DirectionError("Activations must have the shape [example, …], with an example.")
    if not bool(torch.isfinite(values).all()):
        raise DirectionError("Some activations are not finite, so they have no direction.")
    return values
