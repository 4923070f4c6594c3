# The one list of commands. Each makes .venv when it is missing.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-oldest coverage lint docs pictures bench gpu-check clean

help:  ## List these commands.
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## Train on pictures of a wall, find coins on it, draw a picture.
	$(BIN)/python examples/demo.py

test: lint  ## Everything: style, types, package layers, tests, doctests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-quick: .venv/installed  ## The tests that take less than a few seconds each, without linters.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' tests

# Not part of `make test`: on Python 3.11 four test files took 1.5 times as much CPU time with it.
coverage: .venv/installed  ## All tests, and the lines that no test runs.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term

# torch stays at the pinned release: pip finds the oldest one only as a CUDA build, which takes ten
# minutes to install.
.venv-oldest/installed: pyproject.toml constraints.txt constraints-lowest.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	grep -v '^torch=' constraints-lowest.txt | cat constraints.txt - > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --constraint $(@D)/constraints.txt --editable '.[dev]'
	@touch $@

# Together these files call every library.
test-oldest: .venv-oldest/installed  ## Quick tests with the oldest releases of all but torch (Python 3.11).
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n $(WORKERS) --dist worksteal \
		-m 'not slow' $(patsubst %,tests/test_%.py,anomaly_maps datasets distributed export \
		images persistence plotting sklearn_contract temporal video)

lint: .venv/installed  ## Only style, types and package layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[docs]'
	@touch $@

docs: .venv/installed-docs  ## Build the documentation into docs/_build/html.
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

pictures: .venv/installed  ## Redraw the pictures of the documentation (takes some minutes).
	$(BIN)/python examples/demo.py --output docs/images/demo.png
	$(BIN)/python examples/corruptions.py --output docs/images/corruptions.png
	$(BIN)/python examples/digits.py --output docs/images/digits.png
	$(BIN)/python examples/pictures.py --output docs/images/pictures-
	$(BIN)/python examples/surfaces.py --output docs/images/surfaces.png  # needs SKAVID_DATA
	$(BIN)/python examples/hits_and_misses.py bsdata --output docs/images  # needs SKAVID_DATA
	$(BIN)/python examples/video_limits.py --output docs/images
	rm docs/images/pictures-irregularity.png  # no page shows it

bench: .venv/installed  ## Measure speed; results go to benchmarks/results.
	$(BIN)/python benchmarks/speed.py

# A bare machine has no environment, and no network to install one.
gpu-check:  ## Test and measure on an NVIDIA GPU, in under eight minutes.
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py

clean:  ## Remove what the commands made.
	rm -rf .venv .venv-oldest build dist skavid.egg-info docs/_build docs/generated .hypothesis \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
