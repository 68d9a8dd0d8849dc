"""One Plotly figure for each kind of result; notebooks, reports and the explorer use the same."""

from interp.figures.accuracy import accuracy_bars, way_bars
from interp.figures.attention import head_score_grid, pattern_grid, pattern_map, roc_lines
from interp.figures.attribution import attribution_bars, attribution_map
from interp.figures.circuit import circuit_map
from interp.figures.comparison import difference_map, spectrum_lines
from interp.figures.contrast import contrast_map
from interp.figures.doses import dose_lines, search_lines
from interp.figures.facts import direction_scatter
from interp.figures.faithfulness import faithfulness_lines
from interp.figures.lens import lead_lines, lens_heatmap, spread_lines
from interp.figures.patching import patching_map
from interp.figures.patchscope import patchscope_map
from interp.figures.paths import path_map
from interp.figures.ranks import rank_lines
from interp.figures.subspaces import subspace_lines, subspace_map
from interp.figures.swaps import across_map, swap_lines
from interp.figures.trajectories import step_lines, trajectory_lines
from interp.figures.vectors import back_patching_map, transplant_map

__all__ = [
    "accuracy_bars",
    "across_map",
    "attribution_bars",
    "attribution_map",
    "back_patching_map",
    "circuit_map",
    "contrast_map",
    "difference_map",
    "direction_scatter",
    "dose_lines",
    "faithfulness_lines",
    "head_score_grid",
    "lead_lines",
    "lens_heatmap",
    "patching_map",
    "patchscope_map",
    "path_map",
    "pattern_grid",
    "pattern_map",
    "rank_lines",
    "roc_lines",
    "search_lines",
    "spectrum_lines",
    "spread_lines",
    "step_lines",
    "subspace_lines",
    "subspace_map",
    "swap_lines",
    "trajectory_lines",
    "transplant_map",
    "way_bars",
]


def __dir__() -> list[str]:
    return sorted(__all__)
