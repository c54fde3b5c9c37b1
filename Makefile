# Every target sets up what it needs: a virtual environment in .venv, once.
#
#   make demo      the whole road on bundled real images: about five minutes, set-up included
#   make test      the tests that take seconds
#   make test-all  all tests
#   make check     what a commit must pass: lint, format, types, tests
#   make docs      the documentation, in site/
#
# Another interpreter or place: make test PYTHON=python3.12 VENV=/tmp/venv

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# Bytecode is compiled when a module is first imported, not for every module of every package.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# A process on each core; the tests of a class or file stay together, since they share fixtures.
PYTEST := $(BIN)/python -m pytest -q -n auto --dist loadscope
SOURCES := src tests benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check lint format types docs clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.core
	$(BIN)/sinet fit examples/fashion-mnist --budget 5ms --minutes 3 --out runs/demo

test: $(VENV)/.dev
	$(PYTEST)

test-all: $(VENV)/.dev
	$(PYTEST) -m "slow or not slow"

check: lint format types test

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)

format: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python docs/make_results.py
	$(BIN)/python docs/make_verbs.py
	$(BIN)/python docs/make_models.py
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "SiNet needs Python 3.10 or later; try: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

# A stamp per set of extras; it is older than pyproject.toml when a dependency has changed.
$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[weights]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@ $(VENV)/.core
