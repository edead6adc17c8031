# Each target only calls the tool that does the work. `make` alone lists them.

PYTHON ?= python3
BIN := .venv/bin
PRODUCT := $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml services/*/pyproject.toml cli/pyproject.toml))
MEMBERS := $(PRODUCT) bench
STRUCTURE := tests-e2e/test_structure.py tests-e2e/test_boundaries.py tests-e2e/test_violations.py tests-e2e/test_use_cases.py tests-e2e/test_asyncapi.py tests-e2e/test_compose.py tests-e2e/test_route_rights.py tests-e2e/test_openapi.py tests-e2e/test_request_texts.py tests-e2e/test_security_page.py
# Tests start many processes: without bytecode on disk each of them compiles our modules again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help demo up test test-e2e bench check lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.stamp ## a customer journey on real servers, from sign-up to replay; prints and checks every event; about half a minute
	@$(BIN)/paybill demo $(ARGS)

up: .venv/.stamp ## the whole stack in the foreground; ARGS="--data-dir DIR ..." are its options
	@$(BIN)/paybill up $(ARGS)

test: .venv/.stamp-dev ## tests of every package, on a real NATS and a real PostgreSQL; about five minutes on two cores
	@$(PYTEST) -n 4 --dist worksteal -m "not e2e" libs services cli $(ARGS)

test-e2e: .venv/.stamp-dev ## tests on a whole stack: customer journeys, commands, faults, kills and load; takes longer
	@$(PYTEST) -n 2 --dist loadfile -m e2e tests-e2e libs services cli $(addprefix --ignore=,$(STRUCTURE)) $(ARGS)

bench: .venv/.stamp-dev ## compare throughput and latency with other implementations; takes minutes; ARGS="pipeline --json" runs one
	@$(BIN)/paybill bench $(ARGS)

check: .venv/.stamp-dev ## format, lint, types, import rules, structure, published schemas, both locks
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m paybill_contracts check
	$(PYTEST) $(STRUCTURE)

lock: .venv/.stamp ## add missing pins to both locks; ARGS=--upgrade raises every pin
	@$(COMPILE) $(addsuffix /pyproject.toml,$(PRODUCT)) --group build --output-file requirements.lock $(ARGS) >/dev/null
	@$(COMPILE) $(addsuffix /pyproject.toml,$(MEMBERS)) --group dev --constraints requirements.lock \
		$$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock) \
		--output-file requirements-dev.lock $(ARGS) >/dev/null

clean: ## remove the environment and every cache; data directories stay
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find $(MEMBERS) tests-e2e -name __pycache__ -type d -prune -exec rm -rf {} +

# The locks contain hashes and name no index: uv's and pip's own settings do.
COMPILE = $(BIN)/uv pip compile --quiet pyproject.toml --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate --no-emit-package paybill-workspace \
	$(foreach member,$(MEMBERS),--no-emit-package paybill-$(notdir $(member)))

# uv installs in seconds; where only pip knows the index, uv gives up soon and pip installs the same hashes.
UV_INSTALL = UV_HTTP_CONNECT_TIMEOUT=5 UV_HTTP_RETRIES=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes

# The product's environment: enough for demo and up. Rebuilt when its lock or a member's dependencies change.
.venv/.stamp: requirements.lock pyproject.toml $(addsuffix /pyproject.toml,$(PRODUCT))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "paybill needs Python 3.11 or later as $(PYTHON); name another with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "paybill needs Python's venv module: on Debian, apt install python3-venv" >&2; exit 1; }
	@echo "Building .venv from requirements.lock; the first time takes about half a minute"
	@$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	@$(PIP_INSTALL) -r .venv/uv.lock
	@$(UV_INSTALL) --require-hashes -r requirements.lock 2>/dev/null || $(PIP_INSTALL) -r requirements.lock
	@$(UV_INSTALL) --no-build-isolation $(addprefix -e ,$(PRODUCT))
	@touch $@

# The tools of test, check and bench on top of it.
.venv/.stamp-dev: .venv/.stamp requirements-dev.lock bench/pyproject.toml
	@echo "Adding the development tools from requirements-dev.lock"
	@$(UV_INSTALL) --require-hashes -r requirements-dev.lock 2>/dev/null || $(PIP_INSTALL) -r requirements-dev.lock
	@$(UV_INSTALL) --no-build-isolation -e bench
	@touch $@
