# Everything here needs Python 3.11 or newer, make and PyPI; no root, no server.
# `make` alone lists the targets. The same targets run in CI (.ci/run).

# An interpreter of your choice: make setup PYTHON=python3.13
PYTHON ?=
# Where `make up` and `make down` keep their data; empty means the default, a directory of yours.
DATA_DIR ?=
# How many tests run at once: one more than two cores, since many wait for a process or a time limit.
TEST_WORKERS ?= 3
# Passed on: make test ARGS='-k merkle', make bench ARGS=--help
ARGS ?=

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DATA_DIR_OPTION := $(if $(DATA_DIR),--data-dir $(DATA_DIR))

# Images like to forbid bytecode. Each service and each command of a test, hundreds in all, would
# then compile all of our modules by itself.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test lint format protos check-protos breaking faults fuzz bench wheel-check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- the environment -------------------------------------------------------------------------------
# Two steps, so that `make demo` on a fresh machine installs only what running needs.

$(VENV)/.stamp-run: pyproject.toml constraints.txt
	@sh scripts/make_venv.sh $(VENV) $(PYTHON)
	@$(PIP_INSTALL) --editable '.[gateway]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-run
	@echo "Installing the development tools ..."
	@$(PIP_INSTALL) --editable '.[dev,aws,gcp]'
	@touch $@

setup: $(VENV)/.stamp-dev ## Make .venv with everything that running and developing needs

# --- running ---------------------------------------------------------------------------------------

demo: $(VENV)/.stamp-run ## All services, 500 real changes, receipts verified offline, one byte flipped
	@$(BIN)/python -m provledger_cli.demo $(ARGS)

up: $(VENV)/.stamp-run ## Start the services on this machine and leave them running
	@$(BIN)/provledger up $(DATA_DIR_OPTION) $(ARGS)

down: $(VENV)/.stamp-run ## Stop the services that `make up` started
	@$(BIN)/provledger down $(DATA_DIR_OPTION) $(ARGS)

# --- checking --------------------------------------------------------------------------------------

test: $(VENV)/.stamp-dev ## Tests, with real SQLite, PostgreSQL and gRPC; ARGS=--thorough for all
	@$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.stamp-dev ## Style, types, import rules, contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/protos.py lint

format: $(VENV)/.stamp-dev ## Rewrite the code in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

protos: $(VENV)/.stamp-dev ## Regenerate libs/common/provledger/api from proto/
	@$(BIN)/python scripts/protos.py generate

check-protos: $(VENV)/.stamp-dev ## Fail if the generated code is not fresh
	@$(BIN)/python scripts/protos.py check

breaking: $(VENV)/.stamp-dev ## Fail if proto/ breaks what it promised: make breaking ARGS=v0.1.0
	@$(BIN)/python scripts/protos.py breaking $(ARGS)

faults: $(VENV)/.stamp-dev ## Attack the services with everything there is, for hours: docs/faults.md
	@PROVLEDGER_FAULTS=full $(BIN)/pytest tests/faults tests/e2e/test_key_ceremonies.py -n $(TEST_WORKERS) --dist loadfile $(ARGS)

fuzz: $(VENV)/.stamp-dev ## Fuzz every decoder, ten minutes in all: make fuzz ARGS='--each 60 json'
	@$(PIP_INSTALL) --editable '.[fuzz]'
	@$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.stamp-dev ## Measure, with JSON on stdout: docs/benchmarks.md
	@$(PIP_INSTALL) py-spy
	@$(BIN)/python -m tests.bench $(ARGS)

wheel-check: $(VENV)/.stamp-dev ## Build the wheel, install it alone, run it
	@$(BIN)/python scripts/check_wheel.py

clean: ## Delete .venv, caches and build output
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
