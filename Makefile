# Each target sets up what it needs. To choose the Python: make PYTHON=/path/to/python3.12 install
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in $(CANDIDATES); do \
	"$$name" -c '$(USABLE)' 2>/dev/null && { command -v "$$name"; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
STREETS := data/streets
DEMO := runs/demo
# configs/streets.yaml in fewer steps: a higher rate and milder augmentation, which few steps need.
SHORTER := --trainer.max_epochs 24 --trainer.check_val_every_n_epoch 12 \
	--model.optimizer.init_args.lr 0.004 --data.color_jitter 0 --data.scale "[0.75,1.25]"

.PHONY: help install demo test test-slow lint

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@"$(PYTHON)" -c '$(USABLE)' 2>/dev/null || { \
		echo "error: no Python 3.11 or newer with the venv module$(PYTHON:%= at %);" \
			"install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "$$("$(PYTHON)" --version) ($(PYTHON)) makes the environment $(VENV)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "Installing torch and skseg into $(VENV): a few minutes, about 6 GB"
	@$(BIN)/pip install --quiet --disable-pip-version-check torch torchvision
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(VENV)/installed  ## Make the virtual environment (.venv)

demo: install  ## Draw street scenes, train an SK network on them, score it: about 7 minutes on 2 cores
	@echo "1/3 Draw 300 street scenes in $(STREETS): about a minute on 2 cores"
	@test -d $(STREETS) || $(BIN)/python scripts/draw_streets.py --root $(STREETS)
	@echo "2/3 Train sknet_tiny under FPN: about 5 minutes on 2 cores"
	@rm -rf $(DEMO)
	@$(BIN)/python scripts/fit.py --config configs/streets.yaml --run_dir $(DEMO) $(SHORTER)
	@echo "3/3 Score it on 60 scenes it has not seen: under a minute"
	@$(BIN)/python scripts/evaluate.py --ckpt_path $(DEMO)/checkpoints/last.ckpt
	@echo 'run folder $(DEMO)'

lint: install  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint  ## Check the code and run the tests
	$(BIN)/python -m pytest -n auto

test-slow: install  ## Run the tests that are left out by default
	$(BIN)/python -m pytest -m slow
