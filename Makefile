# displaced: `make demo` and `make test` need Python 3.11, make, PyPI and PyTorch's package index, nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
GRID ?= smoke
SMOKE ?= 1
OVER = $(if $(CONFIG),--configfile $(CONFIG))
CHOSEN = --grid $(GRID) $(if $(BLOCKS),--blocks $(BLOCKS)) $(OVER)
ON = $(if $(PROFILE),--profile $(PROFILE))
DISPLACED = @$(BIN)/python -m workflow_scripts
PYTEST = $(BIN)/python -m pytest
# One worker for each core (at most 8: each takes a gigabyte), with one thread each (tests/conftest.py).
WORKERS = --numprocesses logical --maxprocesses 8 --dist worksteal
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without byte code every job compiles its libraries anew: 20 s each on a slow core. Many container images forbid it.
unexport PYTHONDONTWRITEBYTECODE
# An environment is fresh if its stamp holds the hash of today's locks, whatever the files' times are.
hash = cat $(1) | sha256sum | cut -d' ' -f1
stale = $(if $(filter $(shell $(call hash,$(2))),$(shell cat $(1)/installed 2>/dev/null)),,stale)
LOCKS := envs/torch-cpu.txt envs/cpu.lock
STALE := $(call stale,$(VENV),$(LOCKS))

.PHONY: stale environment help install demo new run check judge resume status preflight adopt gate publish equivalences test coverage test-slow test-slurm lint explain forecast plan docs optimum llmcompressor audit archive rebuild restore compare truth

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed ## the environment, in .venv

# Of targets that only read: they install nothing, since a run may be using the environment.
environment:
	@test -x $(BIN)/python || { echo "There is no environment in $(VENV): make install" >&2; exit 1; }
	@$(if $(STALE),echo "The environment in $(VENV) is not that of today's locks: make install renews it" >&2)

demo: $(VENV)/installed ## the smoke grid, from the sources to the report
	$(DISPLACED) run --grid smoke

run: $(VENV)/installed ## a grid: make run GRID=bench [BLOCKS=core,seeds], or GRID=mine CONFIG=mine.yaml (PROFILE=slurm on a cluster)
	$(DISPLACED) run $(CHOSEN) $(ON)

new: $(VENV)/installed ## a configuration for a model of your own: make new MODEL=<folder or repo@revision> [NAME=...] [OUT=file] [ITEMS=100]
	$(DISPLACED) new "$(or $(MODEL),$(error name the model: make new MODEL=<folder, GGUF file or repo@revision>))" $(if $(NAME),--name "$(NAME)") $(if $(OUT),--out "$(OUT)") $(if $(ITEMS),--items $(ITEMS)) $(if $(TRAINING),--training $(TRAINING)) $(if $(BENCHMARKS),--benchmarks $(BENCHMARKS))

check: $(VENV)/installed ## every method on the longest items, before a run: make check GRID=mine CONFIG=mine.yaml
	$(DISPLACED) check $(CHOSEN)

judge: $(VENV)/installed ## a compressed model that somebody else made: make judge DENSE=<folder or repo@revision> COMPRESSED=... [ITEMS=100] [SEEDS=3] [TRAINING=smoke] [NAME=...] [CHAT=1]
	$(DISPLACED) judge "$(or $(DENSE),$(error name the dense model: make judge DENSE=<name, folder or repo@revision> COMPRESSED=...))" "$(or $(COMPRESSED),$(error name the compressed model: make judge DENSE=... COMPRESSED=<folder or repo@revision>))" $(if $(ITEMS),--items $(ITEMS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(TRAINING),--training $(TRAINING)) $(if $(BENCHMARKS),--benchmarks $(BENCHMARKS)) $(if $(NAME),--name "$(NAME)") $(if $(CHAT),--chat) $(ON)

resume: $(VENV)/installed ## go on after a killed run: make resume GRID=paper PROFILE=slurm
	$(DISPLACED) run --resume $(CHOSEN) $(ON)

status: environment ## jobs done, running, waiting, failed and why: make status GRID=paper
	$(DISPLACED) status $(CHOSEN)

preflight: environment ## would this cluster run it: make preflight GRID=paper
	$(DISPLACED) preflight $(CHOSEN)

test: $(VENV)/installed ## the fast tests, on all cores
	$(PYTEST) $(WORKERS)

coverage: $(VENV)/installed ## the fast tests, and which lines of the package they run
	$(PYTEST) $(WORKERS) --cov --cov-report term

test-slow: $(VENV)/installed ## the tests marked slow
	$(PYTEST) -m slow

test-slurm: $(VENV)/installed ## the tests on a SLURM cluster, started on this machine (root, Debian or Ubuntu), the smoke grid on it too; SMOKE= without
	SMOKE=$(SMOKE) $(PYTEST) -m slurm tests/slurm --verbose --no-header

lint: $(VENV)/installed ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

explain: environment ## why a cell would run: make explain CELL=results/...
	$(DISPLACED) explain $(or $(CELL),$(error give the cell: make explain CELL=results/<grid>/evaluations/.../seed-0.json)) $(OVER)

forecast: environment ## cells, hours, disk and memory before a run: make forecast GRID=paper DEVICE=a100-80g
	$(DISPLACED) forecast $(CHOSEN) $(if $(DEVICE),--device $(DEVICE))

truth: $(VENV)/installed ## copies of known truth: run the grid truth, then its verdicts beside the expected words
	$(DISPLACED) run --grid truth $(OVER) $(ON)
	$(DISPLACED) truth --grid truth $(OVER)

plan: environment ## items and seeds that a half-width costs, from the variance seen so far: make plan GRID=bench HALF_WIDTH=1
	$(DISPLACED) plan $(CHOSEN) --half-width $(or $(HALF_WIDTH),1) $(if $(DEVICE),--device $(DEVICE))

docs: $(VENV)-docs/installed ## the documentation: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --quiet --strict
	@echo "Documentation: site/index.html"

$(VENV)-docs/installed: $(call stale,$(VENV)-docs,envs/docs.lock)
	@$(PYTHON) -m venv $(VENV)-docs
	@$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/docs.lock
	@$(call hash,envs/docs.lock) > $@

optimum: $(VENV)-optimum/installed ## the environment of compressors with `engine: optimum`, and of others' checkpoints (2 GB)

llmcompressor: $(VENV)-llmcompressor/installed ## the environment of compressors with `engine: llmcompressor` (2 GB)

$(foreach name,optimum llmcompressor,$(eval $(VENV)-$(name)/installed: $(call stale,$(VENV)-$(name),envs/torch-cpu.txt envs/$(name).lock)))
$(VENV)-optimum/installed $(VENV)-llmcompressor/installed: $(VENV)-%/installed:
	@echo "Installing the environment of $* into $(VENV)-$* (2 GB, once)"
	@$(PYTHON) -m venv $(VENV)-$*
	@$(VENV)-$*/bin/python $(INSTALL) --timeout 15 --retries 1 -r envs/torch-cpu.txt
	@$(VENV)-$*/bin/python $(INSTALL) -r envs/$*.lock
	@$(call hash,envs/torch-cpu.txt envs/$*.lock) > $@

audit: ## known vulnerabilities of the libraries in every envs/*.lock (pip-audit, in an environment of its own)
	@$(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@status=0; for lock in envs/*.lock; do echo "$$lock"; \
	.venv-audit/bin/pip-audit --requirement $$lock --no-deps --disable-pip || status=1; done; exit $$status

archive: $(VENV)/installed ## pack a grid: make archive GRID=bench [OUT=reports/bench] [SMALL=1]
	$(DISPLACED) archive --grid $(GRID) $(if $(OUT),--out "$(OUT)") $(if $(SMALL),--small) $(OVER)

rebuild: $(VENV)/installed ## all that follows from an archive, without a model: make rebuild FROM=reports/bench [OUT=folder]
	$(DISPLACED) rebuild "$(or $(FROM),$(error name the archive: make rebuild FROM=reports/bench))" $(if $(OUT),--out "$(OUT)")

restore: $(VENV)/installed ## an archive's cells and adapters back into results/: make restore FROM=archives/bench.tar.gz
	$(DISPLACED) restore "$(or $(FROM),$(error name the archive: make restore FROM=archives/bench.tar.gz))" $(OVER)

adopt: $(VENV)/installed ## after an upgrade: keep results whose code alone changed, if samples made again agree: make adopt GRID=paper
	$(DISPLACED) adopt $(CHOSEN) $(ON)

gate: environment ## whether all verdicts are wanted: make gate GRID=bench WANT=no_loss,displaced (fails with 2, as make does; CI asks python -m workflow_scripts gate: 1 if not, 2 if open)
	$(DISPLACED) gate --grid $(GRID) $(if $(WANT),--want $(WANT))

publish: environment ## finished cells to MLflow, each once: make publish GRID=bench URI=http://tracking:5000
	$(DISPLACED) publish $(CHOSEN) --uri $(or $(URI),$(error name the tracking server: make publish GRID=bench URI=http://tracking:5000))

equivalences: $(VENV)/installed ## whether each stage makes the numbers of the last release, or CHANGELOG.md says otherwise
	$(BIN)/python -m tests.equivalences

compare: environment ## two archives, item by item: make compare A=one.tar.gz B=two.tar.gz [OUT=report.json]
	$(DISPLACED) compare "$(or $(A),$(error name two archives: make compare A=... B=...))" "$(or $(B),$(error name two archives: make compare A=... B=...))" $(if $(OUT),--out "$(OUT)")

# Two steps, because PyTorch's build without CUDA comes from its own index (envs/README.md). No resolver, no compiler;
# --no-compile leaves byte code to the first import of what is really used (half the time).
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile --no-deps
PIP := $(BIN)/python $(INSTALL)

$(VENV)/installed: $(STALE)
	@echo "Installing the environment into $(VENV) (2 GB, 2 to 4 minutes, once)"
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 with its venv module (Debian: apt install python3.11-venv), or make PYTHON=<path>" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --timeout 15 --retries 1 -r envs/torch-cpu.txt
	@$(PIP) -r envs/cpu.lock
	@$(BIN)/python -c "import torch" || { echo "PyTorch does not load: no build without CUDA was found. On a GPU machine: $(PIP) -r envs/cuda.lock, then $(call hash,$(LOCKS)) > $@" >&2; exit 1; }
	@$(call hash,$(LOCKS)) > $@
