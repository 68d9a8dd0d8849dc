"""How long the explorer takes in a real Chromium: the first visit after a start, first paint and
settled of every page, a click on a cell, and a model of GPT-2-small shape with long prompts.

Run `python -m benchmarks.explorer --root runs` with a finished run of `reversal-curse` there. Times
are from the browser's own clock; every page is opened in a context of its own, after one visit that
loads the model and fills the caches, as a researcher has them who goes on working. The pages are
opened in turn, again and again, so that what else the machine does falls on all of them; medians
are told, with quartiles in brackets. Pages with figures on their first screen are opened in a
browser that was there before, too. Beside them stands Streamlit's own part: a page of a heading
alone, served as it comes, opened in the same way and in turn with the others.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.selection import PAGES
from benchmarks._common import describe_machine

_TYPED = "&clean=The+mother+of+Tom+Cruise+is&corrupt=&answer=&foil="

# Notes the first heading and the last change of the page, in ms since it was asked for.
_WATCH = """
window.seen = {first: null, last: 0, words: {}};
window.beat = window.stalled = 0;
setInterval(() => { // a browser that reads scripts changes nothing, and is not at rest
  const now = performance.now();
  if (now - window.beat > 300) window.stalled = now;
  window.beat = now;
}, 50);
window.drawn = () => // figures and tables on the first screen; symbols are smaller
  [...document.querySelectorAll('[data-testid="stMain"] :is(svg, canvas)')].filter((one) => {
    const {top, width} = one.getBoundingClientRect();
    return top < innerHeight && width > 200;
  }).length;
const look = () => {
  const now = performance.now();
  const main = document.querySelector('[data-testid="stMain"]');
  if (!main) return;
  if (window.seen.first === null && main.querySelector('h1, h2, .ob-title, .ob-h2'))
    window.seen.first = now;
};
new MutationObserver((changes) => {
  look();
  const inside = (node) => { // what stands in a canvas is for screen readers, and never seen
    const element = node.nodeType === 1 ? node : node.parentElement;
    return element?.closest?.('[data-testid="stMain"]') && !element.closest('canvas');
  };
  if (changes.some((change) => inside(change.target))) window.seen.last = performance.now();
}).observe(document, {childList: true, subtree: true, characterData: true});
"""
# Nothing has changed for a second in which the browser could have, no script runs, and every figure
# is drawn, as many as an earlier visit found on the first screen.
_SETTLED = """(figures) => window.seen.first !== null && window.drawn() >= figures &&
  performance.now() - Math.max(window.seen.last, window.stalled) > 1000 &&
  !document.querySelector('[data-testid="stApp"][data-test-script-state="running"]') &&
  [...document.querySelectorAll('[data-testid="stPlotlyChart"]')].every(
    (chart) => chart.querySelector('.main-svg'))"""
# The same, and nothing is left to be drawn below the screen.
_WHOLE = _SETTLED + " && !document.querySelector('.ob-later')"
# Nothing is computed any more: else the next visit would begin it anew, and be timed with it.
_DONE = """() => !document.querySelector(
  '.ob-waiting, [data-testid="stProgress"], [data-testid="stSpinner"]')"""
_SCREEN = {"width": 1280, "height": 800}
_EMPTY = 'import streamlit as st\n\nst.html("<h2>A heading</h2>")\n'
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
  if (!plot) return null; // it is drawn anew
  plot.scrollIntoView({block: 'center'});
  const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
  return [box.x + xaxis._offset + xaxis.l2p(column), box.y + yaxis._offset + yaxis.l2p(layer)];
}"""


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """The explorer on a free port; its address."""
    command = ["experiments.cli", "app", "--no-browser", "--root", str(root), "--port"]
    with _served(lambda port: [*command, str(port)]) as url:
        yield url


@contextlib.contextmanager
def empty(folder: Path) -> Iterator[str]:
    """A page of a heading alone, as Streamlit serves it; its address."""
    path = folder / "empty.py"
    path.write_text(_EMPTY, encoding="utf-8")
    command = ["streamlit", "run", str(path), "--server.headless=true"]
    command += ["--browser.gatherUsageStats=false", "--server.address=localhost", "--server.port"]
    with _served(lambda port: [*command, str(port)]) as url:
        yield url


@contextlib.contextmanager
def _served(module: Callable[[int], list[str]]) -> Iterator[str]:
    """What a module with its arguments serves on a free port, once it answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-m", *module(port)],
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


@dataclass(frozen=True)
class Visit:
    """Seconds since the page was asked for.

    Attributes:
        first: the first heading.
        settled: the last change of the first screen.
        whole: the last change of all; what is below the screen is drawn when the page has rested.
    """

    first: float
    settled: float
    whole: float


def opened(
    browser: Any, address: str, *, whole: bool = True, figures: int = 0
) -> tuple[Any, Visit]:
    """A page in a context of its own, when it is settled or all of it is drawn.

    Args:
        figures: how many there are on the first screen.
    """
    page = browser.new_context(viewport=_SCREEN).new_page()
    return page, visited(page, address, whole=whole, figures=figures)


def visited(page: Any, address: str, *, whole: bool = True, figures: int = 0) -> Visit:
    """When an empty page shows what is at an address."""
    page.add_init_script(_WATCH)
    page.goto(address)
    page.wait_for_function(_SETTLED, arg=figures, timeout=120_000, polling=50)
    seen = page.evaluate("window.seen")
    last = seen["last"]
    if whole:
        page.wait_for_function(_WHOLE, arg=figures, timeout=120_000, polling=50)
        last = page.evaluate("window.seen.last")
    return Visit(*(ms / 1000 for ms in (seen["first"], seen["last"], last)))


def click(page: Any, key: str, layer: int, column: int) -> float:
    """Seconds from the press on a cell to the words that tell of it."""
    page.wait_for_function(_CELL, arg=[key, layer, column])
    page.wait_for_timeout(300)  # scrolling moves it
    x, y = page.wait_for_function(_CELL, arg=[key, layer, column]).json_value()
    page.evaluate(_CLICKED, [x, y, f"{key}-below"])
    page.mouse.move(x, y)
    page.mouse.move(x + 1, y + 1)
    page.mouse.click(x + 1, y + 1)
    page.wait_for_function("() => window.told !== null", timeout=30_000, polling=20)
    return float(page.evaluate("window.told")) / 1000


def large(browser: Any, url: str, folder: Path) -> None:
    """A model of GPT-2-small shape with prompts of 60 tokens, from the click that opens it on; with
    another prompt, from the opening of the page: what is open is opened without a question."""
    make_large(folder)
    for number, said in enumerate(("opened for the first time", "another prompt")):
        clean = " ".join(f"w{1 + number + i}" for i in range(60))
        corrupt = clean.replace("w30 ", "w77 ")
        asked = {"model": str(folder), "page": "prompt", "clean": clean, "corrupt": corrupt}
        asked |= {"answer": "w7", "foil": "w8"}
        page = browser.new_context(viewport=_SCREEN).new_page()
        begun = time.monotonic()
        page.goto(f"{url}/?{urllib.parse.urlencode(asked)}")
        if number == 0:
            page.get_by_role("button", name="Open it").click(timeout=120_000)
            begun = time.monotonic()

        def since(script: str, page: Any = page, begun: float = begun) -> float:
            page.wait_for_function(script, timeout=300_000, polling=50)
            return time.monotonic() - begun

        told = since("() => document.querySelector('[data-testid=stSpinner], .ob-strip')")
        lens = since("() => document.querySelector('.st-key-lens-clean .main-svg')")
        drawn = "document.querySelector('.st-key-patching-clean-resid_pre .main-svg')"
        rough = since(f"() => {drawn}")
        # Then all cells can be asked for.
        better = since(
            "() => [...document.querySelectorAll('[data-testid=stMain] button')].some("
            "(button) => button.innerText.includes('Run every cell'))"
        )
        print(
            f"12 layers of 768, 60 tokens, {said}: told what is done {told:.1f} s, lens "
            f"{lens:.1f} s, first estimate {rough:.1f} s, the better one {better:.1f} s",
            flush=True,
        )
        page.context.close()


def make_large(folder: Path) -> None:
    """A model of random weights whose tokenizer reads `w1 w2 …`."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = {"<end>": 0, **{f"w{i}": i for i in range(1, 2000)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"eos_token": "<end>", "unk_token": "<end>", "bos_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_positions=128, **ends)).save_pretrained(
        folder
    )


def pages(browser: Any, url: str, alone: str, repeats: int) -> dict[str, tuple[str, int]]:
    """First paint and settled of every page, and of one at `alone` that holds nothing; returns
    the address of each with figures on its first screen, and how many."""
    addresses = {name: f"{url}/?page={name}" for name in PAGES}
    addresses["prompt"] += _TYPED
    addresses["(empty)"] = alone
    visits: dict[str, list[Visit]] = {name: [] for name in addresses}
    figures = dict.fromkeys(addresses, 0)
    for number in range(repeats + 1):
        for name, seen in visits.items():
            page, visit = opened(browser, addresses[name], figures=figures[name])
            if number:  # the first one has loaded the model and filled the caches
                seen.append(visit)
            else:
                page.wait_for_function(_DONE, timeout=300_000, polling=50)
                page.wait_for_timeout(5_000)
                figures[name] = page.evaluate("window.drawn()")
            page.context.close()
    print("page               first heading               settled               all of it")
    print(f"figures on the first screen: {figures}")
    for name, seen in visits.items():
        told = (spread([getattr(one, at) for one in seen]) for at in ("first", "settled", "whole"))
        print(f"{name:<10}" + "".join(f"{text:>22}" for text in told), flush=True)
    return {name: (addresses[name], n) for name, n in figures.items() if n}


def pages_again(browser: Any, shown: dict[str, tuple[str, int]], repeats: int) -> None:
    """The same in a browser that has kept what it read: in a new tab each time, from the third
    visit of each page on (what is compiled is kept by the second one).

    Args:
        browser: a context whose profile is kept.
        shown: addresses, and numbers of figures on the first screen.
    """
    visits: dict[str, list[Visit]] = {name: [] for name in shown}
    for number in range(repeats + 2):
        for name, (address, figures) in shown.items():
            page = browser.new_page()
            visit = visited(page, address, whole=False, figures=figures)
            if number > 1:
                visits[name].append(visit)
            page.close()
    for name, seen in visits.items():
        told = (spread([getattr(one, at) for one in seen]) for at in ("first", "settled"))
        print(f"{name:<10} kept" + "".join(f"{text:>22}" for text in told), flush=True)


def spread(seconds: list[float]) -> str:
    """The median, and the quartiles in brackets."""
    low, high = sorted(seconds)[len(seconds) // 4], sorted(seconds)[-1 - len(seconds) // 4]
    return f"{statistics.median(seconds):.2f} s [{low:.2f}, {high:.2f}]"


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    print(describe_machine("cpu"))
    print(f"load of the last minute before: {os.getloadavg()[0]:.1f}")
    with (
        tempfile.TemporaryDirectory() as folder,
        served(given.root.resolve()) as url,
        empty(Path(folder)) as alone,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        page, visit = opened(browser, f"{url}/?page=examples", whole=False)
        print(f"first visit, as soon as the server answers: settled {visit.settled:.1f} s")
        page.context.close()
        shown = pages(browser, url, alone, given.repeats)
        kept = playwright.chromium.launch_persistent_context(
            Path(folder) / "profile",
            executable_path=given.chromium,
            args=["--no-sandbox"],
            viewport=_SCREEN,
        )
        pages_again(kept, shown, given.repeats)
        kept.close()
        page, _ = opened(browser, f"{url}/?page=examples&edges=40")
        for key in ("lens-forward", "patching-forward-resid_pre"):
            times = [click(page, key, 1 + n % 2, n % 4) for n in range(4 * given.repeats)]
            print(f"click on {key}: {spread(times)}, longest {max(times):.2f} s", flush=True)
        page.context.close()
        large(browser, url, Path(folder) / "large")
    print(f"load of the last minute after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
