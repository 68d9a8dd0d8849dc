# make setup   a virtual environment in .venv with Obverse and all that its tests need
# make demo    the headline study on the bundled model; takes a few minutes
# make app     the explorer in the browser
# make check   style, types, layers and the quick tests: two minutes
# make test    every check: style, types, layers, all tests
# make quantised   the tests of packed weights, with torchao beside the environment
# make docs    the documentation as a site, with a reference of every public name, in site/
# make bench   timings against what else one could use

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-stamp
# Tests run in one process more than there are cores, since some wait for Ray or for each other; each
# takes 1 GB of memory. Quick ones wait for nothing, and to begin costs a process as much as 200 of them.
CORES := $(shell getconf _NPROCESSORS_ONLN)
WORKERS ?= $(shell echo $$(($(CORES) < 8 ? $(CORES) + 1 : 8)))
PYTEST := $(BIN)/pytest --dist worksteal
# Whoever keeps Python from writing what it compiles has each process compile all tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo app style check test quantised quick-tests browser-tests other-tests docs bench

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

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Style and types keep one core busy at most: beside the tests they take less time than before them.
check: setup
	@$(MAKE) -j2 style quick-tests

# What drives a browser waits for a server, and the server for a click: the other tests have the cores
# in between, and give way to both, since who clicks minds a busy machine.
test: setup
	@$(MAKE) -j3 browser-tests style other-tests

quick-tests: setup
	@$(PYTEST) -n $$(($(CORES) < 8 ? $(CORES) : 8)) --ignore=tests/browser -m "not slow"

# One process, so that one server and one browser do for all of it.
browser-tests: setup
	@$(BIN)/pytest tests/browser

# Two lanes, each of which runs where another has failed, too. The tests of the store fork some
# thousand processes to kill them, which is cheap as long as what other tests import is not in memory.
other-tests: setup
	@failed=0; nice -n 19 $(PYTEST) -n $(WORKERS) tests/cache || failed=1; \
	nice -n 19 $(PYTEST) -n $(WORKERS) --ignore=tests/cache --ignore=tests/browser || failed=1; \
	exit $$failed

quantised: setup
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .quantised torchao
	PYTHONPATH=.quantised REQUIRE_QUANTISED=1 $(BIN)/pytest tests/interp/loading/test_packed.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo
	@echo "Open site/index.html; the search needs a server: $(BIN)/python -m http.server --directory site"

bench: setup
	@set -e; for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/[!_]*.py)); do echo "== $$script"; $(BIN)/python -m "benchmarks.$$(basename $$script .py)"; done
