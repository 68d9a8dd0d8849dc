"""Four people at once: every number as if each were alone, and no memory is lost.

Here they click for some seconds; for minutes, with
`OBVERSE_ROUNDS=100 pytest -n 0 tests/browser/test_together.py`.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.compute import pairs
from app.compute.engine import Engine, ModelSpec
from app.selection import SITES
from experiments.explorer import Pair
from experiments.numbers import probability
from experiments.reversal_curse.explorer import page as study_page
from interp.figures.drawing import theme
from interp.loading.load import load_model
from tests.browser.conftest import Explorer
from tests.browser.looking import (
    OpenPage,
    click_cell,
    click_point,
    wait_until_all_is_drawn,
    wait_until_exact,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_WARM = 2
"""Rounds in which each of them clicks once, after which all that is kept has been kept once."""
_ROUNDS = int(os.environ.get("OBVERSE_ROUNDS", "4"))
"""Rounds after these."""

# The table of the next tokens after the chosen patch: (token, probability) by row.
_SAID = """name => {
  const told = document.querySelector(`[data-words="${name}-after"] .ob-two > div:nth-child(2)`);
  const column = (kind) => [...(told?.querySelectorAll(`.ob-next .${kind}`) ?? [])];
  const values = column("p").map((one) => one.innerText);
  return column("t").map((one, row) => [one.innerText, values[row]]);
}"""

_WHERE = """([key, layer, column]) => {
  const plots = [...document.querySelectorAll(`.st-key-${key} .js-plotly-plot`)];
  const plot = plots.find((one) => one.offsetParent), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout;
  return [box.x + xaxis._offset + xaxis.l2p(column), box.y + yaxis._offset + yaxis.l2p(layer)];
}"""


# A browser that is so busy that it paints late hears each click all the same.
_LATE = """() => {
  const paint = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (then) => setTimeout(() => paint(then), 3000);
}"""


@dataclass
class Person:
    """Somebody who patches one fact at one site.

    Attributes:
        key: of the map that is clicked into.
        places: the columns' labels, or heads at "z".
    """

    page: Any
    site: str
    pair: Pair
    key: str
    places: Sequence[Any]
    n_layers: int
    cell: tuple[int, int] = (0, 0)

    def click(self, chance: random.Random) -> None:
        before = self.cell
        while self.cell == before:
            self.cell = chance.randrange(self.n_layers), chance.randrange(len(self.places))
        # Nothing moves on a page that nobody scrolls, so that no click has to wait for it.
        x, y = self.page.evaluate(_WHERE, [self.key, *self.cell])
        taken = click_point(self.page, self.key, x, y, seconds=60)
        assert taken, f"a click on {self.site} {self.cell} is lost"

    def expected(self, engine: Engine, spec: ModelSpec) -> list[list[str]]:
        """What is said after this patch when nobody else asks."""
        layer, column = self.cell
        head = self.site == "z"
        found = engine.patch(
            spec,
            self.pair,
            self.site,
            layer,
            label=None if head else str(self.places[column]),
            head=int(self.places[column]) if head else None,
        ).sel(run="patched")
        tokens = [str(token) for token in found["top_token"].values[:10]]
        chances = [float(p) for p in found["top_prob"].values[:10]]
        return [
            [theme.shorten(theme.visible(token), 40), probability(p)]
            for token, p in zip(tokens, chances, strict=True)
        ]

    def said(self, wanted: list[list[str]]) -> list[list[str]]:
        """What the page says, as soon as it is what is wanted or after a minute."""
        end = time.monotonic() + 60
        while (told := self.page.evaluate(_SAID, self.key)) != wanted and time.monotonic() < end:
            self.page.wait_for_timeout(50)
        return [[str(text) for text in row] for row in told]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_four_at_once_get_the_numbers_of_one(explorer: Explorer, open_page: OpenPage) -> None:
    record, way = explorer.record, study_page().examples.ways[0]  # type: ignore[union-attr]
    table = record.table("facts")
    stored = record.dataset("patching_forward_resid_pre")
    spec = ModelSpec(str(record.config["model"]))
    model = load_model(spec.source)
    alone = Engine(lambda _: model)
    people, opened = [], []
    for number, site in enumerate(SITES):  # all of them load beside each other
        at = number % stored.sizes["example"]
        # Each page is a session of its own.
        page = open_page(f"/?example={int(stored['fact'].values[at])}&site={site}")
        opened.append((site, at, page))
    for site, at, page in opened:
        pair = pairs.stored(stored, at, table, way)
        key = f"patching-forward-{site}"
        wait_until_exact(page, key)
        click_cell(page, key, 0, 0)  # scrolls there
        wait_until_all_is_drawn(page)
        slots = alone.aligned(spec, pair).slots
        tokens = sorted(slots, key=slots.__getitem__)
        places = range(model.n_heads) if site == "z" else tokens
        if site == "z":
            page.evaluate(_LATE)
        people.append(Person(page, site, pair, key, places, model.n_layers))
    chance, memory = random.Random(0), 0.0
    for number in range(_WARM + _ROUNDS):
        if number == _WARM:
            memory = _resident(explorer.pid)
        for one in people:
            one.click(chance)
        for one in people:
            wanted = one.expected(alone, spec)
            assert one.said(wanted) == wanted, f"{one.site} {one.cell}"
    assert abs(_resident(explorer.pid) - memory) < 25
    for one in people:
        assert one.page.locator("[data-testid='stException']").count() == 0


def _resident(pid: int) -> float:
    """MB of memory that a process and those that it has started hold."""
    process = Path("/proc") / str(pid)
    lines = (process / "status").read_text().splitlines()
    held = int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000
    children = (process / "task" / str(pid) / "children").read_text().split()
    return held + sum(_resident(int(child)) for child in children)
