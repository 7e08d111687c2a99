# Everything from a bare clone: make train, make test. Both set up .venv first, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ENV := PendulumNoVel-v1

SHELL := /bin/bash

.PHONY: help setup train test lint slow-tests

help:
	@echo "make train   train RecurrentTD3 on $(ENV) through the RL Zoo, then evaluate the saved zip (about 5 minutes)"
	@echo "make test    lint, types, import layers, tests"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt startup_hook/*.pth startup_hook/*.start
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || (echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..."; exit 1)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tests]"
	@touch $@

# Defaults, and one thread, as the committed learning results were made
train: setup
	$(BIN)/python -m rl_zoo3.train --algo recurrent_td3 --env $(ENV) -n 20000 --seed 0 --num-threads 1 --eval-freq -1 --progress
	@echo "Evaluating the saved model on 100 episodes"
	@set -o pipefail; $(BIN)/python -m rl_zoo3.enjoy --algo recurrent_td3 --env $(ENV) --folder logs --seed 1000 --num-threads 1 \
		--n-timesteps 20000 --no-render | grep -E "Loading|Episodes$$|Mean"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread for each of the two workers: more would wait for each other at every small operation
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

slow-tests: setup
	$(BIN)/python -m pytest -m slow
