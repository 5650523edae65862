# The one front door: people and CI call the same targets. `make help` lists them.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Many images set this variable, which makes every `import airflow` three times slower.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPATH := $(CURDIR)/include

BASE_PYTHON ?= $(shell command -v python3.11 || echo python3)
PYTHON := .venv/bin/python
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .venv/uv/bin/uv)
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
READY := .venv/.ready

.PHONY: help
help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Setup: the locked and hashed requirements go into .venv. MiniStack pins an older botocore and has its own environment.

.PHONY: setup
setup: $(READY) ## install everything into .venv (a minute the first time, then instant)

$(READY): requirements.lock requirements-ministack.lock requirements-uv.lock
	@echo "Setting up .venv. This takes a minute, once."
	@# Debian's Python cannot install pip into an environment without python3-venv.
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
	printf 'faker~=40.54\norjson\n' | $(COMPILE) - -o requirements-image.lock
	echo cyclonedx-bom | $(COMPILE) - -o requirements-sbom.lock
	$(COMPILE) tests/bench/requirements.txt -o tests/bench/requirements.lock
	$(COMPILE) tests/packaging/requirements.txt -o tests/packaging/requirements.lock

# The main job. CONF is passed through the environment, where its quotes are safe. MAPPING uses another mapping, by its
# name or the path of its file.

.PHONY: demo
demo: $(READY) ## migrate a sample home library on an embedded local AWS, verify it, write the report
	@$(PYTHON) -m accession.cli demo

.PHONY: draft
draft: $(READY) ## SOURCE=x.db NAME=shop [NEW_IDS=1] [OUT=folder]: write a mapping of a database's tables, or compare yours
	@$(PYTHON) -m accession.cli draft --source "$${SOURCE:-}" --name "$${NAME:-}" --new-ids "$${NEW_IDS:-}" \
	  --out "$${OUT:-}"

.PHONY: deploy
deploy: $(READY) ## ENVIRONMENT=dev [MAPPING=name] [SOURCE=site.db] [CONF='{…}']: create or update tables, bucket and policies in your AWS
	@$(PYTHON) -m accession.cli deploy --environment "$${ENVIRONMENT:-}" --conf "$${CONF:-}" --mapping "$${MAPPING:-}" \
	  --source "$${SOURCE:-}"

.PHONY: template
template: $(READY) ## [MAPPING=name] [ENVIRONMENT=dev] [SOURCE=site.db]: print the CloudFormation template of the tables
	@$(PYTHON) -m accession.cli template --mapping "$${MAPPING:-}" --environment "$${ENVIRONMENT:-}" --source "$${SOURCE:-}"

.PHONY: migrate
migrate: $(READY) ## SOURCE=site.db ENVIRONMENT=dev [MAPPING=name] [CONF='{…}'] [RESUME=run]: migrate; exit 0 if all is well
	@$(PYTHON) -m accession.cli migrate --source "$${SOURCE:-}" --environment "$${ENVIRONMENT:-}" \
	  --conf "$${CONF:-}" --resume "$${RESUME:-}" --mapping "$${MAPPING:-}"

.PHONY: rollback
rollback: $(READY) ## RUN=run ENVIRONMENT=dev [MAPPING=name] [CONF='{…}']: undo a run
	@$(PYTHON) -m accession.cli rollback --run "$${RUN:-}" --environment "$${ENVIRONMENT:-}" --conf "$${CONF:-}" \
	  --mapping "$${MAPPING:-}"

.PHONY: audit
audit: $(READY) ## ENVIRONMENT=dev [MAPPING=name]: check the register and every artifact, list all runs
	@$(PYTHON) -m accession.cli audit --environment "$${ENVIRONMENT:-}" --mapping "$${MAPPING:-}"

.PHONY: lint-mapping
lint-mapping: $(READY) ## SOURCE=site.db [MAPPING=name]: check a mapping against a SQLite file, without AWS
	@$(PYTHON) -m accession.cli lint-mapping --source "$${SOURCE:-}" --mapping "$${MAPPING:-}"

# The stack in Docker: see docker-compose.yaml. WORKERS=3 runs the tasks on three Celery workers.

COMPOSE := docker compose
ALL := --profile local-aws --profile celery

EXPECT_DOCKER := $(COMPOSE) version >/dev/null 2>&1 || { echo "Docker is missing: install it, or use make ui." >&2; exit 1; }

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
	done < .env.example > .env.new; mv .env.new .env; echo "Wrote .env with new secrets."

.PHONY: up
up: .env ## [WORKERS=3]: start the stack in Docker on 127.0.0.1, with a local AWS and a sample library
	@$(EXPECT_DOCKER)
	@mkdir -p data; [ "$$(id -u)" != 0 ] || chown "$$(sed -n 's/^AIRFLOW_UID=//p' .env):0" data
	@if [ "$${WORKERS:-}" ]; then \
	  export EXECUTOR=CeleryExecutor COMPOSE_PROFILES="$$(sed -n 's/^COMPOSE_PROFILES=//p' .env),celery"; \
	fi; \
	$(COMPOSE) up --detach --build --wait --wait-timeout 600 $${WORKERS:+--scale worker=$$WORKERS} || { \
	  $(COMPOSE) $(ALL) ps --all; echo "The stack is not healthy: read docker compose logs." >&2; exit 1; }
	@echo "Airflow:  http://localhost:$$($(COMPOSE) port api-server 8080 | sed 's/.*://')"
	@echo "user:     $$(sed -n 's/^UI_USER=//p' .env)"
	@echo "password: sed -n 's/^UI_PASSWORD=//p' .env"

.PHONY: down
down: .env ## stop the stack; keep its runs, tables and artifacts
	@$(EXPECT_DOCKER)
	@$(COMPOSE) $(ALL) down --remove-orphans

.PHONY: clean
clean: .env ## stop the stack and remove its runs, tables, artifacts and image; keep .env and ./data
	@$(EXPECT_DOCKER)
	@image=$$($(COMPOSE) config --images init | grep -- '-airflow$$'); \
	$(COMPOSE) $(ALL) down --remove-orphans --volumes; \
	docker image rm "$$image" >/dev/null 2>&1 || true

.PHONY: test-stack
test-stack: $(READY) ## test the stack in Docker: a run, a restart, a killed worker (10 minutes)
	@$(PYTHON) -m pytest tests/stack -s -x -rs

# The bench has its own environment, with a competing tool and a chart library that nothing else needs.

BENCH := tests/bench/.venv/.ready

.PHONY: bench
bench: $(READY) $(BENCH) ## [QUICK=1]: measure every claim about speed, side by side (40 minutes)
	@$(PYTHON) tests/bench/bench.py $(if $(QUICK),--quick)

$(BENCH): tests/bench/requirements.lock
	@$(BASE_PYTHON) -m venv --without-pip tests/bench/.venv
	@UV_COMPILE_BYTECODE=1 $(UV) pip sync --quiet --require-hashes --python tests/bench/.venv/bin/python $<
	@touch $@

.PHONY: ui
ui: $(READY) ## [PORT=8080]: run Airflow with its UI and the audit pages, without Docker, until Ctrl-C
	@$(PYTHON) -m accession.cli.ui --port "$${PORT:-8080}"

# Releases. What is built is in dist/.

SBOM := .venv/sbom/.ready

$(SBOM): requirements-sbom.lock | $(READY)
	@$(BASE_PYTHON) -m venv --without-pip .venv/sbom
	@$(UV) pip sync --quiet --require-hashes --python .venv/sbom/bin/python $<
	@touch $@

.PHONY: sbom
sbom: $(SBOM) ## write dist/sbom.json: what the wheel installs, with versions and hashes, in CycloneDX
	@mkdir -p dist
	@$(COMPILE) requirements.txt --constraint requirements.lock -o .venv/sbom/requirements.lock
	@.venv/sbom/bin/python -W ignore -m cyclonedx_py requirements .venv/sbom/requirements.lock \
	  --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.json

.PHONY: release
release: $(SBOM) ## check that tag, version and CHANGELOG agree, then build wheel, plugins.zip, SBOM and digests into dist/
	@$(PYTHON) .ci/check_release.py
	@$(MAKE) --no-print-directory package
	@$(MAKE) --no-print-directory sbom
	@cd dist && sha256sum -- *.whl plugins.zip sbom.json > SHA256SUMS && cat SHA256SUMS

# Quality

# ARGS goes to pytest: `make test-unit ARGS=--lf` repeats what failed last.
PYTEST := $(PYTHON) -m pytest -p no:faker -p no:anyio
PARALLEL := -n logical --maxprocesses 4 --dist worksteal

.PHONY: test
test: $(READY) ## [ARGS=--lf]: run the unit, integration, fault and DAG tests against a real MiniStack
	@$(PYTEST) $(PARALLEL) $(ARGS)

# These take as long as hundreds of other unit tests; `make test` runs them, and `make check` compares the documents.
LONG := tests/unit/test_cloudformation.py::test_cfn_lint_has_nothing_to_say \
  tests/unit/test_stack_template.py::test_cfn_lint_has_nothing_to_say_of_made_templates \
  tests/unit/test_docs.py::test_the_generated_documents_are_up_to_date

.PHONY: test-unit
test-unit: $(READY) ## [ARGS=--lf]: run the unit tests alone (20 seconds)
	@$(PYTEST) tests/unit $(PARALLEL) $(addprefix --deselect ,$(LONG)) $(ARGS)

# SEED=n prints the trace of one seed. A mutant is the product without one of its guards.
SIMULATE := PYTHONPATH=include:plugins:tests $(PYTHON) -W ignore -m simulation

.PHONY: simulate
simulate: $(READY) ## [SEEDS=1000 | SEED=n | MUTANTS=1] [CLIMATE=calm]: play the product in simulated worlds, on all cores
	@$(SIMULATE) $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MUTANTS),--mutants) $(if $(CLIMATE),--climate $(CLIMATE))

.PHONY: coverage
coverage: $(READY) ## measure the unit tests' coverage; fail below the floor in pyproject.toml
	@HYPOTHESIS_PROFILE=quick $(PYTEST) tests/unit $(PARALLEL) --cov --cov-report=term $(ARGS)

.PHONY: test-slow
test-slow: $(READY) ## run the long tests: hundreds of random histories against a model, a million rejects
	@HYPOTHESIS_PROFILE=thorough $(PYTEST) -m slow $(ARGS)

.PHONY: explore
explore: $(READY) ## explore the model of ownership within its larger bounds (10 minutes)
	@$(PYTEST) tests/protocol -m slow $(ARGS)

.PHONY: test-ui
test-ui: $(READY) ## test Airflow's UI in a browser: trigger, approve, audit; makes docs/screenshots (6 minutes)
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq install --yes \
	  --no-install-recommends chromium >/dev/null; } || { echo "Chromium is missing: apt-get install chromium" >&2; exit 1; }
	@$(PYTHON) -m pytest tests/ui -m ui

.PHONY: test-paths
test-paths: $(READY) ## test every way that a run can end, under a real scheduler (5 minutes)
	@$(PYTHON) -m pytest tests/dags -m paths

.PHONY: package
package: $(READY) ## build into dist/: the wheel, and for Amazon MWAA plugins.zip and mwaa-requirements.txt
	@rm -rf dist
	@$(PYTHON) -m hatchling build --target wheel --directory dist
	@$(PYTHON) -m zipfile --create dist/plugins.zip dist/*.whl
	@echo "/usr/local/airflow/plugins/$$(basename dist/*.whl)" > dist/mwaa-requirements.txt

.PHONY: test-packaging
test-packaging: $(READY) ## install the package into an Airflow of its own, beside another DAG, and run it (4 minutes)
	@UV=$(UV) $(PYTHON) -m pytest tests/packaging -m packaging

# The oldest packages that requirements.txt admits, and the newest tools.
OTHER := .local/airflow-$(AIRFLOW)
WARN := -W ignore::DeprecationWarning -W ignore::FutureWarning

.PHONY: test-airflow
test-airflow: $(READY) ## AIRFLOW=3.3.0: run DAG, integration and path tests on that Airflow with the oldest packages we take
	@[ "$(AIRFLOW)" ] || { echo "AIRFLOW is missing: make test-airflow AIRFLOW=3.3.0." >&2; exit 2; }
	@$(BASE_PYTHON) -m venv --without-pip $(OTHER)
	@UV_COMPILE_BYTECODE=1 $(UV) pip install --quiet --resolution lowest-direct --python $(OTHER)/bin/python \
	  "apache-airflow==$(AIRFLOW)" -r requirements.txt
	@UV_COMPILE_BYTECODE=1 $(UV) pip install --quiet --python $(OTHER)/bin/python \
	  pytest pytest-cov pytest-timeout pytest-xdist hypothesis httpx faker apache-airflow-providers-openlineage
	@ln -sfn "$(CURDIR)/.venv/ministack/bin/ministack" $(OTHER)/bin/ministack
	@$(OTHER)/bin/python -m pytest $(WARN) -p no:faker -p no:anyio tests/dags tests/integration $(PARALLEL) $(ARGS)
	@$(OTHER)/bin/python -m pytest $(WARN) -p no:faker -p no:anyio tests/dags -m paths $(ARGS)

.PHONY: test-readme
test-readme: $(READY) ## run every command of the README, with a killed run and its resume (6 minutes)
	@$(PYTHON) -m pytest tests/readme

.PHONY: check
check: $(READY) ## check style, format, types, and that the generated documents are up to date
	@$(PYTHON) -m ruff check --no-cache
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@$(PYTHON) docs/generate.py --check

.PHONY: docs
docs: $(READY) ## write the generated parts of docs/ and SECURITY.md from the code
	@$(PYTHON) docs/generate.py
