"""Everything the explorer computes: one object, used by all sessions, one computation at a time.

Models are loaded on first use. Results leave as NumPy and xarray, and are kept, so that going
back to a fact costs nothing; nobody may change them in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.compute.models import touched
from app.compute.pairs import Aligned, aligned, build
from app.compute.turns import ModelSpec, Replaced, Turns
from experiments.explorer import Examples, Pair, Way
from experiments.reporter import Progress

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from app.compute.carrying import Carried
    from app.compute.component_output import Written
    from interp.model.model import Model

__all__ = ["About", "Engine", "ModelSpec", "Replaced", "Token"]

_TOP = 10


@dataclass(frozen=True)
class About:
    """What the screen says of a model."""

    name: str
    fingerprint: str
    n_layers: int
    n_heads: int
    d_vocab: int
    n_parameters: int


@dataclass(frozen=True)
class Token:
    """A token of a prompt and the named part of the prompt it belongs to ("" for the rest)."""

    text: str
    span: str = ""


class Engine:
    """Runs instruments for several sessions at once.

    Args:
        load, loaded: of models; see `Turns`.
    """

    def __init__(
        self,
        load: Callable[[ModelSpec], Model],
        loaded: Callable[[ModelSpec], Model | None] = lambda spec: None,
    ) -> None:
        self.turns = Turns(load, loaded)
        self.compute, self.in_steps = self.turns.compute, self.turns.in_steps
        self.apart, self.one_look = self.turns.apart, self.turns.one_look

    def about(self, spec: ModelSpec) -> About:
        """Name, size and fingerprint. Raises ModelError where the model cannot be loaded."""

        def read(model: Model) -> About:
            return About(
                model.name,
                model.fingerprint,
                model.n_layers,
                model.n_heads,
                model.d_vocab,
                model.n_parameters,
            )

        return self.compute(spec, ("about",), read)

    def tokens(self, spec: ModelSpec, prompt: str, spans: Mapping[str, str]) -> tuple[Token, ...]:
        """The prompt's tokens with the named part each belongs to; its last token is "last", and
        what is asked about a "subject" the "relation"."""
        from interp.prompts.alignment import token_range
        from interp.prompts.pairs import occurrences
        from interp.prompts.tokens import tokenise

        def read(model: Model) -> tuple[Token, ...]:
            batch = tokenise(model, [prompt])
            ids, offsets = batch.row(0), batch.offsets[0]
            names = [""] * len(ids)
            for name, words in spans.items():
                # As pairs look for it: "Ann" is no part of an "Anna" that stands before her.
                start = next(iter(occurrences(prompt, words)), -1) if words else -1
                if start >= 0 and offsets is not None:
                    first, beyond = token_range(prompt, offsets, start, start + len(words))
                    names[first:beyond] = [name] * (beyond - first)
            if names and not names[-1]:
                names[-1] = "last"
            if "subject" in names:
                special = set(model.tokenizer.all_special_ids)
                rest = ["" if token in special else "relation" for token in ids]
                names = [name or other for name, other in zip(names, rest, strict=True)]
            return tuple(map(Token, model.token_strings(ids), names))

        return self.compute(spec, ("tokens", prompt, tuple(spans.items())), read)

    def lens(self, spec: ModelSpec, prompt: str, answer: str | None) -> xr.Dataset:
        """The logit lens on one prompt, with ten tokens for each cell."""
        from interp.lens.logit import logit_lens

        return self.compute(
            spec,
            ("lens", prompt, answer),
            lambda model: logit_lens(model, [prompt], None if answer is None else [answer], k=_TOP),
        )

    def aligned(self, spec: ModelSpec, pair: Pair) -> Aligned:
        """Which token of the clean prompt stands for which of the corrupted one.

        Raises:
            PromptError: the two prompts, or what should follow them, do not fit.
        """
        return self.compute(spec, ("aligned", pair), lambda model: aligned(model, pair))

    def sweep(
        self, spec: ModelSpec, pair: Pair, site: str, progress: Progress | None = None
    ) -> xr.Dataset:
        """Patch every cell of one pair: layer × head at "z", layer × position elsewhere."""
        from interp.patching import sweep

        return self.compute(
            spec,
            ("sweep", pair, site),
            lambda model: sweep(model, build(model, [pair]), site, progress=progress),
        )

    def patch(
        self,
        spec: ModelSpec,
        pair: Pair,
        site: str,
        layer: int,
        *,
        label: str | None = None,
        head: int | None = None,
        replaced: Callable[[], bool] = lambda: False,
    ) -> xr.Dataset:
        """One patch, at a label of the position axis or at a head, with the next tokens.

        Args:
            replaced: asked while others compute and once more before the patch is run, whether
                it is still wanted.

        Raises:
            SiteError: the pair has no such place.
            Replaced: it was not wanted any more, and was not run.
        """
        from interp.errors import SiteError
        from interp.patching.single import patch_once

        def run(model: Model) -> xr.Dataset:
            pairs = build(model, [pair])
            if label is not None and label not in pairs.positions:
                raise SiteError(
                    f"This pair has no position '{label}'; choose one of "
                    f"{', '.join(pairs.positions)}."
                )
            position = None if label is None else pairs.positions.index(label)
            return patch_once(model, pairs, site, layer, position=position, head=head, k=_TOP)

        key = ("patch", pair, site, layer, label, head)
        with self.turns.wanted(replaced):
            return self.compute(spec, key, run)

    def carry(
        self,
        spec: ModelSpec,
        source: Pair,
        target: Pair,
        layer: int,
        read: tuple[int, int],
        written: int,
        *,
        replaced: Callable[[], bool] = lambda: False,
    ) -> Carried:
        """A vector of one question put into another one; see `app.compute.carrying`.

        Raises:
            Replaced: it was not wanted any more, and was not run.
        """
        from app.compute.carrying import carried

        key = ("carry", source, target, layer, read, written)
        with self.turns.wanted(replaced):
            return self.compute(
                spec, key, lambda model: carried(model, source, target, layer, read, written)
            )

    def pair(
        self,
        spec: ModelSpec,
        examples: Examples,
        table: pd.DataFrame,
        row: int,
        way: Way,
        settings: Mapping[str, Any],
    ) -> Pair:
        """A pair for the example in a row of the table, made as its study makes it.

        Args:
            settings: those of the run; empty where there is none.

        Raises:
            ObverseError: the study cannot make one.
        """
        # All that is no measurement: a fact that is put right has the prompt that it had.
        told = table.select_dtypes(exclude="float")
        rows = hash(tuple((name, *map(str, told[name].tolist())) for name in told))
        # Templates may lie beside the weights, which are the same when these are changed.
        beside = touched(spec)
        key = ("pair", examples, way, rows, row, repr(sorted(settings.items())), beside)
        return self.compute(
            spec, key, lambda model: examples.pair(model, table, row, way, settings)
        )

    def patterns(self, spec: ModelSpec, prompt: str, layer: int) -> xr.Dataset:
        """The attention of all heads of a layer on one prompt, also weighted by what is moved.

        Raises:
            SiteError, ModelError: the model does not show it.
        """
        from interp.attention.patterns import attention_patterns

        return self.compute(
            spec,
            ("patterns", prompt, layer),
            lambda model: attention_patterns(model, [prompt], layers=[layer], weighted=True),
        )

    def same_first_token(self, spec: ModelSpec, prompt: str, answer: str, foil: str) -> bool:
        """Whether two answers to a prompt begin with the same token."""
        from interp.prompts.pairs import continuations
        from interp.prompts.tokens import tokenise

        def same(model: Model) -> bool:
            found = continuations(model, tokenise(model, [prompt] * 2), [answer, foil])
            return found[0][0] == found[1][0]

        return self.compute(spec, ("first", prompt, answer, foil), same)

    def attribution(
        self, spec: ModelSpec, prompt: str, answer: str, foil: str | None, by: str
    ) -> xr.Dataset:
        """Direct logit attribution of one prompt, by "component" or "head".

        Raises:
            PromptError, ModelError: as for `direct_logit_attribution`.
        """
        from interp.attribution.direct import direct_logit_attribution

        foils = None if foil is None else [foil]
        return self.compute(
            spec,
            ("attribution", prompt, answer, foil, by),
            lambda model: direct_logit_attribution(
                model, [prompt], [answer], foils, by="head" if by == "head" else "component"
            ),
        )

    def written(
        self, spec: ModelSpec, pair: Pair, layer: int, head: int | None
    ) -> dict[str, Written]:
        """What a head or an MLP (no head) writes at the end of a pair's prompts; see
        `app.compute.component_output`."""
        from app.compute.component_output import written

        return self.compute(
            spec,
            ("written", pair, layer, head),
            lambda model: written(model, pair, layer, head),
        )
