# Two commands on a fresh machine with Python 3.11+ and make:  make quickstart,  make test
PYTHON ?= python3
# What is given to pip for torch: a version, a wheel, or options that name another source of it.
TORCH ?= torch
BIN := .venv/bin
READY := .venv/.ready
TOOLS := .venv/.tools
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
STARTED = $(wildcard mlruns/studies/quickstart/spec.yaml)

.PHONY: quickstart test test-fast lint data clean
.PHONY: bench bench-stn bench-hypergrad bench-peers bench-scale bench-ray bench-augment

# A second time it continues the study, and says how it ended if it is finished.
quickstart: $(READY)
	$(BIN)/hpo run $(if $(STARTED),--resume --name quickstart)
	@echo "          . $(BIN)/activate      then hpo is a command of this shell"

test: $(TOOLS) data
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not cluster"
	$(BIN)/pytest -m cluster -n 2 --dist loadfile

test-fast: $(TOOLS)
	$(BIN)/pytest -m "not slow and not browser and not cluster" -n 2

lint: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

data: $(READY)
	$(BIN)/python -m objectives.data.fashion_mnist

bench: $(READY)
	$(BIN)/python benchmarks/overhead.py

bench-stn: $(READY) data
	$(BIN)/python benchmarks/stn.py

bench-hypergrad: $(TOOLS)
	$(BIN)/python benchmarks/hypergrad.py

bench-scale: $(READY)
	$(BIN)/python benchmarks/scale.py

bench-peers: $(READY)
	$(BIN)/python benchmarks/peers.py

bench-ray: $(TOOLS)
	$(BIN)/python benchmarks/ray.py

bench-augment: $(TOOLS) data
	$(BIN)/python benchmarks/augment.py

# torch comes first and by its exact version: a later step must not choose another build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "this is Python %d.%d, 3.11 or newer is needed: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	@echo "making .venv: some minutes and gigabytes, once; torch is most of it"
	@$(PYTHON) -m venv .venv
	$(INSTALL) $(TORCH)
	$(INSTALL) --editable .
	@touch $@

$(TOOLS): $(READY)
	$(INSTALL) --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
