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
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	$(COMPILE) tests/bench/requirements.txt -o tests/bench/requirements.lock

# The main job. CONF goes through the environment, where its quotes are safe. MAPPING=name takes another mapping file.

.PHONY: demo
demo: $(READY) ## move a sample home library on an embedded local AWS, prove it, show the report
	@$(PYTHON) -m accession.cli demo

.PHONY: deploy
deploy: $(READY) ## ENVIRONMENT=dev: create or update tables, bucket and policy in the AWS you are logged in to
	@$(PYTHON) -m accession.cli deploy --environment "$${ENVIRONMENT:-}" --mapping "$${MAPPING:-}"

.PHONY: migrate
migrate: $(READY) ## SOURCE=site.db ENVIRONMENT=dev [CONF='{…}'] [RESUME=run]: one run; exit 0 only when all is well
	@$(PYTHON) -m accession.cli migrate --source "$${SOURCE:-}" --environment "$${ENVIRONMENT:-}" \
	  --conf "$${CONF:-}" --resume "$${RESUME:-}" --mapping "$${MAPPING:-}"

.PHONY: rollback
rollback: $(READY) ## RUN=run ENVIRONMENT=dev [CONF='{…}']: undo a finished run
	@$(PYTHON) -m accession.cli rollback --run "$${RUN:-}" --environment "$${ENVIRONMENT:-}" --conf "$${CONF:-}" \
	  --mapping "$${MAPPING:-}"

.PHONY: audit
audit: $(READY) ## ENVIRONMENT=dev: verify the register and every artifact, list all runs
	@$(PYTHON) -m accession.cli audit --environment "$${ENVIRONMENT:-}" --mapping "$${MAPPING:-}"

# The stack in Docker: see docker-compose.yaml. WORKERS=3 runs the tasks on Celery workers.

COMPOSE := docker compose
ALL := --profile local-aws --profile celery

.env: | .env.example
	@umask 077; secret() { head -c "$$1" /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_'; }; \
	uid=$$(id -u); [ "$$uid" != 0 ] || uid=50000; \
	while IFS= read -r line; do \
	  case $$line in \
	    *=@secret@) line=$${line/@secret@/$$(secret 24)};; \
	    *=@fernet@) line=$${line/@fernet@/$$(secret 32)};; \
	    *=@key@) line=$${line/@key@/$$(secret 48)};; \
	  esac; \
	  printf '%s\n' "$${line/@uid@/$$uid}"; \
	done < .env.example > .env.new; mv .env.new .env; echo "Wrote .env with secrets of its own."

.PHONY: up
up: .env ## [WORKERS=3]: the stack in Docker, with a local AWS and a sample library, on 127.0.0.1
	@mkdir -p data; [ "$$(id -u)" != 0 ] || chown "$$(sed -n 's/^AIRFLOW_UID=//p' .env):0" data
	@if [ "$${WORKERS:-}" ]; then \
	  export EXECUTOR=CeleryExecutor COMPOSE_PROFILES="$$(sed -n 's/^COMPOSE_PROFILES=//p' .env),celery"; \
	fi; \
	$(COMPOSE) up --detach --build --wait --wait-timeout 600 $${WORKERS:+--scale worker=$$WORKERS} || { \
	  $(COMPOSE) $(ALL) ps --all; echo "The stack is not healthy: docker compose logs tells why." >&2; exit 1; }
	@echo "Airflow:  http://localhost:$$($(COMPOSE) port api-server 8080 | sed 's/.*://')"
	@echo "user:     $$(sed -n 's/^UI_USER=//p' .env)"
	@echo "password: sed -n 's/^UI_PASSWORD=//p' .env"

.PHONY: down
down: .env ## stop the stack; runs, tables and artifacts stay
	@$(COMPOSE) $(ALL) down --remove-orphans

.PHONY: clean
clean: .env ## stop the stack and remove its runs, tables, artifacts and image; .env and ./data stay
	@image=$$($(COMPOSE) config --images init | grep -- '-airflow$$'); \
	$(COMPOSE) $(ALL) down --remove-orphans --volumes; \
	docker image rm "$$image" >/dev/null 2>&1 || true

.PHONY: test-stack
test-stack: $(READY) ## the stack for real: a run, a restart, a killed worker (needs a Docker engine; 10 minutes)
	@$(PYTHON) -m pytest tests/stack -s -x -rs

# The bench has an environment of its own: a contender and the chart tool, which are none of our requirements.

BENCH := tests/bench/.venv/.ready

.PHONY: bench
bench: $(READY) $(BENCH) ## every claim of speed, measured side by side (20 minutes; QUICK=1: small numbers)
	@$(PYTHON) tests/bench/bench.py $(if $(QUICK),--quick)

$(BENCH): tests/bench/requirements.lock
	@$(BASE_PYTHON) -m venv --without-pip tests/bench/.venv
	@UV_COMPILE_BYTECODE=1 $(UV) pip sync --quiet --require-hashes --python tests/bench/.venv/bin/python $<
	@touch $@

.PHONY: ui
ui: $(READY) ## [PORT=8080]: Airflow with its UI and the audit page, without Docker, until Ctrl-C
	@$(PYTHON) -m accession.cli.ui --port "$${PORT:-8080}"

# Quality

# ARGS goes to pytest: `make test-unit ARGS=--lf` repeats what failed last.
PYTEST := $(PYTHON) -m pytest -p no:faker -p no:anyio
PARALLEL := -n logical --maxprocesses 4 --dist worksteal

.PHONY: test
test: $(READY) ## [ARGS=--lf]: unit, integration, fault and DAG tests, against a real MiniStack
	@$(PYTEST) $(PARALLEL) $(ARGS)

.PHONY: test-unit
test-unit: $(READY) ## [ARGS=--lf]: the unit tests alone (20 seconds)
	@$(PYTEST) tests/unit $(PARALLEL) $(ARGS)

.PHONY: coverage
coverage: $(READY) ## the unit tests with coverage; fails below the floor in pyproject.toml
	@HYPOTHESIS_PROFILE=quick $(PYTEST) tests/unit $(PARALLEL) --cov --cov-report=term $(ARGS)

.PHONY: test-slow
test-slow: $(READY) ## the long suites: hundreds of random histories against the model
	@HYPOTHESIS_PROFILE=thorough $(PYTEST) -m slow $(ARGS)

.PHONY: test-ui
test-ui: $(READY) ## a browser in Airflow's UI: trigger, approve, audit; makes docs/screenshots (6 minutes)
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq install --yes \
	  --no-install-recommends chromium >/dev/null; } || { echo "Chromium is missing: apt-get install chromium" >&2; exit 1; }
	@$(PYTHON) -m pytest tests/ui -m ui

.PHONY: test-paths
test-paths: $(READY) ## every way that a run can go, under a real scheduler (5 minutes)
	@$(PYTHON) -m pytest tests/dags -m paths

.PHONY: test-readme
test-readme: $(READY) ## every command of the README as it stands, a killed run and its resume too (3 minutes)
	@$(PYTHON) -m pytest tests/readme

.PHONY: check
check: $(READY) ## lint, format, types; that the generated documents are up to date
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@$(PYTHON) docs/generate.py --check

.PHONY: docs
docs: $(READY) ## write docs/params.md and docs/mapping.md from the models
	@$(PYTHON) docs/generate.py
