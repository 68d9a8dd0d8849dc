# make setup   a virtual environment in .venv with Obverse and all that its tests need
# make demo    the headline study on the bundled model; takes a few minutes
# make app     the explorer in the browser
# make test    every check: style, types, layers, tests
# make docs    the documentation as a site, with a reference of every public name, in site/
# make bench   timings against what else one could use

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-stamp

.PHONY: setup demo app test docs bench

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

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo
	@echo "Open site/index.html; the search needs a server: $(BIN)/python -m http.server --directory site"

bench: setup
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python -m "benchmarks.$$(basename $$script .py)"; done
