"""The two doors to activations: `keeping` looks at them, `changing` replaces them.

All that places hooks on a model passes here, so that a site which its model has to show first is
always tried (`interp.forward.trials`), and one that must be edited in place always is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from interp.forward.hooks import Hook, hooked
from interp.forward.trials import check_seen, editable, shown
from interp.model.model import Model
from interp.sites import Site

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

Points: TypeAlias = "Mapping[Site, HookPoint]"
"""Sites that were looked up on a model, and tried where they must be."""
Change = Callable[[Tensor], Tensor]
"""Gets an activation [example, …] and returns its replacement; leaves the one it gets as it is."""


@contextlib.contextmanager
def keeping(
    model: Model, sites: Iterable[Site], *, points: Points | None = None
) -> Iterator[dict[Site, Tensor]]:
    """Inside, one run of the model fills the result with copies of the activations at `sites`.

    Args:
        points: what `shown` found for these sites on the model as it is now, for many short runs.

    Raises:
        SiteError: the model has no such site.
        ModelError: TransformerLens does not see it there.
    """
    points = shown(model, sites) if points is None else {site: points[site] for site in sites}
    kept: dict[Site, Tensor] = {}

    def keep(site: Site) -> Hook:
        def hook(value: Tensor) -> None:
            kept[site] = value.detach().clone()

        return hook

    with model.lock, hooked([(point, keep(site)) for site, point in points.items()]):
        yield kept
    check_seen(model, points, kept)


@contextlib.contextmanager
def changing(
    model: Model,
    changes: Iterable[tuple[Site, Change]],
    *,
    momentary: bool = True,
    points: Points | None = None,
) -> Iterator[None]:
    """Inside, activations of whole sites are replaced whenever the model is run.

    Args:
        momentary: as for `hooked`.
        points: what `editable` found for these sites on the model as it is now.

    Raises:
        SiteError: the model has no such site, or drops edits there.
    """

    def placed(site: Site, change: Change) -> Hook:
        def hook(value: Tensor) -> Tensor | None:
            new = change(value)
            if not site.kind.in_place:
                return new
            if new is not value:
                value.copy_(new)
            return None

        return hook

    changes = list(changes)
    if points is None:
        points = editable(model, [site for site, _ in changes])
    hooks = [(points[site], placed(site, one)) for site, one in changes]
    with model.lock, hooked(hooks, momentary=momentary):
        yield
