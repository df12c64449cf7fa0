# On a fresh machine with Python 3.11 or newer, `make demo` and `make test` are all.
PYTHON ?= python3
# Another environment, for another Python: `make test VENV=.venv-3.13 PYTHON=python3.13`.
VENV ?= .venv
BIN := $(VENV)/bin
# Tests at a time; one where all would share a server.
WORKERS ?= $(if $(PENSTOCK_TEST_URL)$(PENSTOCK_TEST_IMAGE),0,5)
# Hundreds of processes that tests start would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test oldest simulate soak docs check dist bench bench-all lint types coverage clean

demo: $(VENV)/user  ## send a click stream and have two processes count it, one of them killed
	$(BIN)/penstock demo --kill

test: $(VENV)/dev  ## run all tests on the embedded Valkey, or on PENSTOCK_TEST_URL
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

simulate: $(VENV)/dev  ## runs in simulated time with all kinds of faults, for SECONDS (60) or ROUNDS, from SEED (1) on
	cd tests && ../$(BIN)/python -m simulation $(if $(SECONDS),--seconds $(SECONDS)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))

soak: $(VENV)/dev  ## faults of all kinds at random, for SECONDS (300) from SEED on; then kills within transactions, and of relays
	cd tests && ../$(BIN)/python -m faults.soak $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))
	PENSTOCK_SOAK=30 $(BIN)/python -m pytest --log-cli-level=INFO tests/behaviour/test_transactions_killed.py
	PENSTOCK_SOAK=60 $(BIN)/python -m pytest --log-cli-level=INFO tests/cli/test_relay_killed.py

docs: $(VENV)/dev  ## the site, in .site; a warning or a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean --strict

check: lint types docs coverage  ## what CI asks for besides the tests

lint: $(VENV)/dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	cd tests && ../$(BIN)/python -m support.prose

types: $(VENV)/dev
	$(BIN)/mypy

coverage: $(VENV)/dev  ## every branch of the pure core, by its own tests alone
	$(BIN)/coverage run -m pytest -q -m "not slow" --timeout 300 tests/core && $(BIN)/coverage report

dist: $(VENV)/dev  ## wheel and sdist, checked, and installed for each Python that is here
	$(BIN)/python .ci/dist

bench: $(VENV)/user  ## throughput, latency and cost, a few minutes; whether memory grows
	$(BIN)/python -m benchmarks all --quick
	$(BIN)/python -m benchmarks realtime && $(BIN)/python -m benchmarks memory

bench-all: $(VENV)/dev  ## the same and more, beside the peers, which it installs for itself
	$(BIN)/python -m benchmarks all

oldest: .venv-oldest/ready  ## connections, and some of the behaviour, with the oldest versions that are allowed
	.venv-oldest/bin/python -m pytest -n $(WORKERS) --dist worksteal -p no:cacheprovider \
		tests/connection tests/behaviour/test_urls.py tests/behaviour/test_reading.py \
		tests/behaviour/test_sending.py tests/behaviour/test_typed_payloads.py

clean:
	rm -rf .venv .venv-* .bench .site dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q 'pip>=25.1' && touch $@

$(VENV)/user: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install -q -e '.[embedded,cli,metrics]' && touch $@

.venv-oldest/ready: pyproject.toml .ci/oldest
	$(PYTHON) -m venv .venv-oldest && $(PYTHON) .ci/oldest >.venv-oldest/versions
	.venv-oldest/bin/python -m pip install -q -c .venv-oldest/versions -e '.[embedded]' \
		hypothesis pydantic pytest pytest-asyncio pytest-randomly pytest-timeout pytest-xdist uvloop
	touch $@

$(VENV)/dev: $(VENV)/user
	$(BIN)/python -m pip install -q --group dev && touch $@
