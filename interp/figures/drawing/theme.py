"""What all figures share: one template, three colour scales, and text that is safe to draw."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

SANS = "Inter, system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
INK, MUTED, RULE, EMPTY = "#1f2430", "#5d6470", "#e3e5ea", "#eeeff2"
SMALL, TEXT, HEADING = 11, 12, 15  # the type scale, in px

# Okabe & Ito (2008): told apart with every common kind of colour blindness.
OKABE_ITO = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#F0E442",
)
COLOURS = {
    "forward": "#0072B2",
    "reverse": "#D55E00",
    "both": "#009E73",
    "held_out": "#CC79A7",
}
"""Directions and splits have the same colour in every figure."""

# Lightness falls linearly in OKLab (Ottosson 2020) from end to end; the hue only helps.
SEQUENTIAL = (
    "#f1f9f7",
    "#beeceb",
    "#8ddde3",
    "#5bcbde",
    "#25b7d9",
    "#05a0ce",
    "#0988bf",
    "#0471b2",
    "#1f5b9b",
    "#29477e",
    "#2a355d",
)
# Both arms fall linearly in OKLab lightness; purple is below zero, green above.
DIVERGING = (
    "#6e2881",
    "#843c98",
    "#9852ad",
    "#ac6ac0",
    "#be84cf",
    "#ce9fdc",
    "#ddbce7",
    "#ead9f0",
    "#f7f7f7",
    "#cde8d7",
    "#a4d8b8",
    "#7ac79b",
    "#4fb580",
    "#15a266",
    "#058a56",
    "#057347",
    "#045c38",
)

_SPACES = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡"}
_MONO_WIDTH = 0.62  # of the font size, for one character


def _axis() -> dict[str, Any]:
    return {
        "showgrid": True,
        "gridcolor": RULE,
        "zeroline": False,
        "linecolor": RULE,
        "ticks": "",
        "automargin": True,
        "title": {"font": {"size": TEXT, "color": MUTED}, "standoff": 10},
        "tickfont": {"size": SMALL, "color": INK},
    }


TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": SANS, "size": TEXT, "color": INK},
        "title": {
            "font": {"size": HEADING, "weight": 600},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "pad": {"l": 8},
        },
        "colorway": OKABE_ITO,
        "colorscale": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _axis(),
        "yaxis": _axis(),
        "hoverlabel": {
            "bgcolor": "white",
            "bordercolor": "#b9bec8",
            "font": {"family": SANS, "size": TEXT, "color": INK},
            "align": "left",
        },
        "hovermode": "closest",
        "dragmode": False,
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "bottom",
            "font": {"size": TEXT},
        },
        "margin": {"l": 56, "r": 16, "t": 48, "b": 48},
    }
)


def visible(token: str) -> str:
    """A token with what cannot be seen made visible.

    Leading spaces become "·", other spaces at an end or alone "␣", a line break "↵", and control,
    format and other invisible characters a picture or their code point ("⟨U+202E⟩"), so that no
    token can hide, or turn the direction of the text around it.
    """
    if token and not token.strip(" "):
        return "␣" * len(token)
    lead = len(token) - len(token.lstrip(" "))
    trail = len(token) - len(token.rstrip(" "))
    core = token[lead : len(token) - trail]
    return "·" * lead + "".join(_visible_character(c) for c in core) + "␣" * trail


def escape(text: object) -> str:
    """Text as Plotly should draw it.

    Plotly reads <b>, <a href> and entities in every label and hover text, and $…$ as TeX where a
    page has loaded MathJax. Quotes stay: Plotly would show their entities.
    """
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("$", "&#36;")


def shown(token: str, limit: int | None = None) -> str:
    """A token made visible, shortened to `limit` characters with "…", and escaped."""
    return escape(shorten(visible(token), limit))


def shorten(text: str, limit: int | None) -> str:
    """`text`, or its beginning and "…" where it has more than `limit` characters."""
    if limit is None or len(text) <= limit:
        return text
    return text[: max(1, limit - 1)] + "…"


def characters(pixels: float, size: int = SMALL) -> int:
    """How many characters of monospaced text of `size` px fit into so many pixels."""
    return int(pixels / (size * _MONO_WIDTH))


def colour(name: str, number: int) -> str:
    """The colour of a direction or split, or the next of the palette for any other name."""
    return COLOURS.get(name, OKABE_ITO[number % len(OKABE_ITO)])


def luminance(colour: str) -> float:
    """The relative luminance of a "#rrggbb" colour, 0 to 1 (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def words(name: str) -> str:
    """A column's or split's name for people: "held_out" is "held out"."""
    return name.replace("_", " ")


def finish(fig: go.Figure, *, title: str | None, height: int, **layout: Any) -> go.Figure:
    """Give a figure the template, a title (escaped here) and a height in px."""
    fig.update_layout(template=TEMPLATE, height=height, **layout)
    if title:
        fig.update_layout(title_text=escape(title))
    else:
        fig.update_layout(margin_t=24)
    return fig


def note(fig: go.Figure, text: str, *, below: int) -> None:
    """A line of small print under the plot, `below` px under its lower edge."""
    fig.add_annotation(
        text=escape(text),
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        xanchor="left",
        yanchor="top",
        yshift=-below,
        showarrow=False,
        align="left",
        font={"size": SMALL, "color": MUTED},
    )


def lines(text: str, width: float) -> list[str]:
    """A sentence in as many lines of small print as fit into so many px."""
    return textwrap.wrap(text, max(20, characters(width)))


def export_config(name: str, image: str = "svg", scale: float = 2) -> dict[str, Any]:
    """Plotly's `config`: a mode bar that downloads the figure as `name` in the format `image`."""
    return {
        "displaylogo": False,
        "responsive": True,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": image, "filename": name, "scale": scale},
    }


def colour_bar(title: str, **settings: Any) -> dict[str, Any]:
    """A slim colour bar with its title on top."""
    return {
        # The empty line keeps the title off the topmost label.
        "title": {"text": f"{title}<br> ", "side": "top", "font": {"size": SMALL, "color": MUTED}},
        "tickfont": {"size": SMALL, "color": MUTED},
        "thickness": 10,
        "outlinewidth": 0,
        "x": 1.01,
        "y": 1.0,
        "yanchor": "top",
        "xpad": 4,
        **settings,
    }


def spaced(labels: Sequence[str], cell: float) -> tuple[list[str], float]:
    """Labels for an axis whose cells are `cell` px wide, shortened; and the angle to draw them."""
    longest = max((len(label) for label in labels), default=0)
    if longest <= characters(cell - 4):
        return [escape(label) for label in labels], 0.0
    return [escape(shorten(label, 16)) for label in labels], -90.0 if cell < 20 else -45.0


def _visible_character(character: str) -> str:
    if character in _SPACES:
        return _SPACES[character]
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    category = unicodedata.category(character)
    if category[0] == "C" or category in ("Zl", "Zp") or (category == "Zs" and character != " "):
        return f"⟨U+{code:04X}⟩"
    return f"◌{character}" if category == "Mn" else character
