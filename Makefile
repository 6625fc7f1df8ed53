# displaced: `make demo` and `make test` need Python 3.11, make and a connection to PyPI, nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
GRID ?= smoke
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo run test test-slow lint explain clean-work

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/installed ## the smoke grid, from the sources to the report
	@$(BIN)/python -m workflow_scripts.run_grid --grid smoke

run: $(VENV)/installed ## a grid: make run GRID=bench
	@$(BIN)/python -m workflow_scripts.run_grid --grid $(GRID)

test: $(VENV)/installed ## the fast tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed ## the tests marked slow
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed ## ruff, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

explain: $(VENV)/installed ## why a cell would run: make explain CELL=results/...
	@$(BIN)/python -m workflow_scripts.explain $(or $(CELL),$(error give the cell: make explain CELL=results/<grid>/evaluations/.../seed-0.json))
