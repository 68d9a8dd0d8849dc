"""Every instrument, called once: what is done on a device, told without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import probes
from cache import ActivationStore
from interp import (
    PromptPairs,
    Sampling,
    Subspace,
    Vectors,
    Weights,
    ablate_everywhere,
    applied,
    association_matrix,
    attention_patterns,
    back_patching,
    capture,
    clamp_to_mean,
    composition_scores,
    continuous_suffix,
    control_directions,
    copying_scores,
    detect_heads,
    difference_of_means,
    direct_logit_attribution,
    dose_response,
    estimate,
    evaluate_detector,
    fit_das,
    fit_focus_detector,
    fit_jacobian_lens,
    generate,
    greedy_coordinate_search,
    head_scores,
    instruction_focus,
    interchange,
    load_model,
    logit_lens,
    logits,
    mean_directions,
    patchscope,
    principal_directions,
    put_vectors,
    random_directions,
    random_suffixes,
    score_answers,
    score_suffixes,
    singular_tokens,
    sweep,
    train_tuned_lens,
    transplant,
    trigger_search,
)
from interp.attribution.candidates import attribute_candidates
from interp.circuits import attribute_edges, faithfulness_curve, prune
from interp.circuits.measure import measure, minimality
from interp.comparison import (
    activation_difference,
    mean_difference,
    patch_across,
    patchscope_difference,
    swap_modules,
    weight_difference,
)
from interp.generation.answers import complete
from interp.gradients.products import gradient_products
from interp.harvest import harvest
from interp.model.model import Model
from interp.patching.exact import refine
from interp.patching.patch import Patch, patch_sets
from interp.patching.paths import patch_paths
from interp.patching.single import patch_once
from tests.interp.tiny import save

CLEAN = (
    "Ann saw Bo near Rome . Bo is",
    "Cy and Dee saw Eve . Dee is",
    "Hal is near Lima so Hal saw",
)
CORRUPT = (
    "Cy saw Bo near Oslo . Jo is",
    "Cy and Fay saw Eve . Fay is",
    "Jo is near Bonn so Jo saw",
)
PLACES = ("Rome", "Oslo", "Lima")
ANSWERS, FOILS = (" Ann", " Bo", " Cy"), (" Dee", " Eve", " Fay")
TEXTS = tuple(
    f"{a} saw {b} near Rome and then {b} saw {a} near {c} ."
    for a in ("Ann", "Bo", "Cy")
    for b in ("Dee", "Eve")
    for c in ("Oslo", "Lima", "Cork")
)

Call = Callable[[Model, Path], Any]
CALLS: dict[str, Call] = {}


def pairs_of(model: Model) -> PromptPairs:
    return PromptPairs(model, list(CLEAN), list(CORRUPT), list(ANSWERS), list(FOILS))


def call(named: Call) -> Call:
    CALLS[named.__name__] = named
    return named


@call
def passes(model: Model, _: Path) -> Any:
    direction = torch.ones(model.d_model)
    where = capture(model, list(CLEAN), ["resid_post", "z", "pattern"], positions="all")
    with applied(model, *ablate_everywhere(model, direction)):
        changed = logits(model, list(CLEAN))
    return where, changed, logits(model, list(CLEAN), positions="all")


@call
def sweeps(model: Model, _: Path) -> Any:
    pairs = pairs_of(model)
    sites = ("resid_mid", "z", "pattern")
    found = [sweep(model, pairs, site) for site in sites]
    for metric in ("answer_logprob", "rank", "probability"):
        found.append(sweep(model, pairs, "resid_pre", metric, layers=[1]))
    found.append(sweep(model, pairs, "mlp_act", by="neurons", neurons=8, layers=[2]))
    found.append(sweep(model, pairs, "z", by=("head", "position"), layers=[0]))
    given = {1: torch.ones(model.d_model)}
    found.append(sweep(model, pairs, "resid_post", source=given, layers=[1]))
    found.append(sweep(model, pairs, "mlp_out", source="mean", reference=list(CORRUPT)))
    found.append(sweep(model, pairs, "z", direction="noising", source="zero"))
    return found, list(refine(model, pairs, "resid_pre", only=4))


@call
def estimates(model: Model, _: Path) -> Any:
    pairs = pairs_of(model)
    found = [
        estimate(model, pairs, "resid_pre", method=method)
        for method in ("gradient", "integrated", "atp*", "relp", "columns")
    ]
    found += [estimate(model, pairs, "z", method=m) for m in ("gradient", "atp*", "columns")]
    return [*found, estimate(model, pairs, "q", method="columns", columns=2)]


@call
def sets_and_paths(model: Model, _: Path) -> Any:
    pairs = pairs_of(model)
    sets = {"a": [Patch("z.1.h2"), Patch("mlp_out.0", positions=[3])], "b": [Patch("resid_mid.1")]}
    return (
        patch_sets(model, pairs, sets),
        patch_once(model, pairs, "resid_pre", 1, position=2),
        patch_paths(model, pairs, ["a2.h1.q"]),
        patch_paths(model, pairs, "logits", through="mlps"),
    )


@call
def circuits(model: Model, _: Path) -> Any:
    pairs = pairs_of(model)
    methods = ("eap", "eap-ig", "eap-ig-activations", "clean-corrupted")
    found = [attribute_edges(model, pairs, method=method, steps=2) for method in methods]
    found.append(attribute_edges(model, pairs, method="eap", by="position"))
    chosen = prune(found[0], 12)
    curve = faithfulness_curve(model, pairs, found[1], fractions=[0.2, 0.6], n_random=1)
    curves = [curve]
    for ablation in ("zero", "mean"):
        curves.append(measure(model, pairs, chosen, ablation=ablation, reference=list(CLEAN)))
    return found, curves, minimality(model, pairs, prune(found[0], 4))


@call
def attribution(model: Model, _: Path) -> Any:
    pairs = pairs_of(model)
    bys = ("component", "head", "neurons", "source")
    found = []
    for by in bys:
        found.append(direct_logit_attribution(model, pairs, by=by))
    return found, attribute_candidates(model, list(CLEAN), [5, 6, 7])


@call
def lenses(model: Model, folder: Path) -> Any:
    tuned = train_tuned_lens(model, TEXTS, steps=3, batch_tokens=32)
    tuned.save(folder / "tuned")
    jacobian = fit_jacobian_lens(model, TEXTS[:6], skip_first=2)
    jacobian.save(folder / "jacobian")
    found: list[Any] = [logit_lens(model, list(CLEAN), list(ANSWERS))]
    for lens in (tuned, jacobian, type(tuned).load(folder / "tuned", model)):
        found.append(logit_lens(model, list(CLEAN), lens=lens))
    loaded = type(jacobian).load(folder / "jacobian", model)
    return found, logit_lens(model, list(CLEAN), lens=loaded), jacobian.J


@call
def moved_vectors(model: Model, _: Path) -> Any:
    vectors = Vectors("resid_post", torch.ones(1, model.d_model), [0, 1], [0, 1], [-1, 2], [0, 0])
    return (
        transplant(model, list(CLEAN[:1]), list(CORRUPT[:1]), answers=[" Ann"], next_tokens=2),
        patchscope(model, CLEAN[0], CORRUPT[1], max_new_tokens=2, control=CLEAN[2]),
        back_patching(
            model, list(TEXTS), [" home"] * len(TEXTS), clusters=[str(i) for i in range(len(TEXTS))]
        ),
        put_vectors(model, list(CLEAN), vectors, answers=list(ANSWERS)),
    )


@call
def steering(model: Model, _: Path) -> Any:
    streams = capture(model, list(CLEAN + CORRUPT), "resid_post.1", positions="last")[
        "resid_post.1"
    ]
    direction = difference_of_means(streams[:3], streams[3:])
    controls = control_directions(direction, [streams[:3], streams[3:]], 2)
    found: list[Any] = [direction, random_directions(direction, 2), principal_directions(streams)]
    for kind in ("add", "clamp"):
        found.append(
            dose_response(
                model,
                pairs_of(model),
                direction,
                [-1.0, 0.0, 1.0],
                sites="resid_post.1",
                kind=kind,
                control=2,
                activations=streams,
            )
        )
    found.append(mean_directions(model, list(CLEAN), list(CORRUPT), positions=(-1, -2)))
    with applied(model, *clamp_to_mean(model, direction, list(CLEAN), positions="all")):
        found.append(score_answers(model, list(CLEAN), [" Ann", " Bo Cy", " Eve"]))
    return found, controls


@call
def generation(model: Model, _: Path) -> Any:
    plain = generate(model, list(CLEAN), max_new_tokens=4, sites="resid_post.1")
    drawn = generate(model, list(CLEAN), max_new_tokens=4, sampling=Sampling(seed=1, top_k=5))
    return plain, drawn, complete(model, list(CLEAN), 3)


@call
def attention(model: Model, _: Path) -> Any:
    clean = instruction_focus(
        model, list(CLEAN), ["Ann saw", "Cy and", "Hal is"], ["Bo is", "Dee is", "Hal saw"]
    )
    attacked = instruction_focus(
        model, list(CORRUPT), ["Cy saw", "Cy and", "Jo is"], ["Jo is", "Fay is", "Jo saw"]
    )
    detector = fit_focus_detector(clean, attacked, n=0.5)
    return (
        attention_patterns(model, list(CLEAN), weighted=True),
        head_scores(model, list(CLEAN)),
        detect_heads(model, n=4, length=6),
        evaluate_detector(detector, clean, attacked, draws=5),
    )


@call
def weights(model: Model, _: Path) -> Any:
    return (
        copying_scores(model),
        composition_scores(model),
        singular_tokens(model, "ov", 1, 0),
        association_matrix(model, ["Ann", "Bo"], ["Cy", "Dee"], tokens="all"),
        Weights(model).ov(0, 0).U,
    )


@call
def subspaces(model: Model, _: Path) -> Any:
    names = ("Ann", "Bo", "Cy", "Dee", "Eve", "Fay", "Gus", "Hal")
    clean, corrupt = ([f"{a} is near {p}" for a in names[i::2] for p in PLACES] for i in range(2))
    answers = [[f" {a}" for a in names[i::2] for _ in PLACES] for i in range(2)]
    groups = [a for a in range(4) for _ in PLACES]
    pairs = PromptPairs(model, clean, corrupt, *answers)
    found = fit_das(model, pairs, groups=groups, layers=[1], positions=[1], ranks=[1, 2], epochs=2)
    return found, interchange(model, pairs, Subspace.of(found, 1, 1, 2))


@call
def search(model: Model, _: Path) -> Any:
    few: dict[str, Any] = {"answers": list(ANSWERS), "suffix": " Gus Ida"}
    greedy = greedy_coordinate_search(model, list(CLEAN), **few, steps=2, candidates=8, top_k=4)
    drawn = random_suffixes(model, list(CLEAN), 2, length=2, rounds=2)
    like = random_suffixes(model, list(CLEAN), 2, like=" Gus Ida", rounds=2)
    scored = score_suffixes(model, list(CLEAN), list(ANSWERS), suffixes=[" Gus", " Ida Bo"])
    return (
        greedy,
        continuous_suffix(model, list(CLEAN), **few, steps=2, n_random=2),
        trigger_search(
            model,
            list(CLEAN),
            [" Rome Rome", " Oslo", " Lima"],
            starts=1,
            steps=1,
            candidates=4,
            top_k=2,
            n_random=2,
        ),
        drawn,
        like,
        scored,
    )


@call
def gradients(model: Model, _: Path) -> Any:
    return [
        gradient_products(model, list(CLEAN), list(ANSWERS), parameters=p) for p in ("mlp", "all")
    ]


@call
def store(model: Model, folder: Path) -> Any:
    with ActivationStore(folder / "store", floor=0) as kept:
        harvest(model, TEXTS, ["resid_post"], kept, context=8)
        features = probes.collect(model, list(CLEAN), "resid_post", positions="all", store=kept)
        trained = train_tuned_lens(model, TEXTS, store=kept, steps=2, batch_tokens=32)
        rows = kept.rows(model.activation_source(), list(CLEAN), "resid_post.1")
    return features.values, trained.identity if hasattr(trained, "identity") else 0, rows


@call
def comparison(model: Model, folder: Path) -> Any:
    other = load_model(save("llama", folder / "other", seed=1))
    means = mean_difference(model, other, list(TEXTS), draws=2)
    pairs = pairs_of(model)
    return (
        activation_difference(model, other, list(CLEAN)),
        weight_difference(model, other),
        swap_modules(model, other, pairs),
        patch_across(model, other, pairs),
        means,
        patchscope_difference(other, means, CLEAN[0], max_new_tokens=2),
        transplant(model, CLEAN[0], CORRUPT[0], answers=[" Ann"], source_model=other),
    )


@call
def probing(model: Model, _: Path) -> Any:
    texts = [*CLEAN, *CORRUPT] * 8
    found = probes.collect(model, texts, ["resid_post", "z"], positions={"last": -1, "two": -2})
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, len(texts))
    # Enough of a difference between equal prompts for every fit to have one solution.
    noise = torch.from_numpy(rng.standard_normal(found.values[:3].shape)).to(found.values[:3])
    x = found.values[:3] + noise
    fitted = [
        probes.fit_probes(x, labels, kind) for kind in ("logistic", "ridge", "lda", "mean", "mlp")
    ]
    words = [f"w{i}" for i in range(len(texts))]
    vectors = {word: torch.from_numpy(rng.standard_normal(3)).float() for word in words}
    eraser = probes.Eraser.fit(
        probes.Moments.of(x, torch.eye(2, device=x.device)[torch.from_numpy(labels).to(x.device)])
    )
    return (
        fitted,
        [probe.predict(x) for probe in fitted],
        probes.probe_report(x, labels, types=words, nulls=3, bootstraps=2, prefixes=2),
        probes.transfer_sites(x, labels),
        probes.transfer_conditions(x, labels, rng.integers(0, 2, len(texts))),
        probes.retrieve(x, words, vectors, nulls=3),
        eraser(x),
        probes.token_counts(model, texts).values,
    )
