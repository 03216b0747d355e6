# Each target makes .venv first if it is missing, with plain pip; a second call is quick.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PARALLEL = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal --durations=20
COUNT ?= 20
SEED ?= 0

LOCK ?=

RUNS ?= 1
KILLS ?= 30

.PHONY: setup demo sweep-demo test check chaos mutants lint format docs lock gate
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/vop demo

sweep-demo: setup
	$(BIN)/python -m pipelines.cli.sweep_demo

# Everything. Tests without Ray share the cores; the others, which wait much, run after them on two Rays.
test: setup
	$(PARALLEL) -m "not ray"
	$(BIN)/python -m pytest -m ray -n 2 --dist worksteal --durations=20

# The loop of a change: style, types, and the tests that need no Ray and no more than two seconds.
check: lint
	$(PARALLEL) -m "not ray and not slow"

# Faults, by hand: `make chaos SEED=1 RUNS=3 KILLS=30`; prints what was tried and what held.
chaos: setup
	$(BIN)/python -m tests.chaos --seed $(SEED) --runs $(RUNS) --kills $(KILLS)

# How many small faults in vop/ the tests find: a sample, `make mutants COUNT=60 SEED=1`.
mutants: setup
	$(BIN)/python -m tests.mutants --count $(COUNT) --seed $(SEED)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --strict

# constraints.txt: every distribution that setup installs, on any machine. LOCK=--upgrade takes the newest.
lock: setup
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate $(LOCK) --extra dev \
		--custom-compile-command "make lock  # uv pip compile; keeps the versions that stand here (LOCK=--upgrade: the newest)" \
		pyproject.toml -o constraints.txt

# The release gate with every interpreter that this machine has; `.ci/wheel` alone is what CI runs of it.
gate:
	.ci/wheel all
