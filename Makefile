# make run    everything from images to the report, in an environment of its own
# make study NAME=ani   a study of studies/ (ani, chars, digits12, efficientnet, spliceai, waifu2x, widths), from pip install to the report
# make findings   all studies, then docs/findings.md and the results in README.md; about half an hour
# make check  tests that need no Slurm, MPI or browser, and no package that pip does not install; about 3 minutes
# make test   all tests; first installs what they need (Debian packages as root) and says what it found
# make lint   style, format and types
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Workers of pytest-xdist; each computes on one thread.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: run study findings check test lint format clean

run: $(VENV)/.train
	$(BIN)/convergence run configs/digits.toml --jobs 2

# Packages of the study, its files, and the run; the last line is the path of the report.
STUDIES := $(sort $(patsubst studies/%/study.toml,%,$(wildcard studies/*/study.toml)))
study: $(VENV)/.train
	@case " $(STUDIES) " in *" $(NAME) "*) ;; *) \
	  echo "NAME is \"$(NAME)\"; valid are $(STUDIES): make study NAME=$(firstword $(STUDIES))"; exit 2;; esac
	@$(BIN)/python -m pip install --quiet --requirement studies/$(NAME)/requirements.txt >studies/$(NAME)/pip.log 2>&1 || { \
	  echo "The packages in studies/$(NAME)/requirements.txt cannot be installed, so $(NAME) does not run here;" \
	    "pip's reasons are in studies/$(NAME)/pip.log."; exit 1; }
	@$(BIN)/python studies/$(NAME)/prepare.py
	@$(BIN)/convergence run studies/$(NAME)/study.toml

findings: $(VENV)/.train
	@for name in $(STUDIES); do $(MAKE) --no-print-directory study NAME=$$name || exit 1; done
	@$(BIN)/convergence run studies/ani/chance.toml
	@$(BIN)/python studies/findings.py

check: $(VENV)/.dev
	$(PYTEST) -m "not (mpi or cluster or browser or slow)" $(PYTEST_ARGS)

test: $(VENV)/.dev
	@$(BIN)/python -m convergence.cli.warm_up & sh tests/setup.sh $(VENV); status=$$?; wait; exit $$status
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
