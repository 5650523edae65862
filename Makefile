# The one front door: people and CI call the same targets. `make help` lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Set in many images; it makes every `import airflow` three times slower.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPATH := $(CURDIR)/include

BASE_PYTHON ?= $(shell command -v python3.11 || echo python3)
PYTHON := .venv/bin/python
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .venv/uv/bin/uv)
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
READY := .venv/.ready

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Set-up: the locked, hashed requirements in .venv, MiniStack in an environment of its own, as it pins an older botocore.

.PHONY: setup
setup: $(READY) ## install everything into .venv (once; instant afterwards)

$(READY): requirements.lock requirements-ministack.lock requirements-uv.lock
	@echo "Setting up .venv: a minute, once."
	@# Without pip, which Debian's Python cannot put into an environment unless python3-venv is installed.
	@$(BASE_PYTHON) -m venv --without-pip .venv
	@$(BASE_PYTHON) -m venv --without-pip .venv/ministack
	@if [ "$(UV)" != uv ]; then \
	  $(BASE_PYTHON) -m venv --without-pip .venv/uv; \
	  $(BASE_PYTHON) -m pip --python .venv/uv/bin/python install --quiet --require-hashes -r requirements-uv.lock; \
	fi
	@UV_COMPILE_BYTECODE=1 $(UV) pip sync --quiet --require-hashes --python .venv/bin/python requirements.lock
	@UV_COMPILE_BYTECODE=1 $(UV) pip sync --quiet --require-hashes --python .venv/ministack/bin/python requirements-ministack.lock
	@ln -sfn ../ministack/bin/ministack .venv/bin/ministack
	@touch $@

.PHONY: lock
lock: $(READY) ## refresh the lock files from requirements.txt and pyproject.toml
	$(COMPILE) --group dev requirements.txt -o requirements.lock
	echo ministack | $(COMPILE) - -o requirements-ministack.lock
	echo uv | $(COMPILE) - -o requirements-uv.lock

# The main job. CONF goes through the environment, where its quotes are safe.

.PHONY: demo
demo: $(READY) ## move a sample home library on an embedded local AWS, prove it, show the report
	@$(PYTHON) -m accession.local demo

.PHONY: deploy
deploy: $(READY) ## ENVIRONMENT=dev: create or update tables, bucket and policy in the AWS you are logged in to
	@$(PYTHON) -m accession.local deploy --environment "$${ENVIRONMENT:-}"

.PHONY: migrate
migrate: $(READY) ## SOURCE=site.db ENVIRONMENT=dev [CONF='{…}'] [RESUME=run]: one run; exit 0 only when all is well
	@$(PYTHON) -m accession.local migrate --source "$${SOURCE:-}" --environment "$${ENVIRONMENT:-}" \
	  --conf "$${CONF:-}" --resume "$${RESUME:-}"

.PHONY: rollback
rollback: $(READY) ## RUN=run ENVIRONMENT=dev [CONF='{…}']: undo a finished run
	@$(PYTHON) -m accession.local rollback --run "$${RUN:-}" --environment "$${ENVIRONMENT:-}" --conf "$${CONF:-}"

.PHONY: audit
audit: $(READY) ## ENVIRONMENT=dev: verify the register and every artifact, list all runs
	@$(PYTHON) -m accession.local audit --environment "$${ENVIRONMENT:-}"

# Quality

.PHONY: test
test: $(READY) ## unit, integration, fault and DAG tests, against a real MiniStack
	@$(PYTHON) -m pytest

.PHONY: check
check: $(READY) ## lint, format, types
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
