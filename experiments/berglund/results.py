"""What the report looks for in the stored results."""

from __future__ import annotations

from experiments.run_directory.shapes import Kind, Shapes

__all__ = ["PUBLISHED", "RESULTS"]

PUBLISHED: dict[str, Kind] = {
    "model": "text",
    "measure": "text",
    "among": "text",
    "asked": "text",
    "mean": "number or NaN",
    "pair_low": "number or NaN",
    "pair_high": "number or NaN",
    "low": "number or NaN",
    "high": "number or NaN",
    "pairs": "integer",
    "families": "integer",
}
_SCORED: dict[str, Kind] = {
    "question": "integer",
    "answer": "integer",
    "kind": "text",
    "logprob": "number",
    "first_logprob": "number",
    "last_logprob": "number",
    "n_tokens": "integer",
    "first_token": "integer",
    "rank": "integer",
    "correct": "flag",
}
_CENTRED: dict[str, Kind] = {
    "whole": "number or NaN",
    "per_token": "number or NaN",
    "first": "number or NaN",
    "wins": "number or NaN",
}

RESULTS: Shapes = {
    "headline": {"sentence": "text"},
    "published": PUBLISHED,
    "tuned": {"fingerprint": "text"},
    "training": {"step": "integer", "epoch": "integer", "loss": "number", "tokens": "integer"},
    "people_*": _SCORED,
    "pairs_*": _SCORED,
    "people": {
        "group": "text",
        "asked": "text",
        "told_so": "flag",
        "person": "text",
        "correct": "flag",
        "correct_published": "flag",
        "logprob": "number",
        "rank": "integer",
        "random_logprob": "number or NaN",
        **_CENTRED,
    },
    "pairs": {
        "pair": "integer",
        "asked": "text",
        "family": "integer",
        "shared": "flag",
        "correct": "flag",
        "logprob": "number",
        "published": "number",
        "no_sign": "number",
        "rank": "integer",
        **_CENTRED,
    },
}
