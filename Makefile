# make demo   a tracked run on real data, offline, in a fresh .venv
# make test   linter, types and tests; `make types` and `make suite` are the last two, alone
# make fuzz   10,000 damaged files for each of the parsers
# make crash  a small run is killed at each of its steps, and goes on; STRIDE=9: at each ninth
# make server a store for many on loopback: PostgreSQL and MLflow's server; FOLDER=... is where it is
#             kept without containers, PORT=5000, WORKERS=2, LOGIN=1: with names and passwords
# make docs   the documentation's pages, in build/docs/html: strict, and every notebook is run
# make bench  against the tutorials' loops, PyTorch and Lightning; QUICK=1: in 5 minutes
#
# PYTHON=/path/to/python chooses the interpreter of .venv; without it, the first that runs and is
# 3.10, 3.11 or 3.12 (a name on PATH may be a shim which does not run).

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# One more than workers: a test often waits, for a process, a server or a database.
TESTS_AT_ONCE ?= $(shell expr $(WORKERS) + 1)
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))

.PHONY: demo test types suite fuzz crash server docs bench clean

demo: $(VENV)/.installed-cpu
	$(BIN)/python -m gluonexp.run

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j2 types suite

types: $(VENV)/.installed-dev
	$(BIN)/mypy

suite: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(TESTS_AT_ONCE) --dist loadfile --durations=10

fuzz: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(WORKERS) -m fuzz --hypothesis-profile=fuzz --durations=0 --durations-min=1

crash: $(VENV)/.installed-dev
	$(BIN)/python -m tests.crash --jobs $(WORKERS) $(if $(STRIDE),--stride $(STRIDE))

server: $(VENV)/.installed-server
	$(BIN)/python -m experiments.server $(or $(FOLDER),mlruns/server) --workers $(WORKERS) \
	    $(if $(PORT),--port $(PORT)) $(if $(LOGIN),--login)

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -q -j 2 -E -W --keep-going -n -d build/docs/doctrees docs build/docs/html
	@echo "The pages are in build/docs/html/index.html"

bench: $(VENV)/.installed-dev
	$(BIN)/python experiments/throughput/bench.py $(if $(QUICK),--quick)

clean:
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.installed-cpu: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing gluonexp and what it needs into $(VENV) (a minute or two) ..."
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[cpu]'
	@touch $@

$(VENV)/.installed-server: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing gluonexp, a driver for PostgreSQL and MLflow's login into $(VENV) ..."
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[cpu,postgres]' 'mlflow[auth]'
	@touch $@ $(VENV)/.installed-cpu

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing gluonexp and what its pages are built with into $(VENV) (a minute or two) ..."
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[cpu,docs]'
	@touch $@ $(VENV)/.installed-cpu

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing gluonexp, what it needs and its tools into $(VENV) (a minute or two) ..."
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[cpu,dev]'
	@touch $@ $(VENV)/.installed-cpu

$(BIN)/pip:
	@for python in $(or $(PYTHON),python3.12 python3.11 python3.10 python3); do \
	    $$python -c '$(SUPPORTED)' 2>/dev/null || continue; \
	    echo "Making $(VENV) with $$($$python --version) ($$(command -v $$python)) ..."; \
	    $$python -m venv $(VENV) && exit; \
	done; \
	echo "gluonexp needs Python 3.10, 3.11 or 3.12; name one: make PYTHON=/path/to/python" >&2; \
	exit 1
