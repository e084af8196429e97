# Everything a newcomer needs: `make demo` and `make test` set up what they use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= sweep-results

.PHONY: demo questions test test-slow test-long gpu-check lint format setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	touch $@

# What tests and lint need besides.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

# One cell from random weights, to see what pre-training is worth; then the whole miniature grid.
demo: setup
	@echo "One cell from random weights:"
	$(BIN)/python -m vit_trainer train --model ViT-B_16-mini --dataset digits-even --upstream scratch --storage $(STORAGE)
	@echo "The whole grid, from pre-trained weights:"
	$(BIN)/python sweeps/paper_grid.py --preset mini --storage $(STORAGE)

# The questions beside the grid, in miniature and in one storage.
questions: setup
	for question in short_schedule resolution upstream lr_search seeds; do \
		$(BIN)/python sweeps/$$question.py --preset mini --storage $(STORAGE) || exit; \
	done

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# What takes longer than the default suite allows.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

# What takes longer than CI allows.
test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m long

# On a machine with a GPU, a quarter of an hour: parity, the same bits twice and after a kill, speed.
gpu-check: setup
	$(BIN)/python benchmarks/gpu_check.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(STORAGE) .mypy_cache .ruff_cache .pytest_cache
