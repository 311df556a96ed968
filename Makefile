# Needs only Python 3.10 to 3.13 (with venv) and a C++ compiler. Everything else goes into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)

# Files in the order of their folders: long ones come early, and no worker is left alone with one at the end.
# One thread each, of PyTorch and OpenBLAS too: beside another worker their threads wait for each other at full load, and
# training the demo's network takes four times the work.
TESTS := TVM_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
# Tests start hundreds of processes, which compile our modules anew where Python is told not to write down that it has.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint docs clean

demo: $(VENV)/.demo-ready  ## train a small network on digits, then optimize it for this CPU
	$(BIN)/tvm-mpq demo

test: $(VENV)/.dev-ready  ## tests and doctests, lint and types among them, but for those marked slow
	$(TESTS) -m "not slow"

test-slow: $(VENV)/.dev-ready  ## the others: more shapes and CPUs of the same properties, and jobs of a quarter of a minute
	$(TESTS) -m slow

lint: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q tests/unit/test_quality.py tests/unit/test_rooms.py tests/unit/test_docs.py

docs: $(VENV)/.docs-ready  ## the documentation site, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# One stamp per set of packages: made again when the declared dependencies change.
$(VENV)/.demo-ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev-ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo-ready

$(VENV)/.docs-ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
