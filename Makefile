# Every target makes .venv by itself when it is missing or older than pyproject.toml.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two, not "auto": the tests start servers, child processes and fsyncs of their own.
# Files in the order of tests/conftest.py: the longest ones first, not those with the most tests.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
# Where it is set, each run would compile all tests anew: 20 seconds of processor time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test quick check bench bench-peers bench-soak simulate soak fmt clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    real sensor data through rules and tasks, then a crash and its recovery'
	@echo 'make test    all tests but the soak'
	@echo 'make quick   the tests that need neither a server nor seconds: about a minute'
	@echo 'make check   what CI runs: format, lint, types, tests'
	@echo 'make bench   this engine and what there is to reach, measured in one run: a quarter of an hour'
	@echo 'make bench-peers   the same work on other engines, each in an environment of its own'
	@echo 'make bench-soak    three minutes at 5 000 events a second'
	@echo 'make soak    crash tests, long: minutes'
	@echo 'make fmt     format, and fix what lint can fix'
	@echo 'make clean   remove .venv and everything that was generated'

# Compiled here, for who calls the command by itself where PYTHONDONTWRITEBYTECODE is set.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headrace needs Python 3.11 or newer, not " + sys.version.split()[0] + "; name one: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[dev]'
	$(BIN)/python -m compileall -q engine triggers connectors src/headrace
	touch $@

demo: $(STAMP)
	$(BIN)/headrace demo

test: $(STAMP)
	$(PYTEST)

quick: $(STAMP)
	$(PYTEST) -m 'not slow and not nats and not soak'

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(PYTEST)

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

bench-peers: $(STAMP)
	$(BIN)/python benchmarks/run_peers.py

bench-soak: $(STAMP)
	$(BIN)/python benchmarks/soak.py

# One simulated engine with all its faults, again: make simulate SEED=17
simulate: $(STAMP)
	$(BIN)/python -m tests.simulation.whole $(SEED)

soak: $(STAMP)
	$(BIN)/pytest -m soak

fmt: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache plant.log headrace-demo-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
