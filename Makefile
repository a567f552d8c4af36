# Each target sets up what it needs.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STREETS := data/streets
DEMO := runs/demo

.PHONY: help install demo test test-slow lint

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

install: $(VENV)/installed  ## Make the virtual environment (.venv)

demo: install  ## Draw street scenes, train an SK network on them, score it: 8 minutes on 2 cores
	test -d $(STREETS) || $(BIN)/python scripts/draw_streets.py --root $(STREETS)
	rm -rf $(DEMO)
	$(BIN)/python scripts/fit.py --config configs/streets.yaml --run_dir $(DEMO)
	$(BIN)/python scripts/evaluate.py --ckpt_path $(DEMO)/checkpoints/last.ckpt --data.name streets
	@echo 'run folder $(DEMO)'

lint: install  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint  ## Check the code and run the tests
	$(BIN)/python -m pytest -n auto

test-slow: install  ## Run the tests that are left out by default
	$(BIN)/python -m pytest -m slow
