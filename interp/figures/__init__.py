"""One Plotly figure for each kind of result; notebooks, reports and the explorer use the same."""

from interp.figures.accuracy import accuracy_bars
from interp.figures.circuit import circuit_map
from interp.figures.facts import direction_scatter
from interp.figures.faithfulness import faithfulness_lines
from interp.figures.lens import lens_heatmap
from interp.figures.patching import patching_map
from interp.figures.paths import path_map
from interp.figures.ranks import rank_lines

__all__ = [
    "accuracy_bars",
    "circuit_map",
    "direction_scatter",
    "faithfulness_lines",
    "lens_heatmap",
    "patching_map",
    "path_map",
    "rank_lines",
]
