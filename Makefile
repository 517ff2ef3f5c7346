PYTHON ?= python3
BIN := .venv/bin
PACKAGES := .venv-packages

.DEFAULT_GOAL := help

.PHONY: help demo test test-slow test-cluster test-gpu test-display test-packages fuzz mutants format lint types bench clean

# Installed when the stamp is older than what it depends on. constraints.txt pins what was tested.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.venv/installed-mutants: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mutants]"
	touch $@

$(PACKAGES)/installed: pyproject.toml constraints.txt tests/packages/requirements.txt
	test -x $(PACKAGES)/bin/python || $(PYTHON) -m venv $(PACKAGES)
	$(PACKAGES)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(PACKAGES)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . pytest pytest-timeout pytest-xdist
	$(PACKAGES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/packages/requirements.txt
	touch $@

# Named exactly: the tested version. A build of it for CPUs that .venv already has satisfies the pin and is kept.
TORCH := $(shell grep '^torch==' constraints.txt)

help:                          ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: .venv/installed          ## train one agent on 57 games for three minutes
	$(BIN)/machina train --config demo

test: .venv/installed-dev      ## the fast tests, one file per core at a time: 10 minutes on two cores
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: .venv/installed-dev ## learning and soak tests, which take minutes
	$(BIN)/python -m pytest -m slow

test-cluster: .venv/installed-dev ## clusters of several Ray nodes on this machine, and their faults
	$(BIN)/python -m pytest -m cluster

test-gpu: .venv/installed-dev ## the learner on a GPU; needs one
	$(BIN)/python -m pytest -m gpu

test-display: .venv/installed-dev ## windows and real keys on a virtual display; needs Xvfb
	$(BIN)/python -m pytest -m display

test-packages: $(PACKAGES)/installed ## third-party environments through the command line, in .venv-packages
	$(PACKAGES)/bin/python -m pytest -n auto -m packages tests/packages

mutants: .venv/installed-mutants ## are wrong lines caught? 600 of them, each against the tests of its module
	$(BIN)/python tests/mutants/run_mutants.py

fuzz: .venv/installed-dev      ## edited files and option values, different ones at every call; FUZZ_EXAMPLES of each kind
	$(BIN)/python -m pytest -m fuzz -n auto

format: .venv/installed-dev    ## format the code, sort its imports
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

lint: .venv/installed-dev      ## ruff, formatting, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: .venv/installed-dev     ## mypy, strict
	$(BIN)/mypy machina tests benchmarks examples

bench: .venv/installed         ## speed of impala on pong against this machine's ceiling
	$(BIN)/python benchmarks/speed.py

clean:                         ## remove what was installed, built and cached
	rm -rf .venv $(PACKAGES) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
