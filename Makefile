# The one entry to the project: `make help` lists what there is. Each target does its own set-up in a fresh clone, once.
# CI calls these targets and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Somebody else's packages must not leak into ours.
unexport PYTHONPATH PYTHONHOME
# The tests start hundreds of processes: each would compile the whole product.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
# make demo SERVER=redis; make test ARGS="tests/unit -k table"
SERVER :=
ARGS :=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --no-input --disable-pip-version-check

# the unit tests that must cover the pure core; without being measured, the others take half the time
COVERING := actions api model moves plan reconcile

SEED := 1
N := 1000
FROM := 0
# seconds of chaos
FOR := 300

.PHONY: help demo demo-machines test proof check check-covered check-others bench clean deb format lock sim sim-many sim-mutants crash-points chaos chaos-machines

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## three nodes under live writes; every node action; a report (SERVER=redis for Redis)
	@exec $(BIN)/python -m demo $(if $(SERVER),--server $(SERVER)) $(ARGS)

demo-machines: $(VENV)/.run ## the same on machines of network namespaces; then one is cut off, and one dies and is replaced (needs root, iproute2)
	@exec $(BIN)/python -m demo.machines $(if $(SERVER),--server $(SERVER)) $(ARGS)

test: $(VENV)/.dev ## what people use, tested: every part, whole clusters, 100 simulated seeds; does not disturb a running cluster
	@exec $(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(ARGS)

proof: $(VENV)/.dev ## everything long: crashes at every step, 1,900 more seeds, planted mistakes, crash points, the other server
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'proof and not slow' $(ARGS)
	@$(BIN)/python -m sim mutants
	@exec $(BIN)/python -m sim crash-points $(VENV)/crash-points.md

check: $(VENV)/.dev ## format, lint, types, import rules, unit tests and what they cover, property tests; under a minute
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted as it should be: run make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@exec $(MAKE) -j 2 check-covered check-others

# The two parts of check, at once: many tests of the second one wait. Fewer workers collect fewer times.
check-covered:
	@rm -rf build/coverage
	@$(BIN)/python -m coverage run -m pytest -q -p no:xdist $(addprefix tests/unit/,$(COVERING))
	@exec $(BIN)/python -m tests.covered

check-others:
	@exec $(BIN)/python -m pytest -q -n 3 tests/unit tests/property $(addprefix --ignore=tests/unit/,$(COVERING))

bench: $(VENV)/.dev ## handoff pause, evacuation, endpoint, reaction, passing, strict mode, each as a ratio; writes bench/results/ (10 minutes at most)
	@exec $(BIN)/python -m bench $(ARGS)

sim: $(VENV)/.dev ## the whole cluster simulated: one seed, a line for each event (SEED=1)
	@exec $(BIN)/python -m sim replay $(SEED)

sim-many: $(VENV)/.dev ## N seeds from FROM on, on all cores, and a report (N=1000 FROM=0)
	@exec $(BIN)/python -m sim many -n $(N) --first $(FROM) $(ARGS)

sim-mutants: $(VENV)/.dev ## plant known mistakes one by one: the simulation must notice each
	@exec $(BIN)/python -m sim mutants $(ARGS)

crash-points: $(VENV)/.dev ## the leader fails at every commit and command of every action; writes docs/reference/crash-points.md
	@exec $(BIN)/python -m sim crash-points docs/reference/crash-points.md $(ARGS)

chaos: $(VENV)/.dev ## a real cluster under writers and random actions; processes are killed and frozen (SEED=1 FOR=300)
	@exec $(BIN)/python -m chaos --seed $(SEED) --for $(FOR) $(ARGS)

chaos-machines: $(VENV)/.dev ## the same on three machines of namespaces: cut off, frozen, without power (SEED=1 FOR=300; needs root)
	@exec $(BIN)/python -m chaos.machines --seed $(SEED) --for $(FOR) $(ARGS)

deb: ## the Debian package for this machine's Debian: dist/shardwright_*.deb (needs dpkg-dev and python3-venv)
	@exec packaging/build-deb

format: $(VENV)/.dev ## format and repair what ruff can repair
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

lock: ## renew requirements*.txt from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	@uv pip compile $(LOCK_OPTIONS) --extra demo --extra build pyproject.toml -o requirements.txt
	@uv pip compile $(LOCK_OPTIONS) --extra dev --extra build -c requirements.txt pyproject.toml -o requirements-dev.txt

LOCK_OPTIONS := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

clean: ## remove what the other targets made
	@rm -rf $(VENV) build dist bench/results demo-report.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path ./.git -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -type d -print0 | xargs -0 rm -rf

# --- set-up: each stamp is made once and made again when the file it comes from changes ---

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null \
	  || { echo "Python is missing. Install it with:  apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is too old: Shardwright needs Python 3.11 or newer (make PYTHON=/path/to/python3.11 ...)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing. Install it with:  apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV) (once)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements.txt pyproject.toml
	@$(PIP) install --require-hashes -r requirements.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@
