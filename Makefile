# Two commands on a fresh machine with Python 3.11+ and make:  make quickstart,  make test
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test test-fast lint data bench clean

quickstart: $(READY)
	$(BIN)/hpo run

test: $(READY) data
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

test-fast: $(READY)
	$(BIN)/pytest -m "not slow and not browser" -n 2

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

data: $(READY)
	$(BIN)/python -m objectives.data.fashion_mnist

bench: $(READY)
	$(BIN)/python benchmarks/overhead.py

# torch comes first and by its exact version: a later step must not choose another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
