"""Types of results: which instrument's Dataset a function takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import xarray as xr

__all__ = [
    "AccuracyTable",
    "ActivationDifference",
    "AnswerLens",
    "Attribution",
    "BackPatched",
    "Curve",
    "DoseResponse",
    "EdgeScores",
    "FactTable",
    "Focus",
    "HeadScores",
    "Lens",
    "MeanDifference",
    "Mixed",
    "Moved",
    "Patched",
    "Patchscoped",
    "Paths",
    "Patterns",
    "Searched",
    "Spread",
    "Subspaces",
    "SuffixScores",
    "Swaps",
    "Transplanted",
    "TwoWays",
    "WeightDifference",
]


@dataclass(frozen=True)
class ResultOf:
    """A Dataset that some functions return.

    Attributes:
        makers: what these functions are called.
        instruments: what stands in its attributes, which arithmetic may have taken away.
        variables: what it holds in any case.
    """

    makers: str
    instruments: tuple[str, ...]
    variables: tuple[str, ...]

    def fits(self, value: Any) -> bool:
        instrument = value.attrs.get("instrument", self.instruments[0])
        # Some names end in how it was computed.
        known = any(str(instrument).startswith(name) for name in self.instruments)
        return known and all(name in value for name in self.variables)

    def __str__(self) -> str:
        return f"a result of {self.makers}"


@dataclass(frozen=True)
class Table:
    """A table of a study.

    Attributes:
        what: what it tells.
        columns: that it has in any case.
    """

    what: str
    columns: tuple[str, ...]

    def fits(self, value: Any) -> bool:
        return set(self.columns) <= set(value.columns)

    def __str__(self) -> str:
        return f"a table of {self.what} (columns {', '.join(self.columns)})"


AccuracyTable = Annotated[
    pd.DataFrame,
    Table("accuracy", ("split", "templates", "direction", "rate", "low", "high")),
]
FactTable = Annotated[
    pd.DataFrame, Table("facts", ("fact", "split", "forward_margin", "reverse_margin"))
]
TwoWays = Annotated[
    pd.DataFrame, Table("means of two ways", ("group", "way", "value", "low", "high", "n"))
]
Patched = Annotated[
    xr.Dataset,
    ResultOf(
        "sweep, estimate or refine",
        ("activation patching", "attribution patching"),
        ("patched", "clean", "corrupt"),
    ),
]
Paths = Annotated[xr.Dataset, ResultOf("patch_paths", ("path patching",), ("patched",))]
EdgeScores = Annotated[
    xr.Dataset, ResultOf("attribute_edges", ("edge attribution",), ("score", "clean", "corrupt"))
]
Curve = Annotated[xr.Dataset, ResultOf("faithfulness_curve", ("circuit faithfulness",), ("f",))]
Subspaces = Annotated[
    xr.Dataset,
    ResultOf("fit_das", ("distributed alignment search",), ("held_out", "boundary", "basis")),
]
Attribution = Annotated[
    xr.Dataset,
    ResultOf("direct_logit_attribution", ("direct logit attribution",), ("contribution",)),
]
DoseResponse = Annotated[xr.Dataset, ResultOf("dose_response", ("dose response",), ("value",))]
HeadScores = Annotated[xr.Dataset, ResultOf("head_scores or detect_heads", ("head scores",), ())]
Focus = Annotated[
    xr.Dataset, ResultOf("instruction_focus", ("instruction focus",), ("attention", "focus"))
]
_LENSES = ("logit lens", "tuned lens", "Jacobian lens")
Lens = Annotated[xr.Dataset, ResultOf("logit_lens", _LENSES, ("top_token",))]
AnswerLens = Annotated[xr.Dataset, ResultOf("logit_lens with answers", _LENSES, ("layer",))]
Spread = Annotated[
    xr.Dataset, ResultOf("JacobianLens.spread", ("spread of a Jacobian lens",), ("distance",))
]
ActivationDifference = Annotated[
    xr.Dataset,
    ResultOf("activation_difference", ("activation difference",), ("norm", "relative", "cosine")),
]
Mixed = Annotated[
    xr.Dataset,
    ResultOf(
        "swap_modules or patch_across",
        ("module swaps", "cross-model patching"),
        ("base", "tuned"),
    ),
]
Swaps = Annotated[
    xr.Dataset, ResultOf("swap_modules", ("module swaps",), ("swapped", "base", "tuned"))
]
MeanDifference = Annotated[
    xr.Dataset,
    ResultOf("mean_difference", ("mean difference",), ("difference", "top_token", "control_logit")),
]
WeightDifference = Annotated[
    xr.Dataset, ResultOf("weight_difference", ("weight difference",), ("norm", "singular_value"))
]
Patterns = Annotated[
    xr.Dataset, ResultOf("attention_patterns", ("attention patterns",), ("pattern",))
]
Transplanted = Annotated[
    xr.Dataset, ResultOf("transplant", ("transplant",), ("source_layer", "target_layer"))
]
BackPatched = Annotated[
    xr.Dataset, ResultOf("back_patching", ("back-patching",), ("mended", "held_out_rate"))
]
Patchscoped = Annotated[
    xr.Dataset, ResultOf("patchscope", ("patchscope",), ("source_layer", "target_layer"))
]
Searched = Annotated[
    xr.Dataset,
    ResultOf(
        "greedy_coordinate_search", ("greedy coordinate search",), ("score", "text", "token_id")
    ),
]
SuffixScores = Annotated[
    xr.Dataset, ResultOf("score_suffixes", ("suffix scores",), ("score", "loss"))
]
Moved = Annotated[
    xr.Dataset, ResultOf("continuous_suffix", ("continuous suffix",), ("score", "vectors"))
]
