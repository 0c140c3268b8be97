# `make` alone lists the targets. Each installs what it needs into .venv, from requirements.lock.

BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo up test verify check lint fmt types imports bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-9s %s\n", $$1, $$2 }'

install: $(INSTALLED) ## what the lock names and Leadline itself, into .venv

# Done again when the lock or pyproject.toml has changed; the stamp is written last.
$(INSTALLED): requirements.lock pyproject.toml
	@echo "installing into .venv ..."
	@python=$$(for name in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    $$name -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; \
	  done); \
	  test -n "$$python" || { echo "Leadline needs Python 3.11 or newer, with venv: install one, or say make PYTHON=/path/to/python" >&2; exit 1; }; \
	  $$python -m venv .venv
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED) ## the whole story on sample traffic, in under a minute
	@$(BIN)/leadline demo

up: $(INSTALLED) ## NATS and Leadline in this terminal, on ./data
	@$(BIN)/leadline up

test: $(INSTALLED) ## every test, those against a real server included
	@$(BIN)/pytest --numprocesses 3 --dist loadscope

verify: $(INSTALLED) ## ten minutes of faults at random: VERIFY="--seed 7 --minutes 60 --faults runner,nats"
	@$(BIN)/python -m tests.verify $(or $(VERIFY),--minutes 10)

check: lint types ## what CI runs: lint, types, import contracts, tests
	@$(MAKE) --no-print-directory test

lint: $(INSTALLED) imports ## ruff's rules, its format, and the import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run make fmt" >&2; exit 1; }

imports: $(INSTALLED) ## who may import whom
	@$(BIN)/lint-imports --no-logo > .venv/imports.txt || { cat .venv/imports.txt; exit 1; }

fmt: $(INSTALLED) ## format, and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

types: $(INSTALLED) ## mypy, strict, over source and tests
	@$(BIN)/mypy --no-error-summary

bench: $(INSTALLED) ## each figure beside its floor
	@$(BIN)/python -m bench

lock: ## write requirements.lock anew from pyproject.toml
	python3 -m venv build/lock
	build/lock/bin/python -m pip install --quiet pip-tools==7.6.2
	build/lock/bin/pip-compile --quiet --strip-extras --extra dev --allow-unsafe --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.lock pyproject.toml

clean: ## what can be made again: .venv, caches, build; never ./data
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
