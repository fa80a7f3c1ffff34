# Needs python3 (3.11 or newer) and make; everything else goes into .venv.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
READY := $(VENV)/.ready
BENCH = $(if $(wildcard .bench-env/.ready),.bench-env/bin/python,$(BIN)/python)

.PHONY: help setup demo test check bench bench-truth bench-env clean

help:
	@echo "make demo    set everything up, then run the main job offline (about five minutes)"
	@echo "make test    set everything up, then run all tests"
	@echo "make check   formatting, lint, strict types"
	@echo "make bench   measure, and write dated records into benchmarks/records"
	@echo "make bench-truth  what is recovered of known truth, beside the peers (about an hour)"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $(READY)

demo: setup
	$(BIN)/monosemy demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/basics.py
	$(BIN)/python benchmarks/grid.py
	$(BIN)/python benchmarks/world.py
	$(BIN)/python benchmarks/recovery.py
	$(BENCH) benchmarks/harvest.py
	$(BENCH) benchmarks/toy_grid.py

# What is recovered of known truth, beside the peers: about an hour on two cores.
bench-truth: setup
	$(BIN)/python benchmarks/s4_world.py
	$(BIN)/python benchmarks/advice.py
	$(BIN)/python benchmarks/consensus.py
	$(BENCH) benchmarks/equal_data.py
	$(BENCH) benchmarks/synthsaebench.py

# The peers and their pins live in an environment of their own; with it, `make bench` measures beside them.
bench-env: .bench-env/.ready

.bench-env/.ready: pyproject.toml
	test -x .bench-env/bin/python || python3 -m venv .bench-env
	.bench-env/bin/python -m pip install --quiet torch==2.13.0 sae-lens nnsight
	.bench-env/bin/python -m pip install --quiet --no-deps dictionary-learning --editable .
	touch .bench-env/.ready

clean:
	rm -rf $(VENV) .bench-env runs .mypy_cache .ruff_cache .pytest_cache
