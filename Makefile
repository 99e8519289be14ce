# Two commands need nothing but Python >= 3.11 and make:
#   make demo    baseline and LW-DNA side by side on real images
#   make test    the whole test suite
# `make matrix` runs the tests on the oldest and newest Python and torch that are at hand, and says which are not;
# TESTS="tests/core -x" runs a part. `make lint` checks style and types. Nothing is installed twice: a stamp in .venv
# remembers what was.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run with what is installed: EXTRAS=all,dev adds the optional packages whose tests are skipped without them.
EXTRAS ?= test

# pip reads these for the project and for the build environments of packages that come as source.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

comma := ,
stamp = $(VENV)/.installed$(if $(1),-$(subst $(comma),-,$(1)))

.PHONY: demo test matrix lint format clean

demo: $(call stamp,)
	$(BIN)/python -m classification.run

test: $(call stamp,$(EXTRAS))
	$(BIN)/python -m pytest -n 2 --dist loadfile

matrix:
	$(PYTHON) tests/matrix.py $(TESTS)

lint: $(call stamp,dev)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(call stamp,dev)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-matrix

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e ".[$(subst -,$(comma),$*)]"
	@touch $@ $(VENV)/.installed
