# One word a task. Everything lives in .venv, made by plain pip.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup lock demo test test-slow chaos soak lint format bench clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "Expected $(PYTHON) on the PATH; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY)  ## Virtual environment with all dependencies

lock: $(READY)  ## requirements.txt anew, after a change of pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' --output-file requirements.txt

demo: $(READY)  ## The main job on scikit-learn's digits, minutes on two CPU cores
	$(BIN)/python -m src.run

test: $(READY)  ## All tests but the slow ones, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow'

test-slow: $(READY)  ## The slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

chaos: $(READY)  ## Kill, damage, edit and starve runs: right or refused
	$(BIN)/python -m tests.chaos

soak: $(READY)  ## A parallel sweep, killed again and again: it ends as in peace; SOAK=<options>
	$(BIN)/python -m tests.chaos.soak $(SOAK)

lint: $(READY)  ## Ruff, mypy, import contracts, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(READY)  ## Paired timings, KDCI's cost, against a literal loop; BASE=<revision>: against another one
ifdef BASE
	$(BIN)/python -m benchmarks.against $(BASE)
else
	$(BIN)/python -m benchmarks.paired_timings
	$(BIN)/python -m benchmarks.kdci_costs
	$(BIN)/python -m benchmarks.against_literal
endif

clean:  ## Remove the virtual environment, caches and outputs
	rm -rf $(VENV) cache outputs
