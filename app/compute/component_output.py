"""What one component writes at the end of a prompt, read as logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from experiments.explorer import Pair

if TYPE_CHECKING:
    from interp.model.model import Model

_MOST = 8
_NUMBERS = 40_000_000  # shares that are held at once: tokens times components
_LIKELIEST = 5000


@dataclass(frozen=True)
class Written:
    """Of one prompt.

    Attributes:
        raised: the tokens whose logits a component raises most at the end, with how much, with the
            final norm's scale held.
        share: what it adds to the answer's logit minus the foil's.
        whole: that difference itself.
        among: of how many tokens these are the ones raised most.
    """

    raised: tuple[tuple[str, float], ...]
    share: float
    whole: float
    among: int


def written(model: Model, pair: Pair, layer: int, head: int | None) -> dict[str, Written]:
    """By run, "clean" and "corrupt".

    Raises:
        SiteError: the model has no such component.
        ModelError: its logits are no sum of what components write.
    """
    from interp.attribution.candidates import attribute_candidates
    from interp.errors import SiteError
    from interp.generation.logits import logits
    from interp.prompts.pairs import PromptPairs

    if not 0 <= layer < model.n_layers or (head is not None and not 0 <= head < model.n_heads):
        what = "MLP" if head is None else f"head {head}"
        raise SiteError(f"There is no {what} in layer {layer} of {model.name}; choose another one.")
    prompts = [pair.clean, pair.corrupt]
    pairs = PromptPairs(model, prompts, prompts, [pair.answer] * 2, [pair.foil] * 2)
    first = [int(pairs.first_tokens(read)[0]) for read in ("answer", "foil")]
    by: Literal["component", "head"] = "component" if head is None else "head"
    parts = model.n_layers * (2 if head is None else model.n_heads + 2)
    chosen: npt.NDArray[np.int64] = np.arange(model.d_vocab)
    if model.d_vocab * parts > _NUMBERS:
        likely = logits(model, prompts).amax(0).cpu().numpy()
        chosen = np.union1d(np.argsort(-likely)[:_LIKELIEST], first)
    found = attribute_candidates(model, prompts, chosen.tolist(), by=by)
    at = [int(np.nonzero(chosen == token)[0][0]) for token in first]
    name = f"m{layer}" if head is None else f"a{layer}.h{head}"
    out = {}
    for run, row in (("clean", 0), ("corrupt", 1)):
        shares = found["contribution"].isel(example=row)
        own = shares.sel(component=name).values.astype(float)
        total = shares.sum("component").values.astype(float)
        best = np.argsort(-own)[:_MOST]
        out[run] = Written(
            tuple((str(found["token"].values[i]), float(own[i])) for i in best),
            float(own[at[0]] - own[at[1]]),
            float(total[at[0]] - total[at[1]]),
            len(chosen),
        )
    return out
