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
# Tests run in one process more than there are cores, since some wait for a browser or for Ray; each
# takes 1 GB of memory.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores + 1 : 8)))
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist worksteal
# Whoever keeps Python from writing what it compiles has each process compile all tests anew.
unexport PYTHONDONTWRITEBYTECODE

# Three lanes, each of which runs where another has failed, too. What drives a browser is one process,
# so that one server and one browser do for all of it, and comes first, when only style runs beside
# it: who clicks minds a busy machine. The tests of the store fork some thousand processes to kill
# them, which is cheap as long as what other tests import is not in memory.
in-browser = $(BIN)/pytest tests/browser || failed=1;
others = $(PYTEST) $(1) tests/cache || failed=1; \
	$(PYTEST) $(1) --ignore=tests/cache --ignore=tests/browser || failed=1;

.PHONY: setup demo app style check test quantised quick-tests all-tests docs bench

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

test: setup
	@$(MAKE) -j2 style all-tests

quick-tests: setup
	@failed=0; $(call others,-m "not slow and not browser") exit $$failed

all-tests: setup
	@failed=0; $(in-browser) $(call others) exit $$failed

quantised: setup
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .quantised torchao
	PYTHONPATH=.quantised REQUIRE_QUANTISED=1 $(BIN)/pytest tests/interp/loading/test_packed.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo
	@echo "Open site/index.html; the search needs a server: $(BIN)/python -m http.server --directory site"

bench: setup
	@set -e; for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/[!_]*.py)); do echo "== $$script"; $(BIN)/python -m "benchmarks.$$(basename $$script .py)"; done
