# Python 3.11 or later; everything is installed into .venv and nothing else is touched.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test

# a short LSTM run on the embedded default: a few minutes on 2 cores
run: .venv/ready
	$(BIN)/python lstm.py --limit 6000 --epochs 3 --no-refit

test: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest

.venv/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	@# torch first and by its exact version: where a CPU wheel is at hand, pip takes it instead of gigabytes of CUDA
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
