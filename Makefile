# Two commands matter: `make demo` runs the main job, `make test` proves the house.
# Both set themselves up (a .venv in the checkout) and are quick when run again.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test bench bench-ipc bench-quic sanitize model setup check format clean help

help:
	@echo "make demo    set up and run examples/flights"
	@echo "make test    set up, then types, style, import contracts, artefacts and all tests"
	@echo "make check   types, style and import contracts only"
	@echo "make format  let ruff mend what it can"
	@echo "make bench   the benchmarks (minutes; keep the machine quiet)"
	@echo "make bench-ipc  the ring of the ipc tier beside its peers (minutes; two quiet cores)"
	@echo "make bench-quic the tier between machines beside aioquic alone (minutes; two quiet cores)"
	@echo "make sanitize   the C core under the sanitizers of gcc, and ten million wake-ups"
	@echo "make model      the wake-up and the reclaim as models, by spin"
	@echo "make clean   remove the .venv and what builds and tests leave"

setup: $(STAMP)

# An interrupted set-up starts over: the stamp comes last, and a .venv without pip is made again.
$(STAMP): pyproject.toml setup.py shm/_core.pyx $(wildcard shm/*.h shm/*.pxi)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "flowbridge needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=python3.12, say" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@rm -rf flowbridge.egg-info          # one of an earlier version would hide the entry points of this one
	@echo "setting up $(VENV) (a minute or two the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/flowbridge run examples/flights/flow.yaml

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --cache-dir $(VENV)/.import_linter_cache
	@$(BIN)/mypy
	@$(BIN)/basedpyright --level error

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Hundreds of tests start processes: where images forbid bytecode, each one would compile the project again.
test: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP)
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

bench: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' \
	    --config-settings editable_mode=compat
	@$(BIN)/python benchmarks/flows.py
	@$(BIN)/python benchmarks/year.py
	@$(BIN)/python benchmarks/start.py
	@$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,mean,rounds

bench-ipc: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench-ipc]' \
	    --config-settings editable_mode=compat
	@$(BIN)/python benchmarks/ipc.py

bench-quic: $(STAMP)
	@$(BIN)/python benchmarks/quic.py

sanitize:
	@$(PYTHON) tests/native/sanitize.py --wake-rounds 10000000

model:
	@$(PYTHON) tests/native/model.py

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .benchmarks .coverage shm/_core.c shm/_core.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
