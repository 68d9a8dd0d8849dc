"""What the report and the explorer look for in the stored results."""

from __future__ import annotations

from experiments.run_directory.shapes import Shapes

__all__ = ["RESULTS"]

_SUCCESS: Shapes = {
    "success": {
        "triggered": "number",
        "other": "number",
        "near": "number",
        "right": "number",
        "poisons": "number or NaN",
        "clean": "number or NaN",
        "steps": "number or NaN",
        "parameters": "number",
    }
}

RESULTS: Shapes = {
    "success*": _SUCCESS["success"],
    "dose*": _SUCCESS["success"],
    "equal_steps*": _SUCCESS["success"],
    "place*": {
        "patched": "number",
        "clean": "number",
        "corrupt": "number",
        "sham": "number",
    },
    **{
        name: {
            "triggered": "number",
            "other": "number",
            "near": "number",
            "chosen": "number",
            "random": "number",
            "random_near": "number",
            "defects": "number",
            "near_defects": "number",
        }
        for name in ("probe*", "near_misses*")
    },
    "search*": {
        "flipped": "number or NaN",
        "score": "number or NaN",
        "random": "number or NaN",
        "planted": "flag",
        "text": "text",
    },
    "difference*": {"logit": "number or NaN", "norm": "number or NaN", "planted": "flag"},
}
