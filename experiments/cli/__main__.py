"""`python -m experiments.cli`, where the `obverse` script is not on the path."""

from __future__ import annotations

from experiments.cli.application import main

if __name__ == "__main__":
    main()
