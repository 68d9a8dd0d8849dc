"""The page's colours can be read by day and by night, and Streamlit's own parts have the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.text import colours, markup
from interp.figures.drawing import theme

tomllib = pytest.importorskip("tomllib")  # Python 3.10 has none


def contrast(one: str, other: str) -> float:
    """WCAG 2.2."""
    light, dark = sorted((theme.luminance(one), theme.luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [colours.LIGHT, colours.DARK], ids=["light", "dark"])
def test_every_text_stands_out_from_what_it_is_written_on(palette: dict[str, str]) -> None:
    found = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in colours.READ}
    assert {pair: value for pair, value in found.items() if value < 4.5} == {}


@pytest.mark.parametrize("palette", [colours.LIGHT, colours.DARK], ids=["light", "dark"])
def test_lines_that_tell_something_stand_out_from_the_page(palette: dict[str, str]) -> None:
    for name in ("blue", "green", "accent"):
        assert contrast(palette[name], palette["paper"]) >= 3


def test_both_palettes_name_the_same_colours_and_the_style_sheet_no_others() -> None:
    assert colours.LIGHT.keys() == colours.DARK.keys()
    named = {piece.split(")")[0] for piece in markup.CSS.split("var(--ob-")[1:]} - {"mono"}
    assert named <= colours.LIGHT.keys()
    assert "#" not in markup.CSS  # a colour of its own would be the same by day and by night


def test_streamlit_has_the_same_colours() -> None:
    path = Path(colours.__file__).parents[1] / ".streamlit" / "config.toml"
    options = tomllib.loads(path.read_text())["theme"]
    names = {
        "primaryColor": "accent",
        "backgroundColor": "paper",
        "secondaryBackgroundColor": "soft",
        "textColor": "ink",
        "borderColor": "rule",
    }
    for section, palette in (("light", colours.LIGHT), ("dark", colours.DARK)):
        assert {k: v.lower() for k, v in options[section].items()} == {
            option: palette[name] for option, name in names.items()
        }
