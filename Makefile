# make setup   a virtual environment in .venv with Obverse and all that its tests need
# make demo    the headline study on the bundled model; takes a few minutes
# make app     the explorer in the browser
# make test    every check: style, types, layers, tests
# make bench   timings against what else one could use

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-stamp

.PHONY: setup demo app test bench

setup: $(STAMP)

# Touched last, so that an interrupted installation is not taken for a finished one.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/obverse run reversal-curse
	@echo
	@echo "Open the report named above in a browser, or look around in the explorer: make app"

app: setup
	$(BIN)/obverse app

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

bench: setup
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python -m "benchmarks.$$(basename $$script .py)"; done
