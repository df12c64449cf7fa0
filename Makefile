# On a fresh machine with Python 3.11 or newer, `make demo` and `make test` are all.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check core bench lint types coverage clean

demo: .venv/user  ## send a click stream and have two processes count it, one of them killed
	$(BIN)/penstock demo --kill

test: .venv/dev  ## run all tests on the embedded Valkey, or on PENSTOCK_TEST_URL
	$(BIN)/python -m pytest

check: lint types coverage  ## what CI asks for besides the tests

lint: .venv/dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

coverage: .venv/dev  ## every branch of the pure core, by its own tests alone
	$(BIN)/coverage run -m pytest -q tests/core && $(BIN)/coverage report

bench: .venv/user  ## throughput, as ratios in one run, and whether memory grows
	$(BIN)/python -m benchmarks consume && $(BIN)/python -m benchmarks realtime
	$(BIN)/python -m benchmarks produce && $(BIN)/python -m benchmarks memory

clean:
	rm -rf .venv .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/pip:
	$(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q 'pip>=25.1' && touch $@

.venv/user: .venv/pip pyproject.toml
	$(BIN)/python -m pip install -q -e '.[embedded,cli]' && touch $@

.venv/dev: .venv/user
	$(BIN)/python -m pip install -q --group dev && touch $@
