"""How long the explorer takes in a real Chromium: first paint, settled, and a click on a cell.

Run `python -m benchmarks.explorer --root runs` with a finished run of `reversal-curse` there. Times
are from the browser's own clock; every page is opened in a context of its own, after one visit that
loads the model and fills the caches, as a researcher has them who goes on working.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.selection import PAGES
from benchmarks._common import describe_machine

_TYPED = "&clean=The+mother+of+Tom+Cruise+is&corrupt=&answer=&foil="

# Notes the first heading and the last change of the page, in ms since it was asked for.
_WATCH = """
window.seen = {first: null, last: 0, words: {}};
const look = () => {
  const now = performance.now();
  const main = document.querySelector('[data-testid="stMain"]');
  if (!main) return;
  if (window.seen.first === null && main.querySelector('h1, h2, .ob-title, .ob-h2'))
    window.seen.first = now;
};
new MutationObserver((changes) => {
  look();
  const inside = (node) => (node.nodeType === 1 ? node : node.parentElement)?.closest?.(
    '[data-testid="stMain"]');
  if (changes.some((change) => inside(change.target))) window.seen.last = performance.now();
}).observe(document, {childList: true, subtree: true, characterData: true});
"""
# Nothing has changed for a second, no script runs, and every figure is drawn.
_SETTLED = """() => window.seen.first !== null && performance.now() - window.seen.last > 1000 &&
  !document.querySelector('[data-testid="stApp"][data-test-script-state="running"]') &&
  [...document.querySelectorAll('[data-testid="stPlotlyChart"]')].every(
    (chart) => chart.querySelector('.main-svg'))"""
# From the press of the button to the words that tell of the cell.
_CLICKED = """([x, y, name]) => {
  const place = document.querySelector(`[data-words="${name}"]`);
  const old = place.innerHTML;
  window.told = null;
  addEventListener('mousedown', () => { window.pressed = performance.now(); }, {once: true});
  new MutationObserver((_, observer) => {
    const now = document.querySelector(`[data-words="${name}"]`);
    if (now && now.innerHTML !== old && now.style.opacity === '') {
      window.told = performance.now() - window.pressed;
      observer.disconnect();
    }
  }).observe(document.body, {childList: true, subtree: true, attributes: true});
}"""
_CELL = """([key, layer, column]) => {
  const plots = [...document.querySelectorAll(`.st-key-${key} .js-plotly-plot`)];
  const plot = plots.find((one) => one.offsetParent && one._fullLayout);
  plot.scrollIntoView({block: 'center'});
  const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
  return [box.x + xaxis._offset + xaxis.l2p(column), box.y + yaxis._offset + yaxis.l2p(layer)];
}"""


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """The explorer on a free port; its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "experiments.cli", "app", "--no-browser"]
    child = subprocess.Popen(
        [*command, "--port", str(port), "--root", str(root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://localhost:{port}"
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/_stcore/health").read()
                break
            time.sleep(0.1)
        yield url
    finally:
        child.terminate()
        child.wait()


def opened(browser: Any, address: str) -> tuple[Any, float, float]:
    """A page in a context of its own: it, seconds to its first heading, and until it is settled."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(_WATCH)
    page.goto(address)
    page.wait_for_function(_SETTLED, timeout=120_000, polling=50)
    seen = page.evaluate("window.seen")
    return page, seen["first"] / 1000, seen["last"] / 1000


def click(page: Any, key: str, layer: int, column: int) -> float:
    """Seconds from the press on a cell to the words that tell of it."""
    x, y = page.evaluate(_CELL, [key, layer, column])
    page.wait_for_timeout(300)
    x, y = page.evaluate(_CELL, [key, layer, column])
    page.evaluate(_CLICKED, [x, y, f"{key}-below"])
    page.mouse.move(x, y)
    page.mouse.move(x + 1, y + 1)
    page.mouse.click(x + 1, y + 1)
    page.wait_for_function("() => window.told !== null", timeout=30_000, polling=20)
    return float(page.evaluate("window.told")) / 1000


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    print(describe_machine("cpu"))
    with served(given.root.resolve()) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        print("page        first paint  settled")
        for name in PAGES:
            address = f"{url}/?page={name}" + (_TYPED if name == "prompt" else "")
            try:
                opened(browser, address)[0].context.close()
            except Exception as error:  # told, and the other pages are measured
                print(f"{name:<12}{type(error).__name__}")
                continue
            firsts, lasts = [], []
            for _ in range(given.repeats):
                page, first, last = opened(browser, address)
                firsts.append(first)
                lasts.append(last)
                page.context.close()
            print(
                f"{name:<12}{statistics.median(firsts):>9.2f} s{statistics.median(lasts):>8.2f} s",
                flush=True,
            )
        page, _, _ = opened(browser, f"{url}/?page=examples&edges=40")
        for key in ("lens-forward", "patching-forward-resid_pre"):
            times = [click(page, key, 1 + n % 2, n % 4) for n in range(8)]
            print(
                f"click on {key}: median {statistics.median(times) * 1000:.0f} ms, "
                f"longest {max(times) * 1000:.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
