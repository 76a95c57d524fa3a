# `make help` lists what there is. Everything runs in a private .venv, made from the lock files.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= auto
ROUNDS ?= 100
LOAD ?= 20
# Where this is set, every start of the command in the tests compiles all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE
COMPILE := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

.DEFAULT_GOAL := help
SCHEMATHESIS := $(VENV)/schemathesis/.ready

.PHONY: help setup demo run test conformance servers soak crash openapi check format bench lock clean

help: ## what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv and install what the lock files name

$(READY): requirements.lock requirements-dev.lock pyproject.toml tests/peers/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Ostiary needs Python 3.11 or later: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing what requirements-dev.lock names ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(PYTHON) -m venv $(VENV)/peers
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/peers/requirements.lock
	@touch $@

demo: $(READY) ## the main job, shown in a temporary folder with real curl and the official MCP SDK
	@$(BIN)/python -m examples.demo

run: $(READY) ## a gateway with the example servers, until Ctrl-C
	@$(BIN)/python -m examples.demo --keep-running

test: $(READY) ## all tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q

conformance: $(READY) ## the official MCP suite, against a server directly and through the gateway (needs npm)
	@$(BIN)/python -m tests.conformance

servers: $(READY) ## servers of others behind one gateway, one killed under load; LOAD seconds a phase (needs npm)
	@LOAD_SECONDS=$(LOAD) $(BIN)/python -m pytest -q -s tests/e2e/test_real_servers.py

soak: $(READY) ## 200,000 calls, 2,000 sessions, 500 cancellations: whether memory and descriptors stay flat
	@$(BIN)/python -m bench.soak

crash: $(READY) ## kills the gateway under load ROUNDS times, and looks for what was lost
	@$(BIN)/python tests/faults/crash.py --rounds $(ROUNDS)

openapi: $(READY) $(SCHEMATHESIS) ## schemathesis, all checks, over /openapi.json of a real gateway
	@$(BIN)/python tests/schemathesis/run.py

$(SCHEMATHESIS): tests/schemathesis/requirements.lock
	@$(PYTHON) -m venv $(VENV)/schemathesis
	@$(VENV)/schemathesis/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/schemathesis/requirements.lock
	@touch $@

check: $(READY) ## format, lint, types, import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## put the code in order
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

bench: $(READY) ## speed, as ratios beside the peers
	@$(BIN)/python -m bench

lock: $(READY) ## resolve the dependencies anew
	@$(COMPILE) --output-file requirements.lock pyproject.toml
	@$(COMPILE) --extra dev -c requirements.lock --output-file requirements-dev.lock pyproject.toml
	@cd tests/peers && $(CURDIR)/$(COMPILE) --output-file requirements.lock requirements.in
	@cd tests/schemathesis && $(CURDIR)/$(COMPILE) --output-file requirements.lock requirements.in

clean: ## remove what was made
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
