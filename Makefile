# Needs python3 (3.11 or newer) and make; everything else goes into .venv.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
READY := $(VENV)/.ready
BENCH = $(if $(wildcard .bench-env/.ready),.bench-env/bin/python,$(BIN)/python)

.PHONY: help setup demo test test-browser check bench bench-quality bench-truth bench-env clean

help:
	@echo "make demo    set everything up, then run the main job offline (five to ten minutes)"
	@echo "make test    set everything up, then run all tests"
	@echo "make test-browser  drive a headless Chromium (installed where it is missing) through every page of the app"
	@echo "make check   formatting, lint, strict types"
	@echo "make bench   measure, and write dated records into benchmarks/records"
	@echo "make bench-quality  fronts beside the peers, defaults, bf16, calibration (about an hour)"
	@echo "make bench-truth  what is recovered of known truth, beside the peers (about an hour)"
	@echo "make bench-env  an environment with the peers, beside which the benchmarks then measure"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $(READY)

demo: setup
	$(BIN)/monosemy demo

test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal

# Debian's Chromium, its driver, and letters of other scripts for its screenshots; as root they are installed where the
# first two are missing.
CHROMIUM := chromium chromium-driver fonts-noto-core fonts-noto-cjk
test-browser: setup
	command -v chromium > /dev/null && command -v chromedriver > /dev/null || { apt-get -q update && apt-get install -q -y $(CHROMIUM); }
	$(BIN)/python -m pytest tests/browser -n 2 --dist worksteal

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
	$(BENCH) benchmarks/steps.py
	$(BIN)/python benchmarks/kernel_phases.py
	$(BIN)/python benchmarks/ways.py
	$(BIN)/python benchmarks/vocabulary.py
	$(BENCH) benchmarks/index.py
	$(BIN)/python benchmarks/index.py --arms ours --tokens 500000 --rounds 1
	$(BIN)/python benchmarks/paging.py
	test ! -d runs/demo || $(BIN)/python benchmarks/serve.py runs/demo

# How good dictionaries are beside the peers', and the studies behind the defaults: about an hour on two cores.
bench-quality: setup
	$(BENCH) benchmarks/fronts.py
	$(BENCH) benchmarks/defaults.py
	$(BIN)/python benchmarks/bf16.py
	$(BIN)/python benchmarks/calibration.py

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
	.bench-env/bin/python -m pip install --quiet torch==2.13.0 sae-lens==6.54.12 nnsight matplotlib==3.11.2 \
		numba==0.68.1 natsort schedulefree simple-parsing datasets
	.bench-env/bin/python -m pip install --quiet --no-deps dictionary-learning==0.1.0 eai-sparsify==1.3.3 --editable . \
		sae-dashboard==0.8.0 dataclasses-json marshmallow typing-inspect mypy-extensions eindex-callum decode-clt
	touch .bench-env/.ready

clean:
	rm -rf $(VENV) .bench-env runs .mypy_cache .ruff_cache .pytest_cache
