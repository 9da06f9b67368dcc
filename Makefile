# Every target makes what it needs first: `make demo` and `make test` work in a fresh clone.
#
#   make PYTHON=python3.13 test     another Python
#   make ARGS=--keep demo           arguments for the program behind the target
#   make UV= install                pip, even where uv is installed

PYTHON ?= python3
ARGS ?=
UV ?= $(shell command -v uv)

VENV := .venv
BIN := $(VENV)/bin

# The locks are complete, so nothing is resolved (--no-deps) and nothing without a known hash is installed.
PIP := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/pip install --disable-pip-version-check) --quiet --no-deps
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --universal --generate-hashes --group build \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help install demo test chaos lint format docs lock clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.dev ## everything, for development, into .venv

demo: $(VENV)/.demo ## Kafka, three replicas and a walk through what they do (ARGS=... go to the demo)
	@$(BIN)/python cli.py demo $(ARGS)

test: $(VENV)/.dev ## all tests but the slow ones, in two processes with servers of their own (ARGS=... go to pytest)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

chaos: $(VENV)/.dev ## the slow ones: servers and workers are killed for minutes
	@$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.dev ## ruff, its formatter and mypy; changes nothing
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(VENV)/.dev ## what ruff can mend by itself
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: docs/flow.svg ## the picture in the README, when Graphviz is there

docs/flow.svg: docs/flow.dot
	dot -Tsvg -o $@ $<

lock: $(VENV)/.dev ## the newest versions that pyproject.toml allows, with hashes
	@$(COMPILE) --all-extras --output-file requirements-dev.lock
	@$(COMPILE) --extra rust --extra stack --extra demo --constraint requirements-dev.lock --output-file requirements-demo.lock
	@$(COMPILE) --extra rust --constraint requirements-dev.lock --output-file requirements.lock

clean: ## removes .venv and caches; the servers' data in .stack stays
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

# The smaller half of the environment is enough for the demo and installs in a third of the time.
$(VENV)/.demo: requirements-demo.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements-demo.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing everything for development into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements-dev.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@ $(VENV)/.demo
