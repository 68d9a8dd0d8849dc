"""Makes the pictures of the tour in docs/explorer.md, and the README's: `python docs/tour.py --root
runs`.

A finished run of `reversal-curse` has to lie in the folder. Each page is opened in a Chromium, as a
reader would, and what fits on a screen of 1280 × 800 is saved, 800 px wide; of the README's, the
circuits, all of it.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.explorer import opened, served
from experiments.records import list_runs

IMAGES = Path(__file__).parent / "images"
PAGES: dict[str, dict[str, str]] = {
    "start": {},
    "study": {},
    "examples": {"way": "reverse", "layer": "1", "position": "2"},
    "circuit": {},
    "probes": {},
    "training": {},
    "compare": {"a": "run={run}&example=0", "b": "run={run}&example=1"},
    "prompt": {"clean": "Tom Cruise's mother is", "answer": "Mary", "corrupt": "", "foil": ""},
    "jobs": {},
}
"""What the address of each page tells beside its name; "{run}" is the newest run."""


def picture(page: Any, width: int = 800) -> bytes:
    """What is on the screen, so many px wide, as WebP."""
    from PIL import Image

    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.thumbnail((width, width))
    out = io.BytesIO()
    image.save(out, "webp", quality=80)
    return out.getvalue()


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    root = given.root.resolve()
    run = list_runs(root)[0].path.relative_to(root).as_posix()
    with served(root) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        for name, query in PAGES.items():
            told = {key: text.format(run=run) for key, text in query.items()}
            page, _ = opened(browser, f"{url}/?{urlencode({'page': name, **told})}")
            page.wait_for_selector('[data-testid="stProgress"]', state="hidden", timeout=120_000)
            (IMAGES / f"explorer-{name}.webp").write_bytes(picture(page))
            if name == "circuit":
                page.locator(".ob-h2").first.evaluate("heading => heading.scrollIntoView()")
                (IMAGES / "explorer.webp").write_bytes(picture(page, 1280))
            page.context.close()


if __name__ == "__main__":
    main()
