"""Figures as SVG, drawn by a browser without a window.

Plotly draws in JavaScript, so this needs Kaleido (`pip install "obverse[svg]"`) and a Chrome or
Chromium. Where there is none, the camera above each figure of the HTML page saves the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

__all__ = ["svg"]

_WIDTH = 900
_LEAST_HEIGHT = 420


def svg(figures: Mapping[str, go.Figure]) -> tuple[dict[str, bytes], str]:
    """Each figure as SVG, and why there is none where there is none."""
    if not figures:
        return {}, ""
    try:
        import kaleido
    except ImportError:
        return {}, 'Kaleido is not installed (pip install "obverse[svg]")'
    try:
        kaleido.start_sync_server(silence_warnings=True)
        try:
            return {name: _one(figure) for name, figure in figures.items()}, ""
        finally:
            kaleido.stop_sync_server(silence_warnings=True)
    except Exception as error:  # of the browser, of which there are many
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {}, f"no browser draws them ({reason[:200]})"


def _one(figure: go.Figure) -> bytes:
    import kaleido

    width = figure.layout.width or _WIDTH
    height = figure.layout.height or _LEAST_HEIGHT
    options = {"format": "svg", "width": int(width), "height": int(height)}
    found: bytes = kaleido.calc_fig_sync(figure.to_dict(), opts=options)
    return found
