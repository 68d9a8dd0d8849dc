"""The instruments beside the best of their peers, one after the other, both sides in one process.

python -m benchmarks.instruments [transplant] [jacobian] [das] [generation] [comparison] [search]
"""

from __future__ import annotations

import argparse

from benchmarks import _comparison, _das, _generation, _jacobian, _search, _transplant

PARTS = {
    "transplant": _transplant.main,
    "jacobian": _jacobian.main,
    "das": _das.main,
    "generation": _generation.main,
    "comparison": _comparison.main,
    "search": _search.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="may be given several times")
    for name in parser.parse_args().only or PARTS:
        print(f"\n## {name}\n", flush=True)
        PARTS[name]([])


if __name__ == "__main__":
    main()
