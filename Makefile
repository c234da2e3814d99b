# Everything a person does with this project starts here. `make help` explains it.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR ?= pachon-demo
SOURCES := $(shell find backbone deploy operators payloads services workflow -type f -not -name '*.pyc' 2>/dev/null)
# Trust what the machine trusts: observatories sit behind proxies with certificates of their own.
export UV_SYSTEM_CERTS ?= true

.DEFAULT_GOAL := help
.PHONY: help install dev demo test soak soak-engine soak-backbone lint bench up down status clean requirements

help: ## what there is to do
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make demo KEEP=1                              leaves the web UI running, prints its address and login"
	@echo "  make demo DATA=PATH INSTRUMENT=lowell42       the same DAGs on frames of a real camera"
	@echo "  make demo SITES=two                           raw at base, jobs at ncsa and ccin2p3, products at two access centres;"
	@echo "                                                STORE=folders POOLS=local without S3 servers and HTCondor"
	@echo "  make demo HOME_DIR=PATH                       where everything goes (default: $(HOME_DIR))"

install: $(VENV)/.installed ## the environment (pinned, hashed) and the project's wheel, under .venv

$(VENV)/.packages: requirements.txt deploy/bootstrap/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version`. Say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV): about 280 packages, one or two minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r deploy/bootstrap/uv.txt
	@$(BIN)/uv pip sync -q --require-hashes --compile-bytecode --python $(BIN)/python requirements.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.packages pyproject.toml README.md LICENSE $(SOURCES)
	@rm -rf dist && $(BIN)/uv build -q --wheel --no-build-isolation --python $(BIN)/python -o dist
	@$(BIN)/uv pip install -q --no-deps --reinstall --compile-bytecode --python $(BIN)/python dist/pachon-*.whl
	@touch $@

dev: $(VENV)/.packages ## the project editable in .venv, for work on it (make install puts the wheel back)
	@$(BIN)/uv pip install -q --no-deps --no-build-isolation --python $(BIN)/python -e .
	@rm -f $(VENV)/.installed

demo: install ## raw frames to alerts, tracklets and a small release, on a real Airflow, with a report
	@$(BIN)/pachon demo --home $(HOME_DIR) $(if $(KEEP),--keep) $(if $(DATA),--data $(DATA)) $(if $(INSTRUMENT),--instrument $(INSTRUMENT)) $(if $(SITES),--sites $(SITES)) $(if $(STORE),--store $(STORE)) $(if $(POOLS),--pools $(POOLS))

test: install ## all tests, against the wheel (those under Celery take minutes more: `make soak`, or ARGS="-m celery")
	@$(BIN)/pytest -q -n 3 --dist loadfile -m "not celery" $(ARGS)

soak: install ## kill -9 of everything in turn, KILLS times (default 10), and the same products all the same
	@PACHON_SOAK_KILLS=$(or $(KILLS),10) $(BIN)/pytest -q -m kill tests/integration $(ARGS)

soak-engine: install ## QUANTA (default 20000) with every fault, on two pools, by Airflow, while all sorts of things die; goes on in SOAK_HOME
	@$(BIN)/python benchmarks/soak_engine.py --home $(or $(SOAK_HOME),pachon-soak) --quanta $(or $(QUANTA),20000) --minutes $(or $(MINUTES),60)

soak-backbone: install ## the data backbone under kills: OBJECTS more (default 3000), MINUTES at most; counts add up in SOAK_HOME
	@OBJECTS=$(OBJECTS) MINUTES=$(MINUTES) SOAK_HOME=$(SOAK_HOME) $(BIN)/python benchmarks/bench_backbone_soak.py

lint: install ## format, lint, import directions, types: what pre-commit and CI run
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q . && $(BIN)/lint-imports --no-cache >/dev/null && $(BIN)/mypy && echo "lint: clean"

bench: install ## measures, and writes benchmarks/results/*.json and the README's table
	@for b in benchmarks/bench_*.py; do $(BIN)/python $$b || exit 1; done

up: install ## start PostgreSQL, Airflow and the engine for HOME_DIR
	@$(BIN)/pachon up --home $(HOME_DIR)

down: install ## stop what `make up` started
	@$(BIN)/pachon down --home $(HOME_DIR)

status: install ## what runs, and where
	@$(BIN)/pachon status --home $(HOME_DIR)

requirements: ## compile requirements.txt anew from pyproject.toml
	@$(BIN)/uv pip compile -q pyproject.toml --all-extras --group dev --generate-hashes --python-version 3.11 -o requirements.txt

clean: ## remove builds and caches (not .venv, not your data)
	@rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
