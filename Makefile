# make run    everything from images to the report, in an environment of its own
# make check  tests that need no Slurm, MPI or browser, and no package that pip does not install; about 5 minutes
# make test   all tests; first installs what they need (Debian packages as root) and says what it found
# make lint   style, format and types
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Workers of pytest-xdist; each computes on one thread.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: run check test lint format clean

run: $(VENV)/.train
	$(BIN)/convergence run configs/digits.toml

check: $(VENV)/.dev
	$(PYTEST) -m "not (mpi or cluster or browser or slow)" $(PYTEST_ARGS)

test: $(VENV)/.dev
	@sh tests/setup.sh $(VENV)
	$(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; found: $$($(PYTHON) --version 2>&1). Name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@

$(VENV)/.dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
