"""Does the model use what a probe reads? Move along the probe's direction and see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import ProbeError
from interp.model.model import Model
from interp.prompts.tokens import tokenise
from interp.steering.doses import dose_response
from probes.collect import collect
from probes.controls.significance import against_shuffled
from probes.probes import Probes


@typed
def steering_check(
    model: Model,
    prompts: Sequence[str],
    probes: Probes,
    site: str,
    answers: Mapping[str, str],
    *,
    towards: str,
    doses: Sequence[float] = (-4.0, -2.0, 0.0, 2.0, 4.0),
    positions: Literal["last"] | Sequence[int] = "last",
    control: int = 20,
    seed: Seed = 0,
) -> xr.Dataset:
    """Add the probe's direction and measure how far the model's own answer follows.

    Args:
        model: the model.
        prompts: prompts that end where the model answers.
        probes: linear probes of this model.
        site: where to read their direction and to add it ("resid_post.1").
        answers: for each class the text that the model would answer ("blue": " blue"); its first
            token is read, and those of different classes must differ.
        towards: the class that the direction points to.
        doses: in standard deviations of these prompts' own activations along the direction.
        positions: where to add: each prompt's last token, or one token number for each prompt.
        control: how many random directions of the same length, at right angles to it, are tried
            beside it: so many that vary as the prompts' activations do where their coordinate along
            the direction says nothing, and as many that are equally likely everywhere. At least 3.
        seed: of the random directions.

    Returns:
        value(example, dose), the logit of the class' answer minus the mean of the others';
        control(example, dose, draw) and isotropic(example, dose, draw), of random directions that
        vary as activations do and of those that go everywhere; plain(example); effect, the mean
        over examples of value at the largest dose minus that at the smallest; control_effect and
        isotropic_effect (draw), the same of random directions; p_control and p_isotropic,
        one-sided, of the effect among either; and p_value, the larger of the two.

    Raises:
        ProbeError: answers that do not tell classes apart, no such site or class, fewer than four
            prompts, or probes of another model.
        DirectionError: the prompts' activations do not vary but along the direction.
    """
    _check(probes, answers, towards, control, doses, len(prompts))
    batch = tokenise(model, list(prompts))
    place = (
        (batch.lengths - 1).tolist() if isinstance(positions, str) else [int(i) for i in positions]
    )
    features = collect(model, batch, site.split("@")[0], positions={"here": place})
    direction = probes.direction(site, towards).double().cpu()
    own = features.values[0].double().cpu()
    if probes.identity.get("fingerprint") not in (None, model.fingerprint):
        raise ProbeError(
            f"The probes are of the model '{probes.identity.get('model')}', not of {model.name}; "
            "fit them on this one."
        )
    spread = float((own @ direction).std())
    if not spread > 0:
        raise ProbeError("The prompts' activations do not vary along the direction; give others.")
    mask = torch.zeros(batch.ids.shape, dtype=torch.bool)
    mask[torch.arange(len(batch)), torch.as_tensor(place)] = True
    names, read = _reader(model, answers, towards)
    result = dose_response(
        model,
        batch.texts,
        direction * spread,
        doses,
        read,
        sites=site.split("@")[0],
        positions=mask,
        control=control,
        activations=own,
        seed=seed,
    )
    low, high = int(np.argmin(doses)), int(np.argmax(doses))
    moved = (result.isel(dose=high) - result.isel(dose=low)).mean("example")
    effect = moved["value"].values.astype(float)
    p = {
        name: float(against_shuffled(effect[None], moved[name].values[None].astype(float))[0])
        for name in ("control", "isotropic")
    }
    return result.assign(
        effect=((), effect),
        control_effect=moved["control"],
        isotropic_effect=moved["isotropic"],
        p_control=((), p["control"]),
        p_isotropic=((), p["isotropic"]),
        p_value=((), max(p.values())),
    ).assign_attrs(
        instrument="steering_check",
        metric=f"logit of '{towards}' minus the others' mean",
        unit="logits",
        site=site,
        towards=towards,
        classes=names,
        spread=spread,
    )


def _reader(
    model: Model, answers: Mapping[str, str], towards: str
) -> tuple[list[str], Callable[[Tensor], Tensor]]:
    names, ids = _first_tokens(model, answers)
    number = names.index(towards)

    def difference(of_next: Float[Tensor, "example vocabulary"]) -> Float[Tensor, " example"]:
        of_class = of_next[:, ids]
        others = torch.cat([of_class[:, :number], of_class[:, number + 1 :]], 1)
        value: Tensor = of_class[:, number] - others.mean(1)
        return value

    return names, difference


def _first_tokens(model: Model, answers: Mapping[str, str]) -> tuple[list[str], list[int]]:
    names = list(answers)
    skip = int(model.prepends_bos)
    for name in names:
        if len(model.token_ids(answers[name])) <= skip:
            raise ProbeError(f"The answer of class '{name}' is empty; give its text.")
    ids = [model.token_ids(answers[name])[skip] for name in names]
    if len(set(ids)) < len(ids):
        raise ProbeError(
            "Two classes' answers start with the same token, so the model's choice cannot be read; "
            "choose other answers."
        )
    return names, ids


def _check(
    probes: Probes,
    answers: Mapping[str, str],
    towards: str,
    control: int,
    doses: Sequence[float],
    n_prompts: int,
) -> None:
    if set(answers) != set(probes.classes):
        raise ProbeError(
            f"The probes know the classes {', '.join(probes.classes)}; give one answer for each."
        )
    if towards not in answers:
        raise ProbeError(f"Unknown class '{towards}'; there are {', '.join(probes.classes)}.")
    if control < 3:
        raise ProbeError("At least 3 random directions are needed to compare with.")
    if len(doses) < 2 or n_prompts < 4:
        raise ProbeError("Give at least two doses and four prompts.")
