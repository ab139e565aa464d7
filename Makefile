# Every target sets up what it needs. A bare machine with Python 3.11 and pip is enough.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-fast check format bench clean

help:
	@echo "make demo       the whole loop on real data, with a report (about 3 minutes)"
	@echo "make test       the whole test suite"
	@echo "make test-fast  without the slow tests"
	@echo "make check      ruff, mypy, import-linter"
	@echo "make format     let ruff rewrite what it can"
	@echo "make bench      measure fieldloop side by side with its peers"
	@echo "make clean      remove the virtual environments"

$(READY): constraints.txt pyproject.toml sdk/pyproject.toml device/pyproject.toml cloud/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "fieldloop is developed on Python 3.11: install it or set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e sdk -e device -e 'cloud[deep,postgres]' --group dev
	@touch $@

demo: $(READY)
	@tools/broker/install.sh
	$(BIN)/fieldloop demo

test: $(READY)
	@tools/broker/install.sh
	$(BIN)/python -m pytest

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

check: $(READY)
	tools/check

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python tools/bench/run.py $(BENCH)

clean:
	rm -rf $(VENV) .venv-*
