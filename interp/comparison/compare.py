"""Everything that tells two models apart, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xarray as xr

from cache.arguments import typed
from interp.comparison.activations import SITES, difference_between
from interp.comparison.crossing import patched_between
from interp.comparison.means import Lens, means_between
from interp.comparison.pair import ModelPair, check_apart
from interp.comparison.reading import readable
from interp.comparison.scopes import patchscope_difference
from interp.comparison.swaps import swapped_between
from interp.comparison.weights import changes_between
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.model import Model
from interp.notebook import picture
from interp.progress import Progress, counter
from interp.prompts.pairs import Answers, PromptPairs
from interp.prompts.tokens import Prompts, TokenBatch

__all__ = ["Comparison", "compare_models"]


@dataclass(frozen=True)
class Comparison:
    """What tells a tuned model, and a twin beside it, from their base.

    Every Dataset has the dimension `model`: "tuned", and "twin" where there is one.

    Attributes:
        activations: see `activation_difference`.
        weights: see `weight_difference`.
        means: see `mean_difference`; None without texts.
        swaps: see `swap_modules`; None without answers.
        patches: see `patch_across`, of whole streams; None without answers.
        scopes: see `patchscope_difference`, written by the base; None without a prompt that asks.
    """

    activations: xr.Dataset
    weights: xr.Dataset
    means: xr.Dataset | None
    swaps: xr.Dataset | None
    patches: xr.Dataset | None
    scopes: xr.Dataset | None

    def _repr_html_(self) -> str:
        about = self.weights.attrs
        rows = [
            ("base", f"{about['model']} ({about['fingerprint']})"),
            ("tuned", f"{about['tuned']} ({about['tuned_fingerprint']})"),
        ]
        if "twin" in about:
            rows.append(("twin", f"{about['twin']} ({about['twin_fingerprint']})"))
        for name, part in vars(self).items():
            held = "not asked for" if part is None else ", ".join(map(str, part.data_vars))
            rows.append((name, held))
        return picture("Comparison", (), rows)


@typed
def compare_models(
    base: Model,
    tuned: Model,
    prompts: PromptPairs | Prompts,
    *,
    twin: Model | None = None,
    answers: Answers | None = None,
    foils: Answers | None = None,
    metric: Metric | str = "logit_diff",
    texts: Sequence[str] | None = None,
    words: Sequence[str] = (),
    lens: Lens | None = None,
    ask: str | None = None,
    sites: str | Sequence[str] = SITES,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models of one shape: a base and its tuned model, or two checkpoints.

    Args:
        base: the model before.
        tuned: the model after.
        prompts: texts or token ids that both read, or prompt pairs, of which the clean prompts
            are read.
        twin: a control: the base tuned on something else, or loaded a second time. Everything is
            measured for it too.
        answers: what should follow each prompt; without these, or pairs, nothing is swapped or
            patched.
        foils: what the answers are compared with, where the metric compares.
        metric: what is read when modules are swapped or activations patched.
        texts: about nothing in particular, for the mean difference; not measured without these.
        words: followed in the readings of the mean difference.
        lens: of the base, to read the mean difference with.
        ask: a prompt into whose last token the mean difference is put, such as "cat → cat; x", for
            the base to go on from; needs texts.
        sites: whose activations are compared.
        progress: called with (parts of the comparison done, in all).

    Raises:
        ModelError: the models cannot be compared: another architecture, shape, vocabulary,
            tokenizer, dtype or device; one object twice; weights that are not finite, or changes
            beside the weights, such as hooks.
        PromptError, SiteError, MetricError: as for the instruments that are called.
    """
    pairs = {"tuned": ModelPair.of(base, tuned)}
    if twin is not None:
        pairs["twin"] = ModelPair.of(base, twin)
        check_apart(tuned, twin)
    asked = isinstance(prompts, PromptPairs) or answers is not None
    if not asked and foils is not None:
        raise PromptError("Foils are what answers are compared with; give answers=… as well.")
    if texts is None and (words or lens is not None or ask is not None):
        raise PromptError(
            "Words, lenses and prompts that ask are for the mean difference, which needs texts=…."
        )
    batches = [_prompts(pair, prompts, answers, foils) for pair in pairs.values()]
    batch = batches[0]
    steps: dict[str, Callable[[ModelPair], xr.Dataset]] = {
        "activations": lambda pair: difference_between(pair, batch, sites, None),
        "weights": lambda pair: changes_between(pair, 16, None),
    }
    if texts is not None:
        steps["means"] = lambda pair: means_between(
            pair, texts, 5, lens, words=words, k=10, draws=20, seed=0, progress=None
        )
    if asked:
        steps["swaps"] = lambda pair: swapped_between(pair, prompts, metric, answers, foils, None)
        steps["patches"] = lambda pair: patched_between(
            pair,
            prompts,
            "resid_post",
            metric,
            answers,
            foils,
            by=None,
            layers=None,
            draws=1,
            seed=0,
            progress=None,
        )
    count = counter(progress, len(steps) + (ask is not None))
    found: dict[str, xr.Dataset | None] = dict.fromkeys(("means", "swaps", "patches", "scopes"))
    for name, step in steps.items():
        found[name] = _beside({which: step(pair) for which, pair in pairs.items()})
        count(1)
    if ask is not None and (means := found["means"]) is not None:
        found["scopes"] = patchscope_difference(base, means, ask)
        count(1)
    for pair in pairs.values():
        pair.check(lambda model: model.fingerprint)
    return Comparison(**found)  # type: ignore[arg-type]


def _prompts(
    pair: ModelPair,
    prompts: PromptPairs | Prompts,
    answers: Answers | None,
    foils: Answers | None,
) -> TokenBatch:
    if answers is None and not isinstance(prompts, PromptPairs):
        return pair.tokenise(prompts)
    return readable(pair, prompts, answers, foils).clean


def _beside(results: dict[str, xr.Dataset]) -> xr.Dataset:
    """Results of several tuned models along a dimension `model`."""
    names = list(results)
    joined = xr.concat(
        list(results.values()),
        xr.DataArray(names, dims="model", name="model"),
        coords="minimal",
        compat="override",
        combine_attrs="override",
    )
    for which, one in results.items():
        if which != "tuned":
            joined.attrs[which] = one.attrs["tuned"]
            joined.attrs[f"{which}_fingerprint"] = one.attrs["tuned_fingerprint"]
    return joined
