# The one list of commands. Each makes .venv when it is missing.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs pictures bench clean

help:  ## List these commands.
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## Train on puzzles of scikit-learn's digits, print figures, draw a picture.
	$(BIN)/python examples/demo.py

test: lint  ## Everything: style, types, floors, tests, doctests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: .venv/installed  ## Style, types and floors alone.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[docs]'
	@touch $@

docs: .venv/installed-docs  ## Build the documentation into docs/_build/html.
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

pictures: .venv/installed  ## Redraw the pictures of the documentation, in some minutes.
	$(BIN)/python examples/demo.py --output docs/images/demo.png
	$(BIN)/python examples/corruptions.py --output docs/images/corruptions.png
	$(BIN)/python examples/pictures.py --output docs/images/pictures-
	rm docs/images/pictures-irregularity.png  # demo.png shows the same

bench: .venv/installed  ## Measure speed; results go to benchmarks/results.
	$(BIN)/python benchmarks/speed.py

clean:  ## Remove what the commands made.
	rm -rf .venv build dist skavid.egg-info docs/_build docs/generated .hypothesis .pytest_cache \
		.mypy_cache .ruff_cache .import_linter_cache
