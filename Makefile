# Thin: each target calls the tool that does it. `make` alone lists them.

PYTHON ?= python3
BIN := .venv/bin
MEMBERS := $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml services/*/pyproject.toml cli/pyproject.toml bench/pyproject.toml))
STRUCTURE := tests-e2e/test_structure.py tests-e2e/test_boundaries.py tests-e2e/test_compose.py
# Tests start many processes: without bytecode on disk each of them compiles our modules again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help demo up test test-e2e bench check lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.stamp ## the main job on real parts, every fact printed as it lands; ends by itself
	@$(BIN)/paybill demo $(ARGS)

up: .venv/.stamp ## the whole stack in the foreground; ARGS="--data-dir DIR ..." is passed on
	@$(BIN)/paybill up $(ARGS)

test: .venv/.stamp ## tests of every package, on a real NATS and a real PostgreSQL
	@$(PYTEST) -n 2 --dist worksteal libs services cli $(ARGS)

test-e2e: .venv/.stamp ## customer journeys, faults and restarts, on the whole stack
	@$(PYTEST) tests-e2e $(ARGS)

bench: .venv/.stamp ## our figures beside our peers'; minutes of both cores; ARGS="pipeline --json" runs one
	@$(BIN)/paybill bench $(ARGS)

check: .venv/.stamp ## format, lint, types, import rules, published schemas, the lock
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m paybill_contracts check
	$(PYTEST) $(STRUCTURE)

lock: .venv/.stamp ## add what is missing to requirements.lock; ARGS=--upgrade moves every pin
	@$(BIN)/uv pip compile --quiet pyproject.toml $(addsuffix /pyproject.toml,$(MEMBERS)) --group dev --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --no-emit-package paybill-workspace \
		$(foreach member,$(MEMBERS),--no-emit-package paybill-$(notdir $(member))) --output-file requirements.lock $(ARGS) >/dev/null

clean: ## remove the environment and every cache; data directories stay
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find $(MEMBERS) tests-e2e -name __pycache__ -type d -prune -exec rm -rf {} +

# Built again when the lock or a member's dependencies change. Hashes are checked; no index is named: pip's own settings say where from.
.venv/.stamp: requirements.lock pyproject.toml $(addsuffix /pyproject.toml,$(MEMBERS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "paybill needs Python 3.11 or later as $(PYTHON); name another with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "paybill needs Python's venv module: on Debian, apt install python3-venv" >&2; exit 1; }
	@echo "Building .venv from requirements.lock; the first time takes a minute or two"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(addprefix -e ,$(MEMBERS))
	@touch $@
