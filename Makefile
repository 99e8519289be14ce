# Two commands need nothing but Python >= 3.11 and make:
#   make demo    baseline and LW-DNA side by side on real images
#   make test    the whole test suite
#   make torture damaged files and runs that are killed, by the thousand; it says how long it takes
# `make matrix` runs the tests on the oldest and newest Python and torch that are at hand, and says which are not;
# TESTS="tests/core -x" runs a part. `make lint` checks style and types, `make docs` builds the site, `make dist` the
# wheel and the sdist. Nothing is installed twice: a stamp in .venv remembers what was.

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

.PHONY: demo test matrix torture lint format docs dist clean

demo: $(call stamp,)
	$(BIN)/python -m classification.run

test: $(call stamp,$(EXTRAS))
	$(BIN)/python -m pytest -n 2 --dist loadfile

# WORDS="--seed 2 --kills 40" and the like; `python -m tests.torture --help` lists them.
torture: $(call stamp,$(EXTRAS))
	$(BIN)/python -m tests.torture $(WORDS)
matrix:
	$(PYTHON) tests/matrix.py $(TESTS)

lint: $(call stamp,dev)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=docs/making $(BIN)/mypy --explicit-package-bases docs/making/*.py

format: $(call stamp,dev)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Opens from the disk: site/index.html. Nothing is loaded from elsewhere while it is built or read.
docs: $(call stamp,docs)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "written: site/index.html"

# Wheel and sdist, installed into a fresh environment and tried outside of the checkout.
dist: $(call stamp,dev)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv dist/try/.venv
	dist/try/.venv/bin/pip install --quiet dist/*.whl
	cd dist/try && .venv/bin/lwdna --version && .venv/bin/python -c "import lwdna; lwdna.shrink" \
		&& .venv/bin/lwdna classification run --epochs 1 --train-limit 200 --no-progress
	rm -rf dist/try

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
