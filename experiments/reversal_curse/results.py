"""What the report and the explorer look for in the stored results."""

from __future__ import annotations

from experiments.berglund.results import PUBLISHED
from experiments.run_directory.shapes import Kind, Shapes

__all__ = ["RESULTS"]

_COLUMNS: dict[str, Kind] = {
    "prompt": "text",
    "answer": "text",
    "said": "text",
    "rank": "integer",
    "logprob": "number",
    "margin": "number or NaN",
    "correct": "flag",
}
_ASKED: dict[str, Kind] = {
    f"{direction}_{column}": kind
    for direction in ("forward", "reverse")
    for column, kind in _COLUMNS.items()
}

_CARRIED: tuple[Kind, tuple[str, ...]] = (
    "number or NaN",
    ("example", "source_place", "target_place", "source_layer", "target_layer"),
)

RESULTS: Shapes = {
    "headline": {"sentence": "text"},
    "published": PUBLISHED,
    "answers": {
        "fact": "integer",
        "split": "text",
        "direction": "text",
        "templates": "text",
        "template": "integer",
        "logprob": "number",
        "rank": "integer",
        "correct": "flag",
    },
    "facts": {
        "fact": "integer",
        "subject": "text",
        "object": "text",
        "relation": "text",
        "inverse": "text",
        "split": "text",
        **_ASKED,
    },
    "accuracy": {
        "split": "text",
        "direction": "text",
        "templates": "text",
        "correct": "integer",
        "total": "integer",
        "facts": "integer",
        "rate": "number",
        "low": "number",
        "high": "number",
    },
    "arms": {
        "arm": "text",
        "seed": "integer",
        "direction": "text",
        "facts": "integer",
        "accuracy": "number",
        "open_rank": "number",
        "held_rank": "number",
        "score": "number",
        "low": "number or NaN",
        "high": "number or NaN",
    },
    "arm_verdicts": {
        "arm": "text",
        "seed": "integer",
        "id": "text",
        "outcome": "text",
        "n": "integer",
    },
    "lens_names_*": {
        "logprob": ("number", ("example", "layer", "name")),
        "name": ("integer", ("name",)),
    },
    "lens_*": {
        "answer_rank": ("integer", ("example", "layer")),
        "answer_logprob": ("number", ("example", "layer")),
        "subject": ("text", ("example",)),
        "object": ("text", ("example",)),
    },
    "carried_*": {
        **dict.fromkeys(("own", "other", "elsewhere", "name", "as told"), _CARRIED),
        "unpatched": ("number or NaN", ("example",)),
        "fact": ("integer", ("example",)),
    },
    "entries": {
        "own": ("number or NaN", ("example", "compared")),
        "unrelated": ("number or NaN", ("example", "compared")),
        "effect": ("number or NaN", ("example", "asked")),
        "lost": ("number or NaN", ("example", "asked", "neurons", "whose")),
        "fact": ("integer", ("example",)),
    },
    # Where there is nothing to compare, a result has no examples and says why ("refused").
    "attribution_*": {
        "contribution": ("number", ("component", "example", "name")),
    },
    "edits_*": {
        "unseen": ("number or NaN", ("example", "family")),
    },
    "one_map*": {
        "forward": ("number or NaN", ("example", "layer")),
    },
    "association_*": {
        "association": ("number", ("path", "example", "name")),
    },
    "gradients_*": {
        # NaN between blocks of facts.
        "cosine": ("number or NaN", ("example", "name")),
    },
    "patching_*": {
        # NaN at places that a prompt does not have.
        "patched": "number or NaN",
        "clean": ("number", ("example",)),
        "corrupt": ("number", ("example",)),
        "fact": ("integer", ("example",)),
        "layer": ("integer", ("layer",)),
    },
}
