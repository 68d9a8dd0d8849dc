"""Direct logit attribution: what each part of the residual stream says for an answer.

The final stream is the sum of what the embedding, each attention layer and each MLP have added to
it, and the unembedding reads that sum through the final norm. With the norm's scale held at what
it is (as Elhage et al. 2021 and Wang et al. 2022 do), the logit is a sum too, of one share for
each part. The shares are those of the raw model: nothing is folded or centred in its weights.
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp.attribution import shares
from interp.attribution.labels import By, labelled, with_questions
from interp.components.frozen import Readout, frozen_readout
from interp.components.linear import precise
from interp.errors import ModelError, PromptError, SiteError
from interp.forward.passes import record, recording_memory
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.patching.groups import Neurons
from interp.patching.groups import neurons as neuron_groups
from interp.progress import Progress
from interp.prompts.pairs import PromptPairs, Run
from interp.prompts.targets import Answers, first_tokens
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site, check, width_at

__all__ = ["By", "direct_logit_attribution"]

# Of the sum of all shares, relative to the logit or to the largest share, if that is larger; in
# half precision see `_check_rounding`.
_TOLERANCE = 1e-4
# By what is asked: the sites besides what each layer adds, how one layer is divided, and the axes.
_DIVISIONS: dict[str, tuple[tuple[str, ...], shares.By, tuple[str, ...]]] = {
    "head": (("z",), shares.by_head, ("head",)),
    "neurons": (("mlp_act",), shares.by_neurons, ("neurons",)),
    "source": (("z", "v", "pattern"), shares.by_source, ("head", "source")),
}


@typed
def direct_logit_attribution(
    model: Model,
    prompts: PromptPairs | Prompts | str,
    answers: Answers | None = None,
    foils: Answers | None = None,
    *,
    by: By = "component",
    run: Run = "clean",
    neurons: Neurons | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Divide the logit of each answer, minus that of its foil, among what wrote to the stream.

    Read at the end of each prompt, of the first token of answer and foil. The scale of the final
    norm (and of norms after attention or MLP) is frozen at its actual value. Where logits pass a
    soft cap, those before it are attributed.

    Args:
        model: the model.
        prompts: pairs, which bring their answers and foils; or texts, or token ids
            [example, position].
        answers: for each of the texts what should follow; or token ids [example].
        foils: likewise, to attribute the difference; the answer's logit alone if left out.
        by: "component": "input" (the embedding), "a0" and "m0" (attention and MLP of layer 0), …,
            "bias" (of final norm and unembedding); "head": "a0.h0" and "a0.bias" (which no head
            owns) instead of "a0"; "neurons": groups of neurons of each MLP; "source": each head by
            the token that it attended to.
        run: of pairs, the "clean" or the "corrupt" prompts.
        neurons: how many consecutive ones make a group (about 32 groups if left out), or the
            neurons of each, which must not overlap.
        progress: called with (prompts done, in all).

    Returns:
        contribution in logits: (example, component), with coordinates layer and head (-1 where a
        component has none); or (example, layer, neurons), or (example, layer, head, source), and
        then `rest`(example), which all else adds. Their sum is logit_diff(example), or
        logit(example) without foils. In half precision these are read from the final stream in
        float64, and `rounding`(example) is what the model lost along the way by adding in its own
        type: with it the sum is complete. `capped`(example) is the same behind a soft cap, if
        there is one. By source, shares beyond a prompt's end are NaN, token(example, source) is
        what stands there, and label(example, source) the pairs' name of it ("" where it has none).

    Raises:
        PromptError: answers are missing, or do not fit the prompts.
        ModelError: the shares do not add up to the logits, to 1e-4 of the larger of the logit
            (difference) and the largest share, or in half precision to what rounding explains; or
            the model has no such parts.
        SiteError: it does not show them; or there are no such neurons.
    """
    batch, wanted = _questions(model, prompts, answers, foils, run)
    if neurons is not None and by != "neurons":
        raise PromptError("neurons=… names groups of neurons; use it with by='neurons'.")
    names: tuple[int | str, ...] = ()
    members = torch.empty(0, 0, dtype=torch.bool)
    more = _DIVISIONS[by][0] if by in _DIVISIONS else ()
    layers = range(model.n_layers)
    sites = [Site("resid_pre", 0), Site("resid_post", model.n_layers - 1)]
    sites += [check(model, Site(n, i)) for n in ("attn_out", "mlp_out", *more) for i in layers]
    if by == "neurons":
        groups = neuron_groups(model, neurons)
        names, members = groups.names, torch.from_numpy(groups.members)
        if int(members.sum(0).max()) > 1:
            raise SiteError("The groups of neurons overlap, so their shares would not add up.")
    length = batch.ids.shape[1]
    found: list[dict[str, Tensor]] = []

    def work(start: int, stop: int) -> dict[str, Tensor]:
        part = slice(start, stop)
        recording = record(model, batch.ids[part], sites)
        end = batch.lengths[part] - 1
        final = shares.at_end(recording, sites[1], end)
        answer, foil = wanted[0][part], None if wanted[1] is None else wanted[1][part]
        readout = frozen_readout(model, final, answer, foil)
        divided = shares.Part(model, recording, end, readout.linear, members)
        return _divide(divided, readout, by)

    width = sum(width_at(model, site.name, length) for site in sites)
    size = rows_that_fit(model, recording_memory(model, length, -(-width // model.d_model)))
    for _, stop, one in batches(len(batch), size, work):
        found.append({name: value.cpu() for name, value in one.items()})
        if progress:
            progress(stop, len(batch))
    whole = {name: torch.cat([one[name] for one in found]) for name in found[0]}
    of = "logit" if wanted[1] is None else "logit_diff"
    whole[of] = whole.pop("value")
    pairs = prompts if isinstance(prompts, PromptPairs) else None
    result = with_questions(model, labelled(model, whole, by, names, batch), wanted, pairs, run)
    result.attrs = {
        "instrument": "direct logit attribution",
        "by": by,
        "of": of,
        "soft_cap": "attributed before it" if "capped" in result else "none",
        **model.identity,
    }
    return result


def _divide(part: shares.Part, readout: Readout, by: By) -> dict[str, Tensor]:
    """Shares by name, checked to add up to the value."""
    layers = range(part.model.n_layers)
    read = part.linear.of
    input_share, constant = read(part.at("resid_pre", 0)), part.linear.constant
    attention = [read(part.at("attn_out", i)) for i in layers]
    mlps = [read(part.at("mlp_out", i)) for i in layers]
    out: dict[str, Tensor] = {}
    if by == "component":
        rows = [x for pair in zip(attention, mlps, strict=True) for x in pair]
        out["contribution"] = torch.stack([input_share, *rows, constant], 1)
    else:
        divided = [_DIVISIONS[by][1](part, i) for i in layers]
        biases = [rest for _, rest in divided]
        if by == "head":
            columns = [
                torch.cat([heads, bias[:, None], mlp[:, None]], 1)
                for (heads, bias), mlp in zip(divided, mlps, strict=True)
            ]
            out["contribution"] = torch.cat([input_share[:, None], *columns, constant[:, None]], 1)
        else:
            out["contribution"] = torch.stack([of_layer for of_layer, _ in divided], 1)
            others = attention if by == "neurons" else mlps
            out["rest"] = torch.stack([input_share, constant, *others, *biases]).sum(0)
    flat = torch.cat([value.reshape(len(value), -1) for value in out.values()], 1)
    missed = readout.value - flat.sum(1)
    if part.model.dtype.itemsize < 4:
        _check_rounding(part, missed, flat)
        out["rounding"] = missed
    else:
        _check_sum(part.model, missed, torch.cat([flat, readout.value[:, None]], 1))
    if by == "source":
        source = torch.arange(out["contribution"].shape[-1], device=constant.device)
        beyond = source > part.end.to(source.device)[:, None]
        out["contribution"].masked_fill_(beyond[:, None, None], torch.nan)
    out["value"] = readout.value
    if readout.capped:
        out["capped"] = readout.output
    return out


def _check_sum(
    model: Model, missed: Float[Tensor, " example"], shares: Float[Tensor, "example share"]
) -> None:
    error = float((missed.abs() / shares.abs().amax(1).clamp(min=1e-12)).max())
    # Written so that NaN is refused too.
    if not error <= _TOLERANCE:
        raise ModelError(
            f"The parts of {model.name}'s residual stream add up to its logits only to "
            f"{error:.1g} of their size, not to {_TOLERANCE:g}; use another architecture."
        )


def _check_rounding(
    part: shares.Part, missed: Float[Tensor, " example"], flat: Float[Tensor, "example share"]
) -> None:
    """Whether a type of half precision, rounding each sum along the stream, can have lost this."""
    direction, square = part.linear.direction, flat.square().sum(1)
    stream = precise(part.at("resid_pre", 0))
    for layer in range(part.model.n_layers):
        for name in ("attn_out", "mlp_out"):
            added = precise(part.at(name, layer))
            stream = stream + added
            for rounded in (stream, added):
                square = square + (direction * rounded).square().sum(1)
    dtype = part.model.dtype
    # Roundings are independent: this is some seven of their standard deviations.
    most = 2 * torch.finfo(dtype).eps * square.sqrt()
    if not bool((missed.abs() <= most).all()):
        worst = int((missed.abs() - most).nan_to_num(torch.inf).argmax())
        raise ModelError(
            f"The parts of {part.model.name}'s residual stream miss its logits by "
            f"{float(missed[worst].abs()):.2g}, which rounding in {str(dtype).split('.')[-1]} (up "
            f"to {float(most[worst]):.2g}) does not explain; load it in float32."
        )


def _questions(
    model: Model,
    prompts: PromptPairs | Prompts | str,
    answers: Answers | None,
    foils: Answers | None,
    run: Run,
) -> tuple[TokenBatch, tuple[Int[Tensor, " example"], Int[Tensor, " example"] | None]]:
    """Prompts, and first tokens of answers and foils."""
    if isinstance(prompts, PromptPairs):
        if answers is not None or foils is not None:
            raise PromptError("Pairs bring their answers and foils; leave answers and foils out.")
        foil_tokens = None
        if prompts.foil_ids is not None:
            prompts.check_first_tokens()
            foil_tokens = prompts.first_tokens("foil")
        return prompts.prompts(run), (prompts.first_tokens("answer"), foil_tokens)
    if run != "clean":
        raise PromptError("Only pairs have a corrupted run; give PromptPairs, or leave run out.")
    batch = tokenise(model, prompts)
    tokens = first_tokens(model, batch, answers)
    if tokens is None:
        raise PromptError("There are no answers whose logits could be attributed; give answers=….")
    foil_tokens = first_tokens(model, batch, foils, "foils")
    if any(t is not None and t.ndim > 1 for t in (tokens, foil_tokens)):
        raise PromptError("Give one answer, and at most one foil, for each prompt.")
    if foil_tokens is not None and bool((same := tokens == foil_tokens).any()):
        raise PromptError(
            f"The answer and the foil of prompt {int(same.nonzero()[0])} begin with the same "
            "token, and only first tokens are compared here; choose another foil."
        )
    return batch, (tokens, foil_tokens)
