"""Kinds of sites: the only file that knows what TransformerLens calls them, and what they are."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from interp.errors import SiteError

# Axes that run over the tokens of a prompt.
TOKEN_AXES = ("position", "destination", "source")


@dataclass(frozen=True)
class StreamTrial:
    """How a stream inside of a block shows that it is one: turned round, it turns what comes out.

    Attributes:
        added: the site of what the block adds to the stream after it.
        out: the site of the sum of both.
    """

    added: str
    out: str


@dataclass(frozen=True)
class EditTrial:
    """How a site shows that edits of it count: where it is zero, nothing is left of another.

    Attributes:
        follows: the site that is computed from this one alone.
        instead: what to patch where edits are dropped, in words.
        alike: whether what is the same for every token may be left.
    """

    follows: str
    instead: str
    alike: bool = False


@dataclass(frozen=True)
class SiteKind:
    """What a family of sites is. Everything that treats sites differently asks here.

    Attributes:
        hook: its hook point in a block, as TransformerLens calls it.
        axes: of its activation, after [example]; the last one is what its width is measured in.
        part: what of a block computes it; "before" and "after" are the streams between blocks,
            "between" is the one between attention and MLP.
        label: what it is, as words that a layer number can follow.
        plural: what its activations are, as the first words of a sentence.
        heads: which heads it has, where it has any.
        in_place: whether only an edit in place reaches all that reads it.
        heads_add_up: whether what attention adds is a sum over its heads, each times a matrix.
        makes_pattern: whether it moves the metric by way of attention patterns alone.
        gradient_at: the site whose gradient is its own, where its own hook does not show it.
        trial: what the model must show before it counts as having the site.
        edit_trial: what the model must show before edits count.
    """

    hook: str
    axes: tuple[str, ...]
    part: Literal["before", "attention", "between", "mlp", "after"]
    label: str
    plural: str
    heads: Literal["query", "key and value"] = "query"
    in_place: bool = False
    heads_add_up: bool = False
    makes_pattern: bool = False
    gradient_at: str | None = None
    trial: StreamTrial | None = None
    edit_trial: EditTrial | None = None

    @property
    def per_head(self) -> bool:
        return "head" in self.axes

    @property
    def head_axis(self) -> int:
        """Counted from the end, so that it holds without the axes before it, too."""
        return self.axes.index("head") - len(self.axes)

    @property
    def unit(self) -> str:
        """What its width is measured in: "d_model", "neuron", "d_head" or "source"."""
        return self.axes[-1]

    @property
    def inside(self) -> bool:
        """Whether it lies inside of a block; the others are the stream between two of them."""
        return self.part not in ("before", "after")

    @property
    def pairwise(self) -> bool:
        """Whether it has a number for each pair of tokens, and so no vector for any one of them."""
        return "source" in self.axes

    @property
    def storable(self) -> bool:
        """Whether each token has numbers of its own, as many at any length."""
        return not self.pairwise

    @property
    def steerable(self) -> bool:
        """Whether a token has a vector that a direction can be added to."""
        return not self.pairwise

    @property
    def has_mean(self) -> bool:
        """Whether activations of different prompts have a mean that can be put in their place."""
        return not self.pairwise


_VECTOR = ("position", "d_model")
_HEADS = ("position", "head", "d_head")

KINDS: dict[str, SiteKind] = {
    "resid_pre": SiteKind(
        "hook_resid_pre", _VECTOR, "before", "residual stream into block", "Residual streams"
    ),
    "resid_mid": SiteKind(
        # TransformerLens hooks it on the MLP's branch, after the skip connection has kept a
        # reference to the same tensor. That hook may show a view on the branch alone (OPT), whose
        # gradient lacks the other; the stream moves as what attention adds to it does.
        "hook_resid_mid",
        _VECTOR,
        "between",
        "residual stream inside block",
        "Residual streams",
        in_place=True,
        gradient_at="attn_out",
        trial=StreamTrial(added="mlp_out", out="resid_post"),
    ),
    "resid_post": SiteKind(
        "hook_resid_post", _VECTOR, "after", "residual stream after block", "Residual streams"
    ),
    "attn_out": SiteKind(
        "hook_attn_out", _VECTOR, "attention", "attention output of block", "Attention outputs"
    ),
    "mlp_out": SiteKind("hook_mlp_out", _VECTOR, "mlp", "MLP output of block", "MLP outputs"),
    "mlp_act": SiteKind(
        "mlp.hook_post",  # after the nonlinearity
        ("position", "neuron"),
        "mlp",
        "MLP neurons of block",
        "MLP neurons",
        # An MLP without active neurons adds the same to every token.
        edit_trial=EditTrial("mlp_out", "'mlp_out'", alike=True),
    ),
    "q": SiteKind(
        "attn.hook_q", _HEADS, "attention", "queries of block", "Queries", makes_pattern=True
    ),
    "k": SiteKind(
        "attn.hook_k",
        _HEADS,
        "attention",
        "keys of block",
        "Keys",
        heads="key and value",
        makes_pattern=True,
    ),
    "v": SiteKind(
        "attn.hook_v", _HEADS, "attention", "values of block", "Values", heads="key and value"
    ),
    "z": SiteKind(
        "attn.hook_z",  # before the output matrix
        _HEADS,
        "attention",
        "head output in block",
        "Head outputs",
        heads_add_up=True,
    ),
    "pattern": SiteKind(
        "attn.hook_pattern",
        ("head", "destination", "source"),
        "attention",
        "attention pattern of block",
        "Attention patterns",
        # Without attention there is no head output.
        edit_trial=EditTrial("z", "'q', 'k', 'v' or 'z'"),
    ),
}
"""All sites. A new one is an entry here, and nothing else: it can be captured, stored, patched,
estimated, steered and drawn. Queries and keys are those before rotation."""


def site_kind(name: str) -> SiteKind:
    """The kind called `name`; a SiteError names the nearest one where there is none."""
    if name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(name, KINDS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise SiteError(f"Unknown site '{name}'; known are {', '.join(KINDS)}.{hint}")
