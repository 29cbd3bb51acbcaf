# `make help` lists what there is. Every step of the set-up leaves a stamp, so that the second run is quick.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt
TORCH := torch==2.13.0

# One thread: the models of the tests are tiny, and two threads on a busy machine mostly wait for each other.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test setup peers bench soak matrix card retrain watch format clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.lab ## JupyterLab on a fresh copy of the tour (servers: make demo ARGS=--no-browser)
	@$(PY) -m interp_widgets demo $(ARGS)

test: setup ## everything, as CI runs it (one stage: make test ARGS=unit; list: make test ARGS=--list)
	@$(PY) tests/stages.py $(ARGS)

setup: $(VENV)/.dev node_modules/.package-lock.json chromium peers ## what `make test` needs, without running it

peers: | $(PY) ## the environments of TransformerLens, nnsight, Captum, Inseq, CircuitsVis (kept outside the clone)
	@$(PYTHON) tests/peers/environments.py

bench: $(VENV)/.dev ## the ratios against peers; writes bench/RESULTS.md
	@$(PY) -m bench $(ARGS)

soak: $(VENV)/.dev node_modules/.package-lock.json chromium ## twenty minutes of random use in a real JupyterLab
	@$(PY) -m pytest tests/soak -s $(ARGS)

matrix: $(VENV)/.dev ## try every architecture of the installed transformers; write the table of docs
	@$(PY) -m tests.matrix $(ARGS)

card: $(VENV)/.dev ## measure the embedded model again and write its card
	@$(PY) -m interp_widgets.builtin.card $(ARGS)

retrain: $(VENV)/.dev ## train the embedded model again from its seed (slow)
	@$(PY) -m interp_widgets.builtin.train $(ARGS)

watch: $(VENV)/.dev node_modules/.package-lock.json ## JupyterLab whose widgets reload when a file of js/ is saved
	@$(PIP) -e '.[watch]'
	@npm run --silent watch & trap "kill $$!" EXIT INT TERM; ANYWIDGET_HMR=1 $(PY) -m interp_widgets demo $(ARGS)

format: $(VENV)/.dev node_modules/.package-lock.json ## format and repair what can be repaired
	@$(PY) -m ruff check --fix --quiet . || true
	@$(PY) -m ruff format --quiet .
	@npm run --silent format
	@$(PY) -m tests.cases

clean: ## remove what the set-up made here (the peers' environments stay)
	rm -rf $(VENV) node_modules build dist

# --- set-up ----------------------------------------------------------------------------------------------------------
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "interp_widgets needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say which one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq install --yes python3-venv >/dev/null; } || \
	  { echo "Python's venv is missing; install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.lab: pyproject.toml constraints.txt | $(PY)
	@echo "installing interp_widgets with JupyterLab into $(VENV) (a few minutes the first time)"
	@$(PIP) '$(TORCH)' -e '.[lab]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(PY)
	@echo "installing the development environment into $(VENV) (a few minutes the first time)"
	@$(PIP) '$(TORCH)' -e '.[dev]'
	@touch $@ $(VENV)/.lab

node_modules/.package-lock.json: package.json package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing; install Node 20 or newer" >&2; exit 1; }
	@echo "installing the front end's tools into node_modules"
	@npm ci --loglevel=error --no-audit --no-fund >/dev/null
	@touch $@

.PHONY: chromium
chromium:
	@$(PYTHON) tests/browser/chromium.py
