# Two commands matter: `make demo` runs the main job, `make test` proves the house.
# Both set themselves up (a .venv in the checkout) and are quick when run again.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test bench setup check clean help

help:
	@echo "make demo   set up and run examples/flights"
	@echo "make test   set up, then types, style, import contracts and all tests"
	@echo "make check  types, style and import contracts only"
	@echo "make bench  the benchmarks (minutes; keep the machine quiet)"
	@echo "make clean  remove the .venv"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (a minute or two the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/flowbridge run examples/flights/flow.yaml

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/basedpyright --level error
	@$(BIN)/lint-imports

test: $(STAMP)
	@$(BIN)/python -m pytest

bench: $(STAMP)
	@$(BIN)/python -m pytest benchmarks --benchmark-only

clean:
	rm -rf $(VENV)
