# What a fresh machine needs: Python 3.11 or newer with venv, and make.
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

.DEFAULT_GOAL := help
.PHONY: help demo test test-system bugs fuzz soak soak-prometheus soak-ha drill bench scaling attack check format clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## a simulated Invent API and the exporter on it, no account needed
	$(BIN)/python exporter.py demo

# Two at a time, because most tests wait for a program that they started; the order, longest first,
# is that of tests/conftest.py. Three at a time where nothing else is started: 195 s on 2 cores, 240 with two.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

test: $(VENV)/.dev ## the tests that need Python alone, under 4 minutes; some: make test ARGS="-k ledger"
	$(PYTEST) -n 3 -m "not system" $(ARGS)

test-system: $(VENV)/.dev ## images, charts, wheels, other servers, and proofs in their long form
	$(PYTEST) -m system --long $(ARGS)

bugs: $(VENV)/.dev ## each deliberate bug in a copy of the code: its test must fail
	$(BIN)/python -m tests.deliberate_bugs $(ARGS)

attack: $(VENV)/.dev ## hostile APIs and clients: what they cost others, against bounds: make attack ARGS="usage"
	$(BIN)/python -m bench.attack $(ARGS)

fuzz: $(VENV)/.dev ## made-up requests and pages for a minute: make fuzz ARGS="--seconds 3600"
	$(BIN)/python -m tests.fuzz $(ARGS)

soak: $(VENV)/.dev ## sequences of the state machine until one fails: make soak ARGS="--seconds 3600"
	$(BIN)/python -m tests.soak $(ARGS)

soak-prometheus: $(VENV)/.dev ## a real Prometheus, faults and kills for 30 minutes: what it stored and the truth
	$(BIN)/python -m tests.process.soak --report docs/soak-report.md $(ARGS)

soak-ha: $(VENV)/.dev ## replicas on a real PostgreSQL, killed, frozen, cut off: make soak-ha ARGS="--rounds 3"
	$(BIN)/python -m tests.ha.soak --report docs/soak-ha-report.md $(ARGS)

drill: $(VENV)/.runtime ## twelve incidents and a quiet day, 40 minutes: which alert comes when
	$(BIN)/python -m drill --report docs/drill-report.md $(ARGS)

bench: $(VENV)/.dev ## what it costs, against peers and floors: make bench ARGS="ledger"
	$(BIN)/python -m bench $(ARGS)

scaling: $(VENV)/.dev ## what a fleet takes, in virtual time: make scaling ARGS="--orgs 300 --runs-per-second 5"
	$(BIN)/python -m bench.scaling $(ARGS)

check: $(VENV)/.dev ## ruff, mypy, the import order and yamllint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/yamllint --strict .

format: $(VENV)/.dev ## let ruff format the code and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what make made
	rm -rf $(VENV) .venv-lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The package itself runs from the checkout: nothing to build, nothing to install again after an
# edit. The stamps make the second time free, until a lock file changes.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than Python 3.11: name another, as in make PYTHON=python3.13" >&2; exit 1; }
	@rm -rf $(VENV)
	@# Without ensurepip (Debian: python3-venv) a half-made one is left, which must not pass for whole.
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: requirements.lock | $(VENV)/bin/python
	$(PIP_INSTALL) -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(VENV)/bin/python
	$(PIP_INSTALL) -r requirements-dev.lock
	@# It holds all of requirements.lock too; a test sees to that.
	@touch $@ $(VENV)/.runtime

# Both lock files, from pyproject.toml: with the oldest Python that is supported, hashes of every
# wheel, and no index named. `make lock UPGRADE=--upgrade` takes the newest versions.
LOCK_PYTHON ?= python3.11
UPGRADE ?=
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" .venv-lock/bin/pip-compile --quiet $(UPGRADE) \
  --generate-hashes --no-annotate --strip-extras \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: lock
lock: ## write both lock files anew
	test -x .venv-lock/bin/pip-compile || \
	  { $(LOCK_PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet pip-tools==7.6.2; }
	$(COMPILE) --extra postgresql --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra dev --extra postgresql --constraint requirements.lock \
	  --output-file requirements-dev.lock pyproject.toml

.PHONY: pictures
pictures: $(VENV)/.dev ## draws every dashboard in Chromium, looks for flaws, writes docs/pictures
	$(BIN)/python -m grafana.pictures --docs $(ARGS)
