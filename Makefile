# Two commands do all the set-up: `make demo` and `make test`. Both need only Python 3.11 or newer and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := sh .ci/install $(BIN)/python --constraint constraints.txt
USE := .venv/.use
DEV := .venv/.dev
# A second demo leaves the first one alone.
OUT ?= $(shell test -e runs/demo && date +runs/demo-%Y%m%d-%H%M%S || echo runs/demo)
WORKERS ?= auto
LOW := .venv/.lowest
ALONE := .venv/.alone
FILE ?=
SEED ?= 0
COUNT ?= 40

.DEFAULT_GOAL := help
.PHONY: help demo test install doctest lint format types check docs lowest wheel mutants bench examples clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(USE) ## Verify the derivations, solve a mixture, train a small CRATE; results in runs/demo
	@out="$(OUT)"; $(BIN)/srr demo --out "$$out"

test: $(DEV) ## Run the tests
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --ignore=tests/benchmarks tests

install: $(DEV) ## Create .venv with everything needed for development

doctest: $(DEV) ## Run the examples in the docstrings
	$(BIN)/python -m pytest -q srr

lint: $(DEV) ## Check style, format, spelling, the form of docstrings; look for dead code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python .ci/docstrings.py
	$(BIN)/vulture

format: $(DEV) ## Rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV) ## Check types strictly
	$(BIN)/mypy --strict srr

docs: $(DEV) ## Build the documentation into docs/_build/html; the examples run while it builds
	$(BIN)/sphinx-build -W -n -b html docs docs/_build/html

lowest: $(LOW)/.done ## Run the operator tests on the lowest versions that the metadata allows
	PYTHONPATH= $(LOW)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal tests/ops

wheel: $(DEV) ## Build wheel and sdist; install the wheel alone in a fresh environment and compute a rate
	rm -rf dist $(ALONE)
	$(BIN)/python -m build --outdir dist .
	@$(BIN)/python -m venv --without-pip $(ALONE)
	sh .ci/install $(ALONE)/bin/python --constraint constraints.txt dist/srr-*.whl
	cd $(ALONE) && bin/python -I $(CURDIR)/.ci/alone.py

check: $(DEV) ## The fast loop while editing: make check FILE=srr/ops/rates.py
	@$(BIN)/python .ci/check.py $(FILE)

mutants: $(DEV) ## Break lines one by one and see whether the tests notice: make mutants SEED=0 COUNT=40
	@$(BIN)/python .ci/mutants.py $(SEED) $(COUNT)

bench: $(DEV) ## Run the benchmarks
	$(BIN)/python -m pytest -q tests/benchmarks --benchmark-only

examples: $(DEV) ## Run every example as a script
	@for file in examples/plot_*.py; do echo "$$file"; MPLBACKEND=Agg $(BIN)/python "$$file" || exit 1; done

clean: ## Remove what was built, keep .venv and runs
	rm -rf dist docs/_build docs/auto_examples docs/api/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found; try make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; try make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv

$(USE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing srr into .venv; a minute or a few the first time."
	$(PIP) --editable '.[all]'
	@touch $@

$(LOW)/.done: constraints-lowest.txt constraints.txt | $(BIN)/python
	@echo "Installing the lowest versions into $(LOW)."
	@$(BIN)/python -m venv --clear --without-pip $(LOW)
	@grep -i '^torch==' constraints.txt > $(LOW)/torch.txt
	@sh .ci/install $(LOW)/bin/python --constraint constraints-lowest.txt --constraint $(LOW)/torch.txt \
	    array-api-compat array-api-strict 'dask[array]' hypothesis jax mpmath numpy pytest pytest-benchmark pytest-xdist scipy torch
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing srr and the development tools into .venv; a minute or a few the first time."
	$(PIP) --editable '.[all,dev]'
	@touch $@ $(USE)
